//! The small devices of a machine: what is looked at, touched and heard, and what reports a crash.

use super::Name;

/// What the guest sees as its display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Display {
    /// Standard VGA.
    Vga,
    /// virtio-gpu, which is a VGA until its driver is there.
    Virtio,
    /// The same as VGA without VGA's past: UEFI only.
    Bochs,
    /// Cirrus Logic GD5446.
    Cirrus,
    /// A piece of the guest's memory.
    Ramfb,
}

/// A pointer with absolute coordinates. Its QEMU device id is `input-<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its name, unique among inputs.
    pub name: Name,
    /// Where it is plugged in.
    pub bus: InputBus,
}

/// Where an input is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputBus {
    /// USB, which every guest knows.
    Usb,
    /// virtio.
    Virtio,
}

/// A sound card, which plays to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sound {
    /// Intel HD Audio of the ICH9.
    Ich9,
    /// Intel 82801AA, AC'97.
    Ac97,
}
