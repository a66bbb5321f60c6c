//! What the pod reserves: the guest's memory and processors, and what QEMU needs for their size.
//!
//! QEMU's fixed need is the RuntimeClass's overhead; only what grows with the machine is here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use vm_api::machine::{guest_memory_bytes, topology};
use vm_api::v1::VirtualMachineInstanceSpec;
use vm_api::{FieldError, Quantity};

/// Thousandths of a CPU that are requested for each virtual processor when the spec says nothing:
/// a tenth, KubeVirt's ratio. Processors are shared; memory is not.
const MILLICORES_PER_VCPU: u64 = 100;

/// The guest's memory in bytes for each byte of page tables: eight bytes for a page of 4 KiB, once
/// in QEMU's own tables and once in the tables that the processor translates the guest's by.
const BYTES_PER_TABLE_BYTE: u64 = 4096 / 8 / 2;

/// Bytes for each virtual processor: its thread's stack and the kernel's part of it.
const BYTES_PER_VCPU: u64 = 1 << 20;

/// The resources of the machine container.
pub(super) fn of(spec: &VirtualMachineInstanceSpec) -> Result<ResourceRequirements, FieldError> {
    let guest = guest_memory_bytes(spec, None)?;
    let vcpus = u64::from(topology(spec, None)?.vcpus());
    let qemu = need(guest, vcpus);
    let given = spec.domain.resources.clone().unwrap_or_default();

    let mut requests = passed_on(&given.requests);
    let mut limits = passed_on(&given.limits);
    let bytes = |amounts: &BTreeMap<String, Quantity>, list: &str| {
        amounts
            .get("memory")
            .map(|quantity| {
                quantity.bytes().map_err(|error| {
                    FieldError::new(format!("domain.resources.{list}[memory]"), error)
                })
            })
            .transpose()
    };
    // A smaller request overcommits memory on purpose; a limit below the guest's memory would
    // only have the guest killed.
    let requested = bytes(&given.requests, "requests")?.unwrap_or(guest);
    let limit = bytes(&given.limits, "limits")?
        .unwrap_or(guest)
        .max(guest)
        .max(requested);
    requests.insert(
        "memory".to_owned(),
        quantity(requested.saturating_add(qemu)),
    );
    limits.insert("memory".to_owned(), quantity(limit.saturating_add(qemu)));
    let cpu_limited = limits.contains_key("cpu");
    if !requests.contains_key("cpu") && !cpu_limited {
        let millis = Quantity::from_millis(vcpus.saturating_mul(MILLICORES_PER_VCPU));
        requests.insert("cpu".to_owned(), millis.into());
    }
    Ok(ResourceRequirements {
        requests: Some(requests),
        limits: Some(limits),
        ..ResourceRequirements::default()
    })
}

/// Bytes that QEMU needs beside the guest's memory and its fixed part.
fn need(guest: u64, vcpus: u64) -> u64 {
    (guest / BYTES_PER_TABLE_BYTE).saturating_add(vcpus.saturating_mul(BYTES_PER_VCPU))
}

/// All but memory, which is computed.
fn passed_on(amounts: &BTreeMap<String, Quantity>) -> BTreeMap<String, ApiQuantity> {
    amounts
        .iter()
        .filter(|(name, _)| *name != "memory")
        .map(|(name, quantity)| (name.clone(), quantity.clone().into()))
        .collect()
}

fn quantity(bytes: u64) -> ApiQuantity {
    Quantity::from_bytes(bytes).into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn resources(domain: Value) -> Value {
        let spec = serde_json::from_value(json!({ "domain": domain })).unwrap();
        serde_json::to_value(of(&spec).unwrap()).unwrap()
    }

    #[test]
    fn memory_is_the_guests_and_qemus() {
        // 256 Mi, 1 Mi of page tables, 1 Mi for the processor.
        let memory = (258 << 20).to_string();
        let resources = resources(json!({ "memory": { "guest": "256Mi" } }));
        let bytes = |value: &Value| {
            let text: Quantity = serde_json::from_value(value.clone()).unwrap();
            text.bytes().unwrap().to_string()
        };
        assert_eq!(bytes(&resources["limits"]["memory"]), memory);
        assert_eq!(bytes(&resources["requests"]["memory"]), memory);
        assert_eq!(resources["requests"]["cpu"], "100m");
        assert!(resources["limits"].get("cpu").is_none());
    }

    #[test]
    fn processors_are_shared_unless_they_are_asked_for() {
        let shared = resources(json!({ "memory": { "guest": "1Gi" }, "cpu": { "cores": 4 } }));
        assert_eq!(shared["requests"]["cpu"], "400m");
        let limited = resources(json!({
            "memory": { "guest": "1Gi" },
            "resources": { "limits": { "cpu": "2" } },
        }));
        assert_eq!(limited["limits"]["cpu"], "2");
        assert!(
            limited["requests"].get("cpu").is_none(),
            "the API server takes the limit"
        );
    }

    #[test]
    fn a_request_below_the_guests_memory_overcommits_and_a_limit_does_not() {
        let resources = resources(json!({
            "memory": { "guest": "1Gi" },
            "resources": { "requests": { "memory": "512Mi" }, "limits": { "memory": "512Mi" } },
        }));
        let bytes = |value: &Value| {
            serde_json::from_value::<Quantity>(value.clone())
                .unwrap()
                .bytes()
                .unwrap()
        };
        assert!(bytes(&resources["requests"]["memory"]) < 1 << 30);
        assert!(bytes(&resources["limits"]["memory"]) > 1 << 30);
    }
}
