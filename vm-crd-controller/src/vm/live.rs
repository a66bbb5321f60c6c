//! What becomes of a changed template while the machine runs: taken over live, or with the next
//! start, in the cases and words of KubeVirt's `LiveUpdate`, its default since 1.6.
//!
//! Labels and annotations of the template are the next instance's.

use serde_json::{Map, Value, json};
use vm_api::machine::{guest_memory_bytes, hugepages, max_sockets, room_for_memory, topology};
use vm_api::v1::{VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceSpec};

use super::instance::{self, GENERATION_ANNOTATION};
use crate::conditions::{find, kind};

/// The template differs in a field that no running machine can take over.
const NOT_LIVE: &str = "a non-live-updatable field was changed in the template spec";

/// What becomes of the difference between a template and what runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Update {
    /// There is none.
    None,
    /// The instance takes it over: the merge patch that makes it.
    Live(Value),
    /// It needs a restart; why, in KubeVirt's words.
    Restart(String),
}

/// What becomes of the difference between `vm` and its `instance`.
pub(super) fn update(vm: &VirtualMachine, instance: &VirtualMachineInstance) -> Update {
    if instance::generation(instance) == vm.metadata.generation {
        return Update::None;
    }
    let wanted = instance::like(vm, instance).spec;
    if wanted == instance.spec {
        return Update::None;
    }
    match obstacle(&wanted, instance) {
        Some(why) => Update::Restart(why.to_owned()),
        None => patch(vm, &wanted, instance)
            .map_or_else(|| Update::Restart(NOT_LIVE.to_owned()), Update::Live),
    }
}

/// Why the running `instance` cannot become as `wanted`.
fn obstacle(
    wanted: &VirtualMachineInstanceSpec,
    instance: &VirtualMachineInstance,
) -> Option<&'static str> {
    let current = &instance.spec;
    if with_live_fields(current, wanted) != *wanted {
        return Some(NOT_LIVE);
    }
    processors(wanted, current).or_else(|| memory(wanted, instance))
}

/// `current` with those fields of `wanted` that may change.
fn with_live_fields(
    current: &VirtualMachineInstanceSpec,
    wanted: &VirtualMachineInstanceSpec,
) -> VirtualMachineInstanceSpec {
    let mut mixed = current.clone();
    mixed.node_selector.clone_from(&wanted.node_selector);
    mixed.affinity.clone_from(&wanted.affinity);
    mixed.tolerations.clone_from(&wanted.tolerations);
    if let (Some(cpu), Some(wanted)) = (&mut mixed.domain.cpu, &wanted.domain.cpu) {
        cpu.sockets = wanted.sockets;
    }
    if let (Some(memory), Some(wanted)) = (&mut mixed.domain.memory, &wanted.domain.memory)
        && wanted.guest.is_some()
    {
        memory.guest.clone_from(&wanted.guest);
    }
    mixed
}

fn processors(
    wanted: &VirtualMachineInstanceSpec,
    current: &VirtualMachineInstanceSpec,
) -> Option<&'static str> {
    let (Ok(now), Ok(next)) = (topology(current, None), topology(wanted, None)) else {
        return Some(NOT_LIVE);
    };
    if next == now {
        return None;
    }
    if next.sockets > max_sockets(current, now) {
        return Some(
            "CPU sockets updated in template spec to a value higher than what's available",
        );
    }
    if next.sockets < now.sockets {
        return Some("Reduction of CPU socket count requires a restart");
    }
    let queues = wanted.domain.devices.network_interface_multiqueue;
    (queues == Some(true)).then_some(
        "Changes to CPU sockets require a restart when NetworkInterfaceMultiQueue is enabled",
    )
}

fn memory(
    wanted: &VirtualMachineInstanceSpec,
    instance: &VirtualMachineInstance,
) -> Option<&'static str> {
    let current = &instance.spec;
    let (Ok(now), Ok(next)) = (
        guest_memory_bytes(current, None),
        guest_memory_bytes(wanted, None),
    ) else {
        return Some(NOT_LIVE);
    };
    let status = instance.status.as_ref();
    let failed = status.is_some_and(|status| {
        find(&status.conditions, kind::HOT_MEMORY_CHANGE).is_some_and(|it| it.status == "False")
    });
    // Back to what it has is the way out of a change that failed.
    if next == now {
        return None;
    }
    let at_boot = status
        .and_then(|status| status.memory.as_ref()?.guest_at_boot.as_ref()?.bytes().ok())
        .unwrap_or(now);
    if failed && next != at_boot {
        return Some(
            "memory updated in template spec. Memory-hotplug failed and is not available for this \
             VM configuration",
        );
    }
    let in_hugepages = hugepages(current).is_ok_and(|pages| pages.is_some());
    let most = room_for_memory(current, at_boot).unwrap_or(at_boot);
    if in_hugepages || most <= at_boot {
        return Some(
            "memory updated in template spec. Memory-hotplug is not available for this VM \
             configuration",
        );
    }
    if next < at_boot {
        return Some(
            "memory updated in template spec to a value lower than what the VM started with",
        );
    }
    (next > most)
        .then_some("memory updated in template spec to a value higher than what's available")
}

/// The merge patch that makes the spec of `instance` the one `wanted`.
fn patch(
    vm: &VirtualMachine,
    wanted: &VirtualMachineInstanceSpec,
    instance: &VirtualMachineInstance,
) -> Option<Value> {
    let old = serde_json::to_value(&instance.spec).ok()?;
    let new = serde_json::to_value(wanted).ok()?;
    let generation = vm.metadata.generation.unwrap_or_default().to_string();
    Some(json!({
        "metadata": { "annotations": { GENERATION_ANNOTATION: generation } },
        "spec": difference(&old, &new),
    }))
}

/// The merge patch (RFC 7386) that makes `new` of `old`.
fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return new.clone();
    };
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let mut patch: Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) => {
                patch.insert(key.clone(), difference(before, value));
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(generation: i64, spec: &Value) -> VirtualMachine {
        serde_json::from_value(json!({
            "metadata": { "name": "tl", "namespace": "default", "uid": "u",
                "generation": generation },
            "spec": { "runStrategy": "Always", "template": { "spec": spec } },
        }))
        .unwrap()
    }

    /// What becomes of a machine `before` that runs when its template turns to `after`.
    fn change(before: &Value, after: &Value, status: Value) -> Update {
        let mut instance = instance::of(&vm(1, before), false);
        instance.status = serde_json::from_value(status).unwrap();
        update(&vm(2, after), &instance)
    }

    fn sized(sockets: u32, memory: &str) -> Value {
        json!({ "domain": { "cpu": { "sockets": sockets }, "memory": { "guest": memory } } })
    }

    fn booted(memory: &str) -> Value {
        json!({ "phase": "Running",
            "memory": { "guestAtBoot": memory, "guestCurrent": memory } })
    }

    #[test]
    fn size_and_place_are_taken_over_live() {
        let before = sized(1, "2Gi");
        assert_eq!(change(&before, &before, booted("2Gi")), Update::None);
        let Update::Live(patch) = change(&before, &sized(3, "8Gi"), booted("2Gi")) else {
            panic!("it needs no restart");
        };
        let expected = json!({
            "metadata": { "annotations": { GENERATION_ANNOTATION: "2" } },
            "spec": { "domain": { "cpu": { "sockets": 3 }, "memory": { "guest": "8Gi" } } },
        });
        assert_eq!(patch, expected);

        let mut placed = before.clone();
        placed["nodeSelector"] = json!({ "disk": "fast", "zone": "a" });
        placed["tolerations"] = json!([{ "key": "a", "operator": "Exists" }]);
        let mut moved = before.clone();
        moved["nodeSelector"] = json!({ "zone": "b" });
        let Update::Live(patch) = change(&placed, &moved, booted("2Gi")) else {
            panic!("it needs no restart");
        };
        assert_eq!(
            patch["spec"]["nodeSelector"],
            json!({ "disk": null, "zone": "b" })
        );
        assert_eq!(patch["spec"].get("domain"), None);
    }

    #[test]
    fn what_needs_a_restart_says_why_as_kubevirt_does() {
        let two = sized(2, "2Gi");
        let mut queues = two.clone();
        queues["domain"]["devices"]["networkInterfaceMultiqueue"] = json!(true);
        let mut more_queues = queues.clone();
        more_queues["domain"]["cpu"]["sockets"] = json!(3);
        let mut renamed = two.clone();
        renamed["hostname"] = json!("other");
        let mut capped = two.clone();
        capped["domain"]["memory"]["maxGuest"] = json!("3Gi");
        let mut above = capped.clone();
        above["domain"]["memory"]["guest"] = json!("4Gi");
        let small = sized(1, "256Mi");
        let failed = json!({ "phase": "Running", "memory": { "guestAtBoot": "2Gi" },
            "conditions": [{ "type": "HotMemoryChange", "status": "False" }] });
        let table = [
            (&two, renamed, booted("2Gi"), NOT_LIVE),
            (&two, sized(9, "2Gi"), booted("2Gi"), "CPU sockets updated"),
            (
                &two,
                sized(1, "2Gi"),
                booted("2Gi"),
                "Reduction of CPU socket",
            ),
            (
                &queues,
                more_queues,
                booted("2Gi"),
                "Changes to CPU sockets",
            ),
            (
                &two,
                sized(2, "1Gi"),
                booted("2Gi"),
                "lower than what the VM started with",
            ),
            (
                &two,
                sized(2, "9Gi"),
                booted("2Gi"),
                "higher than what's available",
            ),
            (
                &capped,
                above,
                booted("2Gi"),
                "higher than what's available",
            ),
            (
                &small,
                sized(1, "384Mi"),
                booted("256Mi"),
                "not available for this VM",
            ),
            (&two, sized(2, "3Gi"), failed, "Memory-hotplug failed"),
        ];
        for (before, after, status, expected) in table {
            match change(before, &after, status) {
                Update::Restart(why) => assert!(why.contains(expected), "{why}: {after}"),
                other => panic!("{other:?}: {after}"),
            }
        }
    }

    #[test]
    fn labels_and_annotations_are_the_next_instances() {
        let spec = sized(1, "2Gi");
        let instance = instance::of(&vm(1, &spec), false);
        let mut labelled = vm(2, &spec);
        labelled.spec.template.metadata =
            serde_json::from_value(json!({ "labels": { "a": "b" } })).unwrap();
        assert_eq!(update(&labelled, &instance), Update::None);
    }
}
