//! Probes of a guest: one handler each, and numbers that kubelet takes.

use crate::field::FieldError;
use crate::v1::{Probe, VirtualMachineInstanceSpec};

pub(super) fn check(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let probes = [
        ("livenessProbe", &spec.liveness_probe),
        ("readinessProbe", &spec.readiness_probe),
    ];
    probes
        .into_iter()
        .filter_map(|(path, probe)| Some((path, probe.as_ref()?)))
        .flat_map(|(path, probe)| one(probe, path))
        .collect()
}

fn one(probe: &Probe, path: &str) -> Vec<FieldError> {
    let handlers = [
        probe.exec.is_some(),
        probe.guest_agent_ping.is_some(),
        probe.http_get.is_some(),
        probe.tcp_socket.is_some(),
    ];
    if handlers.iter().filter(|set| **set).count() != 1 {
        let message = "choose one of exec, guestAgentPing, httpGet and tcpSocket";
        return vec![FieldError::new(path, message)];
    }
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("periodSeconds", probe.period_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    let negative = numbers
        .into_iter()
        .filter(|(_, number)| number.is_some_and(|number| number < 0));
    let error = |(name, _)| FieldError::new(format!("{path}.{name}"), "it is below zero");
    negative.map(error).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_probe_has_one_handler() {
        let paths = |probe: Value| {
            let spec = json!({ "readinessProbe": probe });
            let errors = check(&serde_json::from_value(spec).unwrap());
            errors
                .into_iter()
                .map(|error| error.path)
                .collect::<Vec<_>>()
        };
        assert_eq!(paths(json!({ "periodSeconds": -1 })), ["readinessProbe"]);
        let two = json!({ "guestAgentPing": {}, "tcpSocket": { "port": 22 } });
        assert_eq!(paths(two), ["readinessProbe"]);
        let one = json!({ "guestAgentPing": {}, "periodSeconds": 3 });
        assert_eq!(paths(one), Vec::<String>::new());
        let negative = json!({ "guestAgentPing": {}, "periodSeconds": -1 });
        assert_eq!(paths(negative), ["readinessProbe.periodSeconds"]);
    }
}
