//! What the pod reserves: the guest's memory and processors, and what QEMU needs for their size.
//!
//! QEMU's fixed need is the RuntimeClass's overhead; only what grows with the machine is here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use vm_api::machine::{
    Beside, PageSize, dedicated, guest_memory_bytes, host_devices, hugepages, topology,
};
use vm_api::v1::VirtualMachineInstanceSpec;
use vm_api::{FieldError, Quantity};

/// Thousandths of a CPU that are requested for each virtual processor when the spec says nothing:
/// a tenth, KubeVirt's ratio. Processors are shared; memory is not.
pub const MILLICORES_PER_VCPU: u64 = 100;

/// Bytes of an ordinary page.
const PAGE: u64 = 4096;

/// Bytes of page tables for each page of the guest's memory: eight in QEMU's own tables, and eight in
/// the tables that the processor translates the guest's by.
const TABLE_BYTES_PER_PAGE: u64 = 16;

/// Bytes for each virtual processor: its thread's stack and the kernel's part of it.
const BYTES_PER_VCPU: u64 = 1 << 20;

/// Disks, interfaces and directories whose maps the RuntimeClass's overhead has room for.
const DEVICES_OF_OVERHEAD: u64 = 6;

/// Bytes for each one more. While firmware and kernel place the devices on PCI, QEMU makes a new map of
/// the guest's addresses in each step, 250 for a disk by its own trace, and frees the old ones later. A
/// machine with 7 disks and 8 empty ports was once killed at 140 MiB above what it usually has, on a busy
/// node and in that phase; that such maps were the reason is a conclusion, so this is an estimate.
const BYTES_PER_DEVICE: u64 = 16 << 20;

/// The resources of the machine container.
pub fn of(spec: &VirtualMachineInstanceSpec) -> Result<ResourceRequirements, FieldError> {
    let guest = guest_memory_bytes(spec, None)?;
    let vcpus = u64::from(topology(spec, None)?.vcpus());
    let pages = hugepages(spec)?;
    let guest_pages = guest / pages.map_or(PAGE, PageSize::bytes);
    let qemu = need(guest_pages, vcpus).saturating_add(Beside::of(spec).bytes(guest_pages));
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
    // Huge pages are a resource of their own, and the guest's memory no part of the ordinary.
    let (requested, limit) = match pages {
        None => (requested, limit),
        Some(page) => {
            for amounts in [&mut requests, &mut limits] {
                amounts.insert(page.resource().to_owned(), quantity(guest));
            }
            (requested.saturating_sub(guest), limit - guest)
        }
    };
    // Kubelet gives processors of their own only to pods of the class Guaranteed.
    let dedicated = dedicated(spec);
    let requested = if dedicated.is_some() {
        limit
    } else {
        requested
    };
    // Whoever wants it so leaves what QEMU needs to the limit alone; Guaranteed pods cannot.
    let overcommits = given.overcommit_guest_overhead == Some(true) && dedicated.is_none();
    let of_qemu = if overcommits { 0 } else { qemu };
    // Needed for seconds, if at all: it is reserved only where the request has to be the limit.
    let maps = maps(spec);
    let requested = match dedicated {
        Some(_) => requested.saturating_add(maps),
        None => requested,
    };
    requests.insert(
        "memory".to_owned(),
        quantity(requested.saturating_add(of_qemu)),
    );
    let limit = limit.saturating_add(qemu).saturating_add(maps);
    limits.insert("memory".to_owned(), quantity(limit));
    if let Some(dedicated) = dedicated {
        let vcpus = u32::try_from(vcpus).unwrap_or(u32::MAX);
        let processors = u64::from(dedicated.processors(vcpus));
        for amounts in [&mut requests, &mut limits] {
            let millis = Quantity::from_millis(processors.saturating_mul(1000));
            amounts.insert("cpu".to_owned(), millis.into());
        }
    }
    // What is wrong with them is found by the validation.
    let devices = host_devices(spec).unwrap_or_default();
    for device in &devices {
        let same = devices.iter().filter(|it| it.resource == device.resource);
        let count = ApiQuantity(same.count().to_string());
        for amounts in [&mut requests, &mut limits] {
            amounts.insert(device.resource.to_owned(), count.clone());
        }
    }
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

/// Bytes that QEMU itself needs beside the guest's memory and its fixed part.
fn need(guest_pages: u64, vcpus: u64) -> u64 {
    let tables = guest_pages.saturating_mul(TABLE_BYTES_PER_PAGE);
    tables.saturating_add(vcpus.saturating_mul(BYTES_PER_VCPU))
}

/// Bytes for the maps of the guest's addresses that many devices make.
fn maps(spec: &VirtualMachineInstanceSpec) -> u64 {
    let devices = &spec.domain.devices;
    let number = devices.disks.len() + devices.interfaces.len() + devices.filesystems.len();
    let more = (number as u64).saturating_sub(DEVICES_OF_OVERHEAD);
    more.saturating_mul(BYTES_PER_DEVICE)
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
    fn many_devices_raise_the_limit_and_the_request_only_where_it_has_to_be_equal() {
        let of = |disks: usize, cpu: Value| {
            let disk = |number: usize| json!({ "name": format!("d{number}"), "disk": {} });
            let disks: Vec<_> = (0..disks).map(disk).collect();
            let given = resources(json!({
                "memory": { "guest": "256Mi" }, "cpu": cpu, "devices": { "disks": disks },
            }));
            ["requests", "limits"].map(|list| {
                let text = given[list]["memory"].clone();
                let text: Quantity = serde_json::from_value(text).unwrap();
                text.bytes().unwrap() >> 20
            })
        };
        assert_eq!(of(6, Value::Null), [258, 258]);
        assert_eq!(of(8, Value::Null), [258, 290]);
        let own = json!({ "cores": 1, "dedicatedCpuPlacement": true });
        assert_eq!(of(8, own), [290, 290]);
    }

    #[test]
    fn what_qemu_needs_can_be_overcommitted() {
        let given = resources(json!({
            "memory": { "guest": "256Mi" }, "resources": { "overcommitGuestOverhead": true },
        }));
        assert_eq!(given["requests"]["memory"], "256Mi");
        assert_eq!(given["limits"]["memory"], "258Mi");
        let dedicated = resources(json!({
            "memory": { "guest": "256Mi" }, "resources": { "overcommitGuestOverhead": true },
            "cpu": { "cores": 1, "dedicatedCpuPlacement": true },
        }));
        assert_eq!(dedicated["requests"], dedicated["limits"]);
    }

    #[test]
    fn what_runs_beside_qemu_is_counted() {
        let with = |devices: Value| {
            let memory = json!({ "guest": "1Gi" });
            let given = resources(json!({ "memory": memory, "devices": devices }));
            let text: Quantity = serde_json::from_value(given["limits"]["memory"].clone()).unwrap();
            text.bytes().unwrap() >> 20
        };
        // 4 MiB of page tables, 1 for the processor.
        assert_eq!(with(json!({})), 1029);
        let share = |name: &str| json!({ "name": name, "virtiofs": {} });
        let shares = json!({ "filesystems": [share("a"), share("b")] });
        assert_eq!(with(shares), 1029 + 2 * (5 + 2));
        let devices = json!({ "gpus": [{ "name": "a", "deviceName": "x.com/gpu" }] });
        assert_eq!(with(devices), 1029 + 2);
    }

    #[test]
    fn dedicated_processors_are_guaranteed() {
        let cpu = |isolate: bool| {
            let cpu = json!({
                "cores": 2, "dedicatedCpuPlacement": true, "isolateEmulatorThread": isolate,
            });
            resources(json!({
                "cpu": cpu, "memory": { "guest": "1Gi" },
                "resources": { "requests": { "memory": "512Mi" } },
            }))
        };
        for (isolate, processors) in [(false, "2"), (true, "3")] {
            let given = cpu(isolate);
            assert_eq!(given["requests"], given["limits"], "{given}");
            assert_eq!(given["limits"]["cpu"], processors);
        }
    }

    #[test]
    fn devices_of_the_node_are_requested_from_their_plugins() {
        let device = |name: &str, resource: &str| json!({ "name": name, "deviceName": resource });
        let given = resources(json!({ "memory": { "guest": "1Gi" }, "devices": {
            "gpus": [device("a", "x.com/gpu"), device("b", "x.com/gpu")],
            "hostDevices": [device("c", "x.com/nic")],
        } }));
        for list in ["requests", "limits"] {
            assert_eq!(given[list]["x.com/gpu"], "2");
            assert_eq!(given[list]["x.com/nic"], "1");
        }
    }

    #[test]
    fn huge_pages_are_a_resource_beside_memory() {
        let pages = json!({ "guest": "1Gi", "hugepages": { "pageSize": "2Mi" } });
        let given = resources(json!({ "memory": pages }));
        // 8 KiB of page tables and 1 Mi for the processor.
        let memory = Quantity::from_bytes((1 << 20) + (8 << 10));
        for list in ["requests", "limits"] {
            assert_eq!(given[list]["hugepages-2Mi"], "1Gi");
            assert_eq!(given[list]["memory"], json!(memory));
        }
        let more = resources(json!({
            "memory": { "guest": "1Gi", "hugepages": { "pageSize": "1Gi" } },
            "resources": { "requests": { "memory": "1Gi" }, "limits": { "memory": "2Gi" } },
        }));
        assert_eq!(more["requests"]["hugepages-1Gi"], "1Gi");
        assert_eq!(more["limits"]["hugepages-1Gi"], "1Gi");
        let bytes = |list: &str| {
            let text: Quantity = serde_json::from_value(more[list]["memory"].clone()).unwrap();
            text.bytes().unwrap()
        };
        assert_eq!(bytes("limits") - bytes("requests"), 1 << 30);
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
