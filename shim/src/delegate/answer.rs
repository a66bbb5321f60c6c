//! What a shim's `start` answers, in all three forms: a plain address, JSON, or `BootstrapResult`.

use containerd_shim::bootstrap::BootstrapResult;
use containerd_shim::protos::protobuf::Message;
use serde::Deserialize;

/// Where the inner shim serves, and under which version of the Task service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Address of its socket, with its scheme.
    pub(super) address: String,
    /// Name of its service.
    pub(super) service: &'static str,
}

#[derive(Deserialize)]
struct Json {
    version: i32,
    address: String,
    #[serde(default)]
    protocol: String,
}

impl Answer {
    /// Understands `output`, or nothing if it is none of the three forms.
    pub(super) fn parse(output: &[u8]) -> Option<Self> {
        if let Ok(text) = std::str::from_utf8(output) {
            let text = text.trim();
            if text.starts_with("unix://") && !text.contains(char::is_control) {
                return Self::new(2, text, "");
            }
            if let Ok(json) = serde_json::from_str::<Json>(text) {
                return Self::new(json.version, &json.address, &json.protocol);
            }
        }
        let result = BootstrapResult::parse_from_bytes(output).ok()?;
        Self::new(result.version, &result.address, &result.protocol)
    }

    fn new(version: i32, address: &str, protocol: &str) -> Option<Self> {
        let service = match version {
            2 => "containerd.task.v2.Task",
            3 => "containerd.task.v3.Task",
            _ => return None,
        };
        let known = matches!(protocol, "" | "ttrpc") && address.starts_with("unix://");
        known.then(|| Self {
            address: address.to_owned(),
            service,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms() {
        let two = "containerd.task.v2.Task";
        let three = "containerd.task.v3.Task";
        let answer = |service| {
            Some(Answer {
                address: "unix:///run/s/x".to_owned(),
                service,
            })
        };
        assert_eq!(Answer::parse(b"unix:///run/s/x\n"), answer(two));
        let json = br#"{"version":3,"address":"unix:///run/s/x","protocol":"ttrpc"}"#;
        assert_eq!(Answer::parse(json), answer(three));
        let result = BootstrapResult {
            version: 3,
            address: "unix:///run/s/x".into(),
            protocol: "ttrpc".into(),
            ..BootstrapResult::default()
        };
        assert_eq!(
            Answer::parse(&result.write_to_bytes().unwrap()),
            answer(three)
        );
    }

    #[test]
    fn anything_else_is_no_answer() {
        for output in ["", "started", r#"{"version":4,"address":"unix:///x"}"#] {
            assert_eq!(Answer::parse(output.as_bytes()), None, "{output}");
        }
        let grpc = br#"{"version":3,"address":"unix:///x","protocol":"grpc"}"#;
        assert_eq!(Answer::parse(grpc), None);
    }
}
