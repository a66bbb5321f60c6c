//! What is looked at, touched and heard, and what reports a guest's crash.

use crate::field::{FieldError, word};
use crate::v1::VirtualMachineInstanceSpec;
use crate::words::words;

words! {
    /// The display's adapter.
    Video {
        /// Standard VGA.
        Vga = "vga",
        /// virtio-gpu.
        Virtio = "virtio",
        /// VGA without its past.
        Bochs = "bochs",
        /// Cirrus Logic GD5446.
        Cirrus = "cirrus",
        /// A piece of the guest's memory.
        Ramfb = "ramfb",
    }
}

words! {
    /// What an input is.
    InputType {
        /// A pointer with absolute coordinates.
        Tablet = "tablet",
    }
}

words! {
    /// Where an input is plugged in.
    InputBus {
        /// USB.
        Usb = "usb",
        /// virtio.
        Virtio = "virtio",
    }
}

words! {
    /// A sound card.
    SoundModel {
        /// Intel HD Audio.
        Ich9 = "ich9",
        /// AC'97.
        Ac97 = "ac97",
    }
}

words! {
    /// What the guest reports its panic by.
    PanicModel {
        /// pvpanic at a port, which every machine has.
        Isa = "isa",
        /// pvpanic on PCI.
        Pvpanic = "pvpanic",
        /// Hyper-V's registers.
        Hyperv = "hyperv",
    }
}

/// An input of a machine, a tablet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineInput<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it is; on USB by default.
    pub bus: InputBus,
}

/// Name of the input of a machine that is to have one and names none; KubeVirt's.
const DEFAULT_INPUT: &str = "default-0";

/// Inputs at most: the places that the board keeps for them on either bus.
const MAXIMUM_INPUTS: usize = 7;

/// The adapter of the machine's display, if it has one: VGA by default.
pub fn video(spec: &VirtualMachineInstanceSpec) -> Result<Option<Video>, FieldError> {
    let devices = &spec.domain.devices;
    if devices.autoattach_graphics_device == Some(false) {
        return Ok(None);
    }
    let kind = devices.video.as_ref().and_then(|it| it.r#type.as_deref());
    let kind = word(|| "domain.devices.video.type".to_owned(), kind)?;
    Ok(Some(kind.unwrap_or(Video::Vga)))
}

/// The inputs of the machine: those of `spec`, or one tablet if it wants one and names none.
pub fn inputs(spec: &VirtualMachineInstanceSpec) -> Result<Vec<MachineInput<'_>>, Vec<FieldError>> {
    let devices = &spec.domain.devices;
    if devices.inputs.is_empty() {
        let wanted = devices.autoattach_input_device == Some(true);
        let tablet = MachineInput {
            name: DEFAULT_INPUT,
            bus: InputBus::Usb,
        };
        return Ok(wanted.then_some(tablet).into_iter().collect());
    }
    let (mut inputs, mut errors) = (Vec::<MachineInput<'_>>::new(), Vec::new());
    if devices.inputs.len() > MAXIMUM_INPUTS {
        let message = format!("a machine has at most {MAXIMUM_INPUTS} inputs");
        errors.push(FieldError::new("domain.devices.inputs", message));
        return Err(errors);
    }
    for (index, input) in devices.inputs.iter().enumerate() {
        let at = |field: &str| format!("domain.devices.inputs[{index}].{field}");
        let name = input.name.as_str();
        let first = name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if !first || name.len() > 63 || !name.bytes().all(allowed) {
            let message = "name it, with letters, digits, dots, hyphens and underscores";
            errors.push(FieldError::new(at("name"), message));
        } else if inputs.iter().any(|other| other.name == name) {
            let message = format!("another input is called `{name}` too");
            errors.push(FieldError::new(at("name"), message));
        }
        let kind = word::<InputType>(|| at("type"), Some(&input.r#type));
        let bus = word(|| at("bus"), input.bus.as_deref());
        match (kind, bus) {
            (Ok(_), Ok(bus)) => inputs.push(MachineInput {
                name,
                bus: bus.unwrap_or(InputBus::Usb),
            }),
            (kind, bus) => errors.extend([kind.err(), bus.err()].into_iter().flatten()),
        }
    }
    if errors.is_empty() {
        Ok(inputs)
    } else {
        Err(errors)
    }
}

/// The machine's sound card, if it has one: an ICH9 by default.
pub fn sound(spec: &VirtualMachineInstanceSpec) -> Result<Option<SoundModel>, FieldError> {
    let Some(sound) = &spec.domain.devices.sound else {
        return Ok(None);
    };
    let path = || "domain.devices.sound.model".to_owned();
    let model = word(path, sound.model.as_deref())?;
    Ok(Some(model.unwrap_or(SoundModel::Ich9)))
}

/// What the guest can report its panic by: at a port by default, and always.
pub fn panic_devices(
    spec: &VirtualMachineInstanceSpec,
) -> Result<Vec<PanicModel>, Vec<FieldError>> {
    let mut models = vec![PanicModel::Isa];
    let mut errors = Vec::new();
    for (index, device) in spec.domain.devices.panic_devices.iter().enumerate() {
        let path = || format!("domain.devices.panicDevices[{index}].model");
        match word::<PanicModel>(path, device.model.as_deref()) {
            Ok(model) => models.extend(model),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(models)
    } else {
        Err(errors)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(devices: Value) -> VirtualMachineInstanceSpec {
        serde_json::from_value(json!({ "domain": { "devices": devices } })).unwrap()
    }

    #[test]
    fn a_machine_has_a_vga_and_no_sound_by_default() {
        let plain = spec(json!({}));
        assert_eq!(video(&plain), Ok(Some(Video::Vga)));
        assert_eq!((inputs(&plain), sound(&plain)), (Ok(vec![]), Ok(None)));
        assert_eq!(panic_devices(&plain), Ok(vec![PanicModel::Isa]));
        let blind = json!({ "autoattachGraphicsDevice": false, "video": { "type": "bochs" } });
        assert_eq!(video(&spec(blind)), Ok(None));
        let bochs = spec(json!({ "video": { "type": "bochs" }, "sound": { "name": "s" } }));
        assert_eq!(video(&bochs), Ok(Some(Video::Bochs)));
        assert_eq!(sound(&bochs), Ok(Some(SoundModel::Ich9)));
    }

    #[test]
    fn inputs_are_tablets_on_usb_by_default() {
        let wanted = spec(json!({ "autoattachInputDevice": true }));
        let tablet = |name, bus| MachineInput { name, bus };
        assert_eq!(
            inputs(&wanted),
            Ok(vec![tablet("default-0", InputBus::Usb)])
        );
        let named = spec(json!({ "autoattachInputDevice": true, "inputs": [
            { "name": "a", "type": "" }, { "name": "b", "type": "tablet", "bus": "virtio" },
        ] }));
        let expected = vec![tablet("a", InputBus::Usb), tablet("b", InputBus::Virtio)];
        assert_eq!(inputs(&named), Ok(expected));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let bad = spec(json!({
            "inputs": [
                { "name": "", "type": "tablet" }, { "name": "a", "type": "mouse" },
                { "name": "b", "type": "tablet", "bus": "ps2" }, { "name": "c", "type": "" },
                { "name": "c", "type": "" },
            ],
            "panicDevices": [{ "model": "smoke" }, {}],
            "video": { "type": "matrox" }, "sound": { "name": "s", "model": "adlib" },
        }));
        let paths: Vec<_> = inputs(&bad)
            .unwrap_err()
            .into_iter()
            .map(|it| it.path)
            .collect();
        let expected = ["[0].name", "[1].type", "[2].bus", "[4].name"];
        assert_eq!(
            paths,
            expected.map(|it| format!("domain.devices.inputs{it}"))
        );
        let path = panic_devices(&bad).unwrap_err().swap_remove(0).path;
        assert_eq!(path, "domain.devices.panicDevices[0].model");
        assert_eq!(video(&bad).unwrap_err().path, "domain.devices.video.type");
        assert_eq!(sound(&bad).unwrap_err().path, "domain.devices.sound.model");
    }
}
