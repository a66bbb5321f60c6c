//! Processors of the node for a machine alone: kubelet gives them to pods of the class *Guaranteed*,
//! by whole numbers.

use std::collections::BTreeMap;

use crate::field::FieldError;
use crate::machine::dedicated;
use crate::quantity::Quantity;
use crate::v1::VirtualMachineInstanceSpec;

const PATH: &str = "domain.cpu.dedicatedCpuPlacement";

pub(super) fn check(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let cpu = spec.domain.cpu.clone().unwrap_or_default();
    if dedicated(spec).is_none() {
        let alone = cpu.isolate_emulator_thread == Some(true);
        let message = "it needs dedicatedCpuPlacement: true, or leave it out";
        let error = || FieldError::new("domain.cpu.isolateEmulatorThread", message);
        return alone.then(error).into_iter().collect();
    }
    let mut errors = Vec::new();
    let resources = spec.domain.resources.clone().unwrap_or_default();
    let millis = |amounts: &BTreeMap<String, Quantity>, name: &str| {
        // What cannot be read is named elsewhere.
        amounts.get(name).and_then(|amount| amount.millis().ok())
    };
    let requested = millis(&resources.requests, "cpu");
    let limited = millis(&resources.limits, "cpu");
    for (list, amount) in [("requests", requested), ("limits", limited)] {
        if amount.is_some_and(|amount| !amount.is_multiple_of(1000)) {
            let path = format!("domain.resources.{list}.cpu");
            let message = "dedicated processors are whole ones: use a whole number";
            errors.push(FieldError::new(path, message));
        }
    }
    if let (Some(requested), Some(limited)) = (requested, limited)
        && requested != limited
    {
        let message = "dedicated processors need equal CPU requests and limits: leave one out";
        errors.push(FieldError::new(PATH, message));
    }
    let amounts = [&resources.requests, &resources.limits].map(|list| millis(list, "memory"));
    if let [Some(requested), Some(limited)] = amounts
        && requested != limited
    {
        let message = "dedicated processors need equal memory requests and limits: leave one out";
        errors.push(FieldError::new("domain.resources.requests.memory", message));
    }
    let parts = [cpu.sockets, cpu.cores, cpu.threads].map(Option::unwrap_or_default);
    let vcpus = parts.iter().fold(1_u64, |all, part| {
        all.saturating_mul(u64::from((*part).max(1)))
    });
    let given = parts.iter().any(|part| *part > 0);
    if let Some(amount) = requested.or(limited)
        && given
        && amount != vcpus.saturating_mul(1000)
    {
        let message = format!(
            "the machine has {vcpus} virtual processors and another number in domain.resources: \
             leave the latter out"
        );
        errors.push(FieldError::new(PATH, message));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(cpu: Value, resources: Value) -> Vec<String> {
        let spec = json!({ "domain": { "cpu": cpu, "resources": resources } });
        let errors = check(&serde_json::from_value(spec).unwrap());
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn dedicated_processors_are_whole_and_guaranteed() {
        let dedicated = || json!({ "dedicatedCpuPlacement": true });
        let none: [&str; 0] = [];
        assert_eq!(paths(dedicated(), json!({})), none);
        let isolate = json!({ "isolateEmulatorThread": true });
        let isolated = ["domain.cpu.isolateEmulatorThread"];
        assert_eq!(paths(isolate, json!({})), isolated);
        for (resources, expected) in [
            (json!({ "limits": { "cpu": "2" } }), &none[..]),
            (
                json!({ "limits": { "cpu": "1500m" } }),
                &["domain.resources.limits.cpu"],
            ),
            (
                json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "2" } }),
                &[PATH],
            ),
            (
                json!({ "requests": { "memory": "1Gi" }, "limits": { "memory": "2Gi" } }),
                &["domain.resources.requests.memory"],
            ),
        ] {
            assert_eq!(paths(dedicated(), resources), expected);
        }
        let cores = json!({ "dedicatedCpuPlacement": true, "cores": 2 });
        let limits = |cpu: &str| json!({ "limits": { "cpu": cpu } });
        assert_eq!(paths(cores.clone(), limits("2")), none);
        assert_eq!(paths(cores, limits("3")), [PATH]);
    }
}
