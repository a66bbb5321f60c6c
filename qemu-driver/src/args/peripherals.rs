//! What is looked at, touched and heard.

use serde_json::json;

use super::Builder;
use crate::machine::{Display, Input, InputBus, Sound};
use crate::pci;

/// The display. Viewers are brought to it by the monitor: nothing listens.
pub(super) fn display(build: &mut Builder, display: Display) {
    build.option("-vnc", "none");
    let driver = match display {
        Display::Vga => "VGA",
        Display::Virtio => "virtio-vga",
        Display::Bochs => "bochs-display",
        Display::Cirrus => "cirrus-vga",
        // Not on PCI.
        Display::Ramfb => {
            build.device(&json!({"driver": "ramfb", "id": "display"}));
            return;
        }
    };
    build.device(&json!({
        "driver": driver, "id": "display", "bus": "pcie.0", "addr": pci::DISPLAY,
    }));
}

/// Inputs; those on USB have the first of its ports.
pub(super) fn inputs(build: &mut Builder, inputs: &[Input]) {
    let (mut port, mut function) = (1.., 0..);
    for input in inputs {
        let driver = match input.bus {
            InputBus::Usb => "usb-tablet",
            InputBus::Virtio => "virtio-tablet-pci",
        };
        let mut device = json!({"driver": driver, "id": format!("input-{}", input.name)});
        match input.bus {
            InputBus::Usb => {
                device["bus"] = "usb.0".into();
                device["port"] = port.next().map(|port: u32| port.to_string()).into();
            }
            InputBus::Virtio => {
                let function: Option<u32> = function.next();
                let function = function.unwrap_or_default();
                device["bus"] = "pcie.0".into();
                device["addr"] = format!("{}.{function}", pci::INPUT_SLOT).into();
                device["multifunction"] = (function == 0).into();
                device["disable-legacy"] = "on".into();
            }
        }
        build.device(&device);
    }
}

/// A sound card, which plays to nobody.
pub(super) fn sound(build: &mut Builder, sound: Sound) {
    build.json("-audiodev", &json!({"driver": "none", "id": "audio"}));
    match sound {
        Sound::Ich9 => {
            build.device(&json!({
                "driver": "ich9-intel-hda", "id": "sound", "bus": "pcie.0", "addr": pci::SOUND,
            }));
            build.device(&json!({
                "driver": "hda-duplex", "id": "sound-codec", "bus": "sound.0",
                "audiodev": "audio",
            }));
        }
        Sound::Ac97 => build.device(&json!({
            "driver": "AC97", "id": "sound", "bus": "pcie.0", "addr": pci::SOUND,
            "audiodev": "audio",
        })),
    }
}
