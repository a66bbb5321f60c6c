//! What is written into a machine: what must stay the same over its restarts. The rest of its
//! template is filled in when an instance is made of it.

use super::{board, fill};
use crate::v1::{VirtualMachineInstanceSpec, VirtualMachineSpec};

/// What tells a machine from every other; what is absent is left open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// UUID of the firmware.
    pub uuid: Option<String>,
    /// Serial number of the firmware.
    pub serial: Option<String>,
}

impl Identity {
    /// Writes it into an instance, or into the template of one, that has none of its own.
    pub fn give(&self, spec: &mut VirtualMachineInstanceSpec) {
        let given = [&self.uuid, &self.serial];
        if given.iter().all(|text| text.is_none()) {
            return;
        }
        let firmware = spec.domain.firmware.get_or_insert_default();
        let fields = [&mut firmware.uuid, &mut firmware.serial];
        for (field, text) in fields.into_iter().zip(given) {
            if let Some(text) = text {
                fill(field, text);
            }
        }
    }
}

/// Writes the defaults into a machine; doing it again changes nothing.
pub fn machine(spec: &mut VirtualMachineSpec, identity: &Identity) {
    // A preference may say which board and architecture.
    let preferred = spec.preference.is_some();
    let Some(template) = &mut spec.template.spec else {
        return;
    };
    if !preferred {
        board(template);
    }
    template.domain.resources.get_or_insert_default();
    identity.give(template);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn filled(spec: Value) -> Value {
        let identity = Identity {
            uuid: Some("u".to_owned()),
            serial: Some("s".to_owned()),
        };
        let mut spec = serde_json::from_value(spec).unwrap();
        machine(&mut spec, &identity);
        let once = spec.clone();
        machine(&mut spec, &identity);
        assert_eq!(spec, once);
        serde_json::to_value(&spec.template.spec).unwrap()
    }

    #[test]
    fn a_machine_keeps_its_board_and_its_name() {
        let template = json!({ "spec": { "domain": { "firmware": { "uuid": "own" } } } });
        let spec = filled(json!({ "running": true, "template": template }));
        assert_eq!(spec["architecture"], "amd64");
        assert_eq!(
            spec["domain"],
            json!({
                "devices": {}, "machine": { "type": "q35" }, "resources": {},
                "firmware": { "uuid": "own", "serial": "s" },
            })
        );
    }

    #[test]
    fn a_preference_may_choose_the_board() {
        let spec = filled(json!({
            "running": true, "preference": { "name": "p" }, "template": { "spec": {} },
        }));
        assert_eq!(spec["architecture"], Value::Null);
        assert_eq!(spec["domain"]["machine"], Value::Null);
    }
}
