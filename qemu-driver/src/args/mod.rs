//! A machine as QEMU's arguments.
//!
//! [`CommandLine`] relies on [`Machine`] having no invalid state and on QEMU 7.2 or newer. It
//! promises that the same machine gives the same arguments, that every option that takes a word
//! from outside takes it as JSON, as a checked word or as its whole value, and that QEMU opens nothing
//! by path but its own firmware, devices of the node (VFIO) and, anew, a kernel that it was given open.

mod board;
mod descriptors;
mod devices;
mod disks;
mod helpers;
mod host_devices;
mod nics;
mod peripherals;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;

use serde_json::Value;

use crate::channels::Channels;
use crate::machine::{DiskBus, Input, InputBus, Machine};
use descriptors::Descriptors;
pub(crate) use devices::{MEMORY_DEVICE, SERIAL_PORTS};

/// What QEMU is started with: arguments and descriptors.
#[derive(Debug)]
pub struct CommandLine {
    /// The arguments after the program's name.
    pub args: Vec<OsString>,
    /// The descriptors: the element `i` is number [`FIRST_DESCRIPTOR`]` + i` in QEMU. They are
    /// close-on-exec here; whoever starts QEMU places them (`runc --preserve-fds`, `dup2`), and
    /// closes its own copies afterwards, for console, monitor and agent end only when no copy of
    /// QEMU's ends is left.
    pub descriptors: Vec<OwnedFd>,
}

/// The number in QEMU of the first descriptor that is passed to it.
pub const FIRST_DESCRIPTOR: usize = 3;

impl CommandLine {
    /// The command line of `machine`, which starts paused (`-S`): nothing runs in it before
    /// [`Qmp::cont`](crate::Qmp::cont). Fails only if the sockets of [`Channels`] cannot be made.
    ///
    /// The process ends with code 0 when the guest powers off, with 1 when it panics (as told by
    /// its pvpanic device) or when the arguments cannot be served; a guest's reboot is no end.
    pub fn new(machine: Machine) -> io::Result<(Self, Channels)> {
        let (channels, ends) = Channels::new()?;
        let mut build = Builder::default();
        board::describe(&mut build, &machine);
        let has = |bus| machine.disks.iter().any(|disk| disk.bus() == bus);
        let scsi = has(DiskBus::Scsi);
        let of_usb = |input: &Input| input.bus == InputBus::Usb;
        let usb = has(DiskBus::Usb) || machine.inputs.iter().any(of_usb);
        let shared = machine.shares_memory();
        board::firmware(&mut build, machine.firmware);
        if let Some(kernel) = machine.kernel {
            board::kernel(&mut build, kernel);
        }
        devices::channels(&mut build, ends, machine.console);
        devices::randomness(&mut build);
        if machine.balloon {
            devices::balloon(&mut build, machine.hugepages.is_some());
        }
        devices::panic(&mut build, machine.panic_on_pci);
        if let Some(display) = machine.display {
            peripherals::display(&mut build, display);
        }
        if usb {
            disks::usb_controller(&mut build);
        }
        peripherals::inputs(&mut build, &machine.inputs);
        if let Some(sound) = machine.sound {
            peripherals::sound(&mut build, sound);
        }
        if machine.watchdog.is_some() {
            devices::watchdog(&mut build);
        }
        if let Some(vsock) = machine.vsock {
            devices::vsock(&mut build, vsock);
        }
        devices::memory_room(&mut build, machine.memory_room, shared);
        nics::describe(&mut build, machine.nics);
        if scsi {
            disks::scsi_controller(&mut build);
        }
        disks::io_threads(&mut build, machine.io_threads);
        disks::describe(&mut build, machine.disks);
        helpers::filesystems(&mut build, machine.filesystems);
        if let Some(control) = machine.tpm {
            helpers::tpm(&mut build, control.into());
        }
        host_devices::describe(&mut build, machine.host_devices);
        Ok((
            Self {
                args: build.args,
                descriptors: build.descriptors.into_passed(),
            },
            channels,
        ))
    }
}

/// Arguments and descriptors on their way to be a [`CommandLine`].
#[derive(Default)]
struct Builder {
    args: Vec<OsString>,
    descriptors: Descriptors,
}

impl Builder {
    fn flag(&mut self, flag: &'static str) {
        self.args.push(flag.into());
    }

    fn option(&mut self, flag: &'static str, value: impl Into<OsString>) {
        self.flag(flag);
        self.args.push(value.into());
    }

    fn json(&mut self, flag: &'static str, value: &Value) {
        self.option(flag, value.to_string());
    }

    fn device(&mut self, device: &Value) {
        self.json("-device", device);
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
