//! What a guest is told by DHCP beside what its pod has.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::field::FieldError;
use crate::v1::DhcpOptions;

/// Options that a network may use as it likes (RFC 3942), but for the last, which ends the list.
pub(crate) const PRIVATE_OPTIONS: std::ops::RangeInclusive<i32> = 224..=254;

/// Bytes of one option at most (RFC 2132, 2).
const LONGEST: usize = 255;

/// Bytes of all of them at most: clients take messages of 576 bytes, and what the pod has comes first.
const LONGEST_IN_ALL: usize = 1024;

/// What a guest is told by DHCP beside what its pod has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineDhcp {
    /// The file that it boots, option 67.
    pub boot_file: Option<String>,
    /// The server that has the file, option 66; where it is an address, the next server as well.
    pub boot_server: Option<String>,
    /// Time servers, option 42.
    pub time_servers: Vec<Ipv4Addr>,
    /// Private options, 224 to 254.
    pub private: BTreeMap<u8, String>,
}

/// Reads the options at `path`.
pub(super) fn read(
    options: Option<&DhcpOptions>,
    path: &str,
) -> Result<MachineDhcp, Vec<FieldError>> {
    let Some(options) = options else {
        return Ok(MachineDhcp::default());
    };
    let mut errors = Vec::new();
    let mut dhcp = MachineDhcp {
        boot_file: told(options.boot_file_name.as_ref()),
        boot_server: told(options.tftp_server_name.as_ref()),
        ..MachineDhcp::default()
    };
    for (name, text) in [
        ("bootFileName", &dhcp.boot_file),
        ("tftpServerName", &dhcp.boot_server),
    ] {
        errors.extend(wrong(text.as_deref(), || format!("{path}.{name}")));
    }
    for (index, server) in options.ntp_servers.iter().enumerate() {
        match server.parse() {
            Ok(server) => dhcp.time_servers.push(server),
            Err(_) => errors.push(FieldError::new(
                format!("{path}.ntpServers[{index}]"),
                format!("`{server}` is not an IPv4 address"),
            )),
        }
    }
    for (index, option) in options.private_options.iter().enumerate() {
        let at = |field: &str| format!("{path}.privateOptions[{index}].{field}");
        let number = u8::try_from(option.option).ok();
        match number.filter(|_| PRIVATE_OPTIONS.contains(&option.option)) {
            Some(number) if dhcp.private.contains_key(&number) => {
                let message = format!("the option {number} is there more than once");
                errors.push(FieldError::new(at("option"), message));
            }
            Some(number) => {
                errors.extend(wrong(Some(&option.value), || at("value")));
                dhcp.private.insert(number, option.value.clone());
            }
            None => errors.push(FieldError::new(
                at("option"),
                format!("{} is no private option: use 224 to 254", option.option),
            )),
        }
    }
    let texts = [&dhcp.boot_file, &dhcp.boot_server].into_iter().flatten();
    let texts = texts
        .chain(dhcp.private.values())
        .map(|text| text.len() + 2);
    if texts.sum::<usize>() + 4 * dhcp.time_servers.len() > LONGEST_IN_ALL {
        let message = format!("all options together have more than {LONGEST_IN_ALL} bytes");
        errors.push(FieldError::new(path, message));
    }
    if errors.is_empty() {
        Ok(dhcp)
    } else {
        Err(errors)
    }
}

fn told(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}

fn wrong(text: Option<&str>, path: impl FnOnce() -> String) -> Option<FieldError> {
    let text = text?;
    let fits = (1..=LONGEST).contains(&text.len()) && !text.contains(char::is_control);
    let message = format!("use 1 to {LONGEST} bytes without control characters");
    (!fits).then(|| FieldError::new(path(), message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(options: Value) -> Result<MachineDhcp, Vec<String>> {
        let options: DhcpOptions = serde_json::from_value(options).unwrap();
        let read = super::read(Some(&options), "d");
        read.map_err(|errors| errors.into_iter().map(|error| error.path).collect())
    }

    #[test]
    fn options_are_what_a_client_can_read() {
        let dhcp = read(json!({
            "bootFileName": "pxelinux.0", "tftpServerName": "boot.example", "ntpServers": ["192.0.2.1"],
            "privateOptions": [{ "option": 240, "value": "a b" }],
        }));
        let expected = MachineDhcp {
            boot_file: Some("pxelinux.0".into()),
            boot_server: Some("boot.example".into()),
            time_servers: vec![Ipv4Addr::new(192, 0, 2, 1)],
            private: [(240, "a b".to_owned())].into(),
        };
        assert_eq!(dhcp, Ok(expected));
        let private = |option: i32, value: &str| json!({ "option": option, "value": value });
        for (options, path) in [
            (json!({ "bootFileName": "a\nb" }), "d.bootFileName"),
            (
                json!({ "tftpServerName": "x".repeat(256) }),
                "d.tftpServerName",
            ),
            (
                json!({ "ntpServers": ["time.example.com"] }),
                "d.ntpServers[0]",
            ),
            (
                json!({ "privateOptions": [private(223, "a")] }),
                "d.privateOptions[0].option",
            ),
            (
                json!({ "privateOptions": [private(255, "a")] }),
                "d.privateOptions[0].option",
            ),
            (
                json!({ "privateOptions": [private(224, "")] }),
                "d.privateOptions[0].value",
            ),
            (
                json!({ "privateOptions": [private(224, "a"), private(224, "b")] }),
                "d.privateOptions[1].option",
            ),
            (json!({ "ntpServers": vec!["192.0.2.1"; 300] }), "d"),
        ] {
            assert_eq!(read(options), Err(vec![path.to_owned()]));
        }
    }
}
