//! How far a machine can grow while it runs, written out where KubeVirt writes it: its clients read
//! from there what can be asked for.

use crate::machine::{GROWTH, guest_memory_bytes, max_sockets, topology};
use crate::quantity::Quantity;
use crate::v1::VirtualMachineInstanceSpec;

/// Bytes of memory from which a guest can get more, as in KubeVirt.
const MINIMUM_MEMORY: u64 = 1 << 30;

pub(super) fn fill(spec: &mut VirtualMachineInstanceSpec) {
    if spec.architecture.as_deref() != Some("arm64") {
        sockets(spec);
    }
    if spec.architecture.as_deref() != Some("s390x") {
        memory(spec);
    }
}

/// Only for a machine whose sockets are written.
fn sockets(spec: &mut VirtualMachineInstanceSpec) {
    let Ok(topology) = topology(spec, None) else {
        return;
    };
    let most = max_sockets(spec, topology);
    let Some(cpu) = &mut spec.domain.cpu else {
        return;
    };
    if cpu.sockets.unwrap_or_default() > 0 {
        cpu.max_sockets = Some(most);
    }
}

/// Only for a guest whose memory is written, and not in huge pages, which do not grow.
fn memory(spec: &mut VirtualMachineInstanceSpec) {
    let bytes = guest_memory_bytes(spec, None);
    let Some(memory) = &mut spec.domain.memory else {
        return;
    };
    let fixed = memory.guest.is_none() || memory.hugepages.is_some();
    if fixed || memory.max_guest.is_some() {
        return;
    }
    // An amount that cannot be read is refused elsewhere.
    if let Ok(bytes) = bytes
        && bytes >= MINIMUM_MEMORY
    {
        let most = bytes.saturating_mul(GROWTH.into());
        memory.max_guest = Some(Quantity::from_bytes(most));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn filled(spec: Value) -> Value {
        let mut spec = serde_json::from_value(spec).unwrap();
        fill(&mut spec);
        let spec: VirtualMachineInstanceSpec = spec;
        serde_json::to_value(&spec.domain).unwrap()
    }

    #[test]
    fn memory_grows_from_a_gibibyte_on() {
        let at = |memory: Value| {
            filled(json!({ "domain": { "memory": memory } }))["memory"]["maxGuest"].clone()
        };
        assert_eq!(at(json!({ "guest": "1Gi" })), "4Gi");
        assert_eq!(at(json!({ "guest": "1Gi", "maxGuest": "2Gi" })), "2Gi");
        assert_eq!(at(json!({ "guest": "1023Mi" })), Value::Null);
        assert_eq!(at(json!({ "guest": "-1" })), Value::Null);
        assert_eq!(at(json!({ "guest": "7Ei" })), "18446744073709551615");
        let pages = json!({ "guest": "2Gi", "hugepages": { "pageSize": "2Mi" } });
        assert_eq!(at(pages), Value::Null);
    }

    #[test]
    fn sockets_grow_where_they_are_written() {
        let at =
            |cpu: Value| filled(json!({ "domain": { "cpu": cpu } }))["cpu"]["maxSockets"].clone();
        assert_eq!(at(json!({ "sockets": 3 })), 12);
        assert_eq!(at(json!({ "sockets": 3, "maxSockets": 5 })), 5);
        assert_eq!(at(json!({ "cores": 2 })), Value::Null);
        assert_eq!(at(json!({ "sockets": u32::MAX })), u32::MAX);
        let arm = json!({ "architecture": "arm64", "domain": { "cpu": { "sockets": 1 } } });
        assert_eq!(filled(arm)["cpu"], json!({ "sockets": 1 }));
    }
}
