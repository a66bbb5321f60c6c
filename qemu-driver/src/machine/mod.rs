//! The machine: a validated description of one guest that owns a descriptor for everything QEMU
//! opens.
//!
//! Its parts check themselves when they are made, and [`Machine`] checks what concerns several of
//! them (unique names, boot order, slots) as they are added: a `Machine` that exists can be turned
//! into arguments without further questions. Device state follows from it alone.

mod clock;
mod cpu;
mod disk;
mod disk_options;
mod error;
mod features;
mod file;
mod filesystem;
mod firmware;
mod host_device;
mod hugepage;
mod identity;
mod kernel;
mod name;
mod nic;
mod peripheral;
mod vsock;
mod watchdog;

use std::num::NonZeroU32;
use std::os::unix::net::UnixStream;

pub use clock::{Clock, ClockBase};
pub use cpu::{Cpu, CpuModel, CpuWord, MAX_VCPUS, MEMORY_BLOCK, Memory};
pub use disk::{
    Cache, Disk, DiskBus, DiskDevice, DiskImage, Format, Io, MAX_SATA_DISKS, MAX_USB_DISKS,
};
pub use disk_options::{BlockSizes, ErrorPolicy};
pub use error::MachineError;
pub use features::{Enlightenment, Features, Hyperv, Vendor};
pub(crate) use file::Access;
pub use file::DiskFile;
pub use filesystem::Filesystem;
pub use firmware::{Firmware, Uefi};
pub use host_device::{HostDevice, PciAddress};
pub use hugepage::HugePage;
pub use identity::{Chassis, FirmwareText};
pub use kernel::Kernel;
pub(crate) use name::disk_node;
pub use name::{MachineType, Name};
pub use nic::{MAX_ACPI_INDEX, MAX_QUEUES, MacAddress, Nic, NicModel};
pub use peripheral::{Display, Input, InputBus, Sound};
pub use uuid::Uuid;
pub use vsock::{FIRST_CID, LAST_CID, Vsock};
pub use watchdog::WatchdogAction;

use crate::pci;
pub use crate::pci::FREE_SLOTS;

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor, by `/dev/kvm`.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

/// A validated description of one guest.
#[derive(Debug)]
pub struct Machine {
    pub(crate) name: Name,
    pub(crate) uuid: Uuid,
    pub(crate) machine_type: MachineType,
    pub(crate) accelerator: Accelerator,
    pub(crate) cpu: Cpu,
    pub(crate) memory: Memory,
    /// What the memory is made of, if not of ordinary pages.
    pub(crate) hugepages: Option<HugePage>,
    /// Bytes that can be added while the machine runs.
    pub(crate) memory_room: u64,
    pub(crate) firmware: Firmware,
    /// What the firmware starts instead of a disk.
    pub(crate) kernel: Option<Kernel>,
    /// Threads that do the input and output of disks.
    pub(crate) io_threads: usize,
    /// SeaBIOS speaks on the first serial port.
    pub(crate) firmware_on_serial: bool,
    pub(crate) serial: Option<FirmwareText>,
    pub(crate) chassis: Chassis,
    pub(crate) clock: Clock,
    pub(crate) features: Features,
    /// The first serial port is there.
    pub(crate) console: bool,
    pub(crate) balloon: bool,
    /// Places where devices can be plugged in while the machine runs.
    /// A device on PCI by which the guest reports its panic, beside the one on ISA.
    pub(crate) panic_on_pci: bool,
    pub(crate) display: Option<Display>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) sound: Option<Sound>,
    pub(crate) watchdog: Option<WatchdogAction>,
    pub(crate) vsock: Option<Vsock>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) nics: Vec<Nic>,
    pub(crate) filesystems: Vec<Filesystem>,
    pub(crate) tpm: Option<UnixStream>,
    pub(crate) host_devices: Vec<HostDevice>,
}

impl Machine {
    /// A machine with SeaBIOS and without disks or network. Every machine has a serial console, a
    /// port for the guest agent, a source of randomness, a balloon that returns freed memory, and
    /// a device by which a guest reports its panic.
    pub fn new(
        name: Name,
        uuid: Uuid,
        machine_type: MachineType,
        accelerator: Accelerator,
        cpu: Cpu,
        memory: Memory,
    ) -> Self {
        Self {
            name,
            uuid,
            machine_type,
            accelerator,
            cpu,
            memory,
            hugepages: None,
            memory_room: 0,
            firmware: Firmware::Bios,
            kernel: None,
            io_threads: 0,
            firmware_on_serial: false,
            serial: None,
            chassis: Chassis::default(),
            clock: Clock::default(),
            features: Features::default(),
            console: true,
            balloon: true,
            panic_on_pci: false,
            display: None,
            inputs: Vec::new(),
            sound: None,
            watchdog: None,
            vsock: None,
            disks: Vec::new(),
            nics: Vec::new(),
            filesystems: Vec::new(),
            tpm: None,
            host_devices: Vec::new(),
        }
    }

    /// Lets the guest's memory grow while it runs, to `most` bytes or a little less.
    pub fn with_max_memory(mut self, most: u64) -> Self {
        if self.hugepages.is_none() {
            self.memory_room = cpu::room(self.memory, most);
        }
        self
    }

    /// Makes the guest's memory of huge pages, all of which QEMU takes before the guest starts. It is
    /// a multiple of their size, and cannot grow or shrink while the machine runs.
    pub fn with_hugepages(mut self, page: HugePage) -> Result<Self, MachineError> {
        let bytes = self.memory.bytes();
        if !bytes.is_multiple_of(page.bytes()) {
            let page = page.bytes();
            return Err(MachineError::NotWholePages { bytes, page });
        }
        self.hugepages = Some(page);
        self.memory_room = 0;
        Ok(self)
    }

    /// The firmware that the guest starts from.
    pub fn with_firmware(mut self, firmware: Firmware) -> Self {
        self.firmware = firmware;
        self
    }

    /// The kernel that the firmware starts, whatever the disks hold.
    pub fn with_kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = Some(kernel);
        self
    }

    /// Gives the machine so many threads that do the input and output of disks
    /// ([`Disk::with_io_thread`]). They are there before the disks.
    pub fn with_io_threads(mut self, count: usize) -> Self {
        self.io_threads = count;
        self
    }

    /// The serial number of the machine as a whole, which the guest reads from its firmware.
    pub fn with_serial(mut self, serial: FirmwareText) -> Self {
        self.serial = Some(serial);
        self
    }

    /// The case that the machine is in, which the guest reads from its firmware.
    pub fn with_chassis(mut self, chassis: Chassis) -> Self {
        self.chassis = chassis;
        self
    }

    /// SeaBIOS tells on the first serial port what it does.
    pub fn with_firmware_on_serial(mut self) -> Self {
        self.firmware_on_serial = true;
        self
    }

    /// What the clock shows, and which timers tick.
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Features of the board and of the hypervisor.
    pub fn with_features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// Takes the first serial port away: nothing is ever read from the console then.
    pub fn without_console(mut self) -> Self {
        self.console = false;
        self
    }

    /// Takes the balloon away: the guest returns no memory.
    pub fn without_balloon(mut self) -> Self {
        self.balloon = false;
        self
    }

    /// Gives the machine a second device by which the guest can report its panic, on PCI.
    pub fn with_panic_on_pci(mut self) -> Self {
        self.panic_on_pci = true;
        self
    }

    /// Gives the machine a display, which can be looked at through the monitor.
    pub fn with_display(mut self, display: Display) -> Self {
        self.display = Some(display);
        self
    }

    /// Gives the machine a sound card.
    pub fn with_sound(mut self, sound: Sound) -> Self {
        self.sound = Some(sound);
        self
    }

    /// Adds an input.
    pub fn add_input(&mut self, input: Input) -> Result<(), MachineError> {
        let name = input.name.clone();
        if self.inputs.iter().any(|other| other.name == name) {
            return Err(MachineError::Duplicate { of: "input", name });
        }
        let on_bus = self.inputs.iter().filter(|other| other.bus == input.bus);
        let most = match input.bus {
            InputBus::Usb => pci::MAX_USB_INPUTS,
            InputBus::Virtio => pci::MAX_INPUTS,
        };
        if on_bus.count() == most {
            return Err(MachineError::TooManyInputs { name, most });
        }
        self.inputs.push(input);
        Ok(())
    }

    /// Gives the machine a TPM 2.0. A program beside QEMU is it: swtpm, behind its control channel
    /// `control`. QEMU waits for it when it starts.
    pub fn with_tpm(mut self, control: UnixStream) -> Self {
        self.tpm = Some(control);
        self
    }

    /// Gives the machine a watchdog, an Intel 6300ESB, which does this when the guest has started it
    /// and does not reset it in time.
    pub fn with_watchdog(mut self, action: WatchdogAction) -> Self {
        self.watchdog = Some(action);
        self
    }

    /// Gives the machine a vsock.
    pub fn with_vsock(mut self, vsock: Vsock) -> Self {
        self.vsock = Some(vsock);
        self
    }

    /// Adds a disk. The order of disks is the order in which the guest finds them.
    pub fn add_disk(&mut self, disk: Disk) -> Result<(), MachineError> {
        if self
            .disks
            .iter()
            .any(|other| disk_node(other.name()) == disk_node(disk.name()))
        {
            return Err(MachineError::Duplicate {
                of: "disk",
                name: disk.name().clone(),
            });
        }
        let most = match disk.bus() {
            DiskBus::Virtio => pci::MAX_VIRTIO_DISKS,
            DiskBus::Sata => MAX_SATA_DISKS,
            DiskBus::Scsi => pci::MAX_SCSI_DISKS,
            DiskBus::Usb => MAX_USB_DISKS,
        };
        let on_bus = self
            .disks
            .iter()
            .filter(|other| other.bus() == disk.bus())
            .count();
        if on_bus == most {
            return Err(MachineError::TooManyDisks {
                name: disk.name().clone(),
                most,
            });
        }
        let mut others = self.disks.iter();
        let slot = disk.slot();
        let why = if slot.is_some() && others.any(|other| other.slot() == slot) {
            Some("its address on the PCI bus is another disk's already")
        } else if disk.io_thread().is_some_and(|it| it >= self.io_threads) {
            Some("the machine has no such I/O thread")
        } else {
            None
        };
        if let Some(why) = why {
            let name = disk.name().clone();
            return Err(MachineError::Disk { name, why });
        }
        self.check_boot_index(disk.name(), disk.boot_index())?;
        self.disks.push(disk);
        Ok(())
    }

    /// Adds a network interface. Their order is the order in which the guest finds them.
    pub fn add_nic(&mut self, nic: Nic) -> Result<(), MachineError> {
        if self.nics.iter().any(|other| other.name() == nic.name()) {
            return Err(MachineError::Duplicate {
                of: "interface",
                name: nic.name().clone(),
            });
        }
        if self.nics.iter().any(|other| other.mac() == nic.mac()) {
            return Err(MachineError::DuplicateMac {
                name: nic.name().clone(),
                mac: nic.mac(),
            });
        }
        if self.nics.len() == pci::MAX_NICS {
            let most = pci::MAX_NICS;
            return Err(MachineError::TooManyNics {
                name: nic.name().clone(),
                most,
            });
        }
        self.check_boot_index(nic.name(), nic.boot_index())?;
        self.nics.push(nic);
        Ok(())
    }

    /// Adds a shared directory.
    pub fn add_filesystem(&mut self, filesystem: Filesystem) -> Result<(), MachineError> {
        let tag = filesystem.tag();
        if self.filesystems.iter().any(|other| other.tag() == tag) {
            return Err(MachineError::Duplicate {
                of: "shared directory",
                name: tag.clone(),
            });
        }
        if self.filesystems.len() == pci::MAX_FILESYSTEMS {
            return Err(MachineError::TooManyFilesystems {
                tag: tag.clone(),
                most: pci::MAX_FILESYSTEMS,
            });
        }
        self.filesystems.push(filesystem);
        Ok(())
    }

    /// Whether programs beside QEMU need the guest's memory.
    pub(crate) fn shares_memory(&self) -> bool {
        !self.filesystems.is_empty()
    }

    /// Adds a device of the node. Their order is the order in which the guest finds them.
    pub fn add_host_device(&mut self, device: HostDevice) -> Result<(), MachineError> {
        let mut others = self.host_devices.iter();
        let same =
            |other: &HostDevice| other.name == device.name || other.address == device.address;
        if others.any(same) {
            return Err(MachineError::Duplicate {
                of: "device",
                name: device.name,
            });
        }
        let most = pci::MAX_HOST_DEVICES;
        if self.host_devices.len() == most {
            let name = device.name;
            return Err(MachineError::TooManyHostDevices { name, most });
        }
        self.host_devices.push(device);
        Ok(())
    }

    fn check_boot_index(&self, name: &Name, index: Option<NonZeroU32>) -> Result<(), MachineError> {
        let Some(index) = index else { return Ok(()) };
        let disks = self
            .disks
            .iter()
            .map(|disk| (disk.name(), disk.boot_index()));
        let nics = self.nics.iter().map(|nic| (nic.name(), nic.boot_index()));
        match disks.chain(nics).find(|(_, taken)| *taken == Some(index)) {
            None => Ok(()),
            Some((other, _)) => Err(MachineError::BootIndex {
                index,
                name: name.clone(),
                other: other.clone(),
            }),
        }
    }

    /// The machine's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The firmware's UUID, by which the guest knows itself.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// What runs the guest's instructions.
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// The processors.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// The memory.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Whether the memory is made of huge pages.
    pub fn has_hugepages(&self) -> bool {
        self.hugepages.is_some()
    }

    /// Whether the guest can return memory.
    pub fn has_balloon(&self) -> bool {
        self.balloon
    }

    /// Whether the memory is locked, because devices of the node reach all of it.
    pub fn locks_memory(&self) -> bool {
        !self.host_devices.is_empty()
    }

    /// The most bytes of memory that the guest can have while it runs.
    pub fn max_memory_bytes(&self) -> u64 {
        self.memory.bytes() + self.memory_room
    }

    /// The disks, in the guest's order.
    pub fn disks(&self) -> &[Disk] {
        &self.disks
    }

    /// The network interfaces, in the guest's order.
    pub fn nics(&self) -> &[Nic] {
        &self.nics
    }
}
