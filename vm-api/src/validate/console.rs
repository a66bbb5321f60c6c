//! What a user of the machine sees and hears, and where it shows that it is broken: screen, sound,
//! input and panic devices.

use super::words::strict;
use crate::field::{FieldError, word};
use crate::machine::{InputBus, InputType, PanicModel, SoundModel, Video};
use crate::v1::VirtualMachineInstanceSpec;

pub(super) fn check(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let devices = &spec.domain.devices;
    let mut errors = Vec::new();
    for (index, input) in devices.inputs.iter().enumerate() {
        let path = |name: &str| format!("domain.devices.inputs[{index}].{name}");
        errors.extend(word::<InputType>(|| path("type"), Some(&input.r#type)).err());
        errors.extend(word::<InputBus>(|| path("bus"), input.bus.as_deref()).err());
    }
    if let Some(sound) = &devices.sound {
        if sound.name.is_empty() {
            let message = "name the sound card";
            errors.push(FieldError::new("domain.devices.sound.name", message));
        }
        let path = || "domain.devices.sound.model".to_owned();
        errors.extend(word::<SoundModel>(path, sound.model.as_deref()).err());
    }
    if let Some(video) = &devices.video {
        if devices.autoattach_graphics_device == Some(false) {
            let message = "the machine has no screen (autoattachGraphicsDevice): leave one out";
            errors.push(FieldError::new("domain.devices.video", message));
        }
        let path = || "domain.devices.video.type".to_owned();
        let text = video.r#type.as_deref().unwrap_or_default();
        errors.extend(strict::<Video>(path, Some(text)));
    }
    for (index, device) in devices.panic_devices.iter().enumerate() {
        let path = || format!("domain.devices.panicDevices[{index}].model");
        errors.extend(strict::<PanicModel>(path, device.model.as_deref()));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(devices: Value) -> Vec<String> {
        let spec = json!({ "domain": { "devices": devices } });
        let errors = check(&serde_json::from_value(spec).unwrap());
        errors
            .into_iter()
            .map(|error| error.path.replace("domain.devices.", ""))
            .collect()
    }

    #[test]
    fn devices_are_of_known_kinds() {
        for (devices, expected) in [
            (
                json!({ "inputs": [{ "name": "a", "type": "mouse", "bus": "sata" }] }),
                &["inputs[0].type", "inputs[0].bus"][..],
            ),
            (
                json!({ "inputs": [{ "name": "a", "type": "tablet", "bus": "virtio" }] }),
                &[],
            ),
            (
                json!({ "sound": { "name": "", "model": "virtio" } }),
                &["sound.name", "sound.model"],
            ),
            (json!({ "sound": { "name": "a" } }), &[]),
            (json!({ "video": {} }), &["video.type"]),
            (json!({ "video": { "type": "virtio" } }), &[]),
            (
                json!({ "video": { "type": "vga" }, "autoattachGraphicsDevice": false }),
                &["video"],
            ),
            (
                json!({ "panicDevices": [{}, { "model": "" }] }),
                &["panicDevices[1].model"],
            ),
        ] {
            assert_eq!(paths(devices.clone()), expected, "{devices}");
        }
    }
}
