//! The machine's processors and memory: counts and sizes that QEMU will take.

use super::{MachineError, name::is_word_byte};

/// The most vCPUs of a machine: what SeaBIOS and x2APIC-less guests can address on q35.
pub const MAX_VCPUS: u32 = 255;

/// How many vCPUs the guest sees, in which topology, and of which model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    sockets: u32,
    cores: u32,
    threads: u32,
    max_sockets: u32,
    model: CpuModel,
    features: Vec<(CpuWord, bool)>,
}

impl Cpu {
    /// `sockets` × `cores` per socket × `threads` per core, each at least 1. The machine starts
    /// with all of them, and cannot grow unless [`Cpu::with_max_sockets`] says so.
    pub fn new(
        sockets: u32,
        cores: u32,
        threads: u32,
        model: CpuModel,
    ) -> Result<Self, MachineError> {
        let cpu = Self {
            sockets,
            cores,
            threads,
            max_sockets: sockets,
            model,
            features: Vec::new(),
        };
        cpu.checked()
    }

    /// Lets the machine grow to `max_sockets` sockets (at least the present ones) while it runs.
    pub fn with_max_sockets(mut self, max_sockets: u32) -> Result<Self, MachineError> {
        self.max_sockets = max_sockets;
        self.checked()
    }

    /// Switches features of the model on or off, in this order.
    pub fn with_features(mut self, features: Vec<(CpuWord, bool)>) -> Self {
        self.features = features;
        self
    }

    fn checked(self) -> Result<Self, MachineError> {
        let all = [self.sockets, self.cores, self.threads, self.max_sockets];
        let max = all[1..]
            .iter()
            .try_fold(1u32, |product, n| product.checked_mul(*n));
        let fits = max.is_some_and(|max| max <= MAX_VCPUS);
        if all.contains(&0) || self.max_sockets < self.sockets || !fits {
            return Err(MachineError::Cpu {
                sockets: self.sockets,
                cores: self.cores,
                threads: self.threads,
                max_sockets: self.max_sockets,
            });
        }
        Ok(self)
    }

    /// The vCPUs that the machine starts with.
    pub fn vcpus(&self) -> u32 {
        self.sockets * self.cores * self.threads
    }

    /// The vCPUs that the machine can grow to.
    pub fn max_vcpus(&self) -> u32 {
        self.max_sockets * self.cores * self.threads
    }

    /// The sockets that the machine can grow to; its topology has that many.
    pub fn max_sockets(&self) -> u32 {
        self.max_sockets
    }

    /// Cores of each socket.
    pub fn cores(&self) -> u32 {
        self.cores
    }

    /// Threads of each core.
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// What the guest's processors are.
    pub fn model(&self) -> &CpuModel {
        &self.model
    }

    /// Features that are switched on or off.
    pub fn features(&self) -> &[(CpuWord, bool)] {
        &self.features
    }
}

/// What the guest's processors are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CpuModel {
    /// The most that the accelerator offers: the node's own processor with KVM, every feature
    /// that QEMU can emulate with TCG.
    #[default]
    Host,
    /// One of QEMU's named models (`Skylake-Server`, `qemu64`).
    Named(CpuWord),
}

/// The name of a CPU model or feature: 1 to 63 characters of `[A-Za-z0-9._-]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuWord(String);

impl CpuWord {
    /// Checks `word`. Whether this QEMU knows it, QEMU says when it starts.
    pub fn new(word: impl Into<String>) -> Result<Self, MachineError> {
        let word = word.into();
        if (1..=63).contains(&word.len()) && word.bytes().all(is_word_byte) {
            Ok(Self(word))
        } else {
            Err(MachineError::CpuWord(word))
        }
    }

    /// The word as QEMU's `-cpu` takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The guest's memory: a whole number of MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory {
    mib: u64,
}

impl Memory {
    /// The least that a machine can have: less, and SeaBIOS finds no room to start a disk.
    pub const MIN: u64 = 4 << 20;
    /// The most that a machine can have: what 40 physical address bits hold, the least that any
    /// 64-bit model of QEMU has.
    pub const MAX: u64 = 1 << 40;

    /// `bytes` rounded down to a whole MiB, between [`Memory::MIN`] and [`Memory::MAX`]. Down,
    /// because a pod's limit is what the guest must stay under.
    pub fn new(bytes: u64) -> Result<Self, MachineError> {
        if !(Self::MIN..=Self::MAX).contains(&bytes) {
            return Err(MachineError::Memory { bytes });
        }
        Ok(Self { mib: bytes >> 20 })
    }

    /// The guest's memory in bytes.
    pub fn bytes(self) -> u64 {
        self.mib << 20
    }

    /// The guest's memory in MiB.
    pub fn mib(self) -> u64 {
        self.mib
    }
}

/// Bytes in whose multiples a guest's memory grows and shrinks while it runs: a huge page, the
/// least that virtio-mem allows on amd64. It is the guest's view too, so it never changes.
pub const MEMORY_BLOCK: u64 = 2 << 20;

/// The most bytes that a machine can grow to: with a hole below 4 GiB and the PCI devices above,
/// the last half of 40 physical address bits is not there for memory that is added.
const MAX_GROWN: u64 = Memory::MAX / 2;

/// The room, in bytes, that memory of `initial` has to grow to `most`.
pub(super) fn room(initial: Memory, most: u64) -> u64 {
    let most = most.min(MAX_GROWN);
    most.saturating_sub(initial.bytes()) / MEMORY_BLOCK * MEMORY_BLOCK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topology_is_a_product() {
        let cpu = Cpu::new(2, 3, 2, CpuModel::Host)
            .unwrap()
            .with_max_sockets(4)
            .unwrap();
        assert_eq!((cpu.vcpus(), cpu.max_vcpus()), (12, 24));
    }

    #[test]
    fn impossible_topologies_are_refused() {
        for (sockets, cores, threads) in [
            (0, 1, 1),
            (1, 0, 1),
            (1, 1, 0),
            (256, 1, 1),
            (u32::MAX, u32::MAX, 2),
        ] {
            assert!(Cpu::new(sockets, cores, threads, CpuModel::Host).is_err());
        }
        let cpu = Cpu::new(2, 1, 1, CpuModel::Host).unwrap();
        assert!(cpu.clone().with_max_sockets(1).is_err());
        assert!(cpu.with_max_sockets(u32::MAX).is_err());
    }

    #[test]
    fn memory_is_rounded_down() {
        assert_eq!(Memory::new(1_000_000_000).unwrap().bytes(), 953 << 20);
        assert!(Memory::new(Memory::MIN - 1).is_err());
        assert!(Memory::new(Memory::MAX + 1).is_err());
        assert!(Memory::new(u64::MAX).is_err());
    }

    #[test]
    fn memory_grows_by_whole_blocks() {
        let initial = Memory::new(255 << 20).unwrap();
        for (most, expected) in [
            (0, 0),
            (256 << 20, 0),
            (257 << 20, 2 << 20),
            (1020 << 20, 764 << 20),
            (u64::MAX, (512 << 30) - (256 << 20)),
        ] {
            assert_eq!(room(initial, most), expected, "{most}");
        }
    }

    #[test]
    fn words_hold_no_options() {
        assert!(CpuWord::new("Skylake-Server-v4").is_ok());
        assert!(CpuWord::new("host,+vmx").is_err());
        assert!(CpuWord::new("").is_err());
    }
}
