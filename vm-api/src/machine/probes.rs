//! When a guest can serve, and when it has to be started again.

use crate::field::FieldError;
use crate::v1::{Probe, VirtualMachineInstanceSpec};
use k8s_openapi::api::core::v1::{ExecAction, HTTPGetAction, TCPSocketAction};

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Check<'a> {
    /// Runs a command in the guest.
    Exec(&'a ExecAction),
    /// Asks the guest's agent.
    AgentPing,
    /// Sends the guest a request.
    HttpGet(&'a HTTPGetAction),
    /// Connects with the guest.
    TcpSocket(&'a TCPSocketAction),
}

/// What the probe at `path` does; exactly one thing.
pub fn check<'a>(probe: &'a Probe, path: &str) -> Result<Check<'a>, FieldError> {
    let all = [
        probe.exec.as_ref().map(Check::Exec),
        probe.guest_agent_ping.as_ref().map(|_| Check::AgentPing),
        probe.http_get.as_ref().map(Check::HttpGet),
        probe.tcp_socket.as_ref().map(Check::TcpSocket),
    ];
    let mut given = all.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(check), None) => Ok(check),
        _ => Err(FieldError::new(
            path,
            "set exactly one of exec, guestAgentPing, httpGet and tcpSocket",
        )),
    }
}

/// The probes that `spec` has, each with its path, and with what it does.
pub fn probes(
    spec: &VirtualMachineInstanceSpec,
) -> Vec<(&'static str, &Probe, Result<Check<'_>, FieldError>)> {
    let both = [
        ("readinessProbe", &spec.readiness_probe),
        ("livenessProbe", &spec.liveness_probe),
    ];
    let given = both
        .into_iter()
        .filter_map(|(path, probe)| Some((path, probe.as_deref()?)));
    given
        .map(|(path, probe)| (path, probe, check(probe, path)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_probe_does_one_thing() {
        let read = |probe| check(&serde_json::from_value(probe).unwrap(), "livenessProbe").is_ok();
        let probe: Probe = serde_json::from_value(json!({ "guestAgentPing": {} })).unwrap();
        assert_eq!(check(&probe, ""), Ok(Check::AgentPing));
        assert!(read(json!({ "exec": { "command": ["true"] } })));
        assert!(read(json!({ "httpGet": { "port": 80 } })));
        assert!(read(json!({ "tcpSocket": { "port": "ssh" } })));
        assert!(!read(json!({ "periodSeconds": 3 })));
        assert!(!read(
            json!({ "guestAgentPing": {}, "tcpSocket": { "port": 22 } })
        ));
    }
}
