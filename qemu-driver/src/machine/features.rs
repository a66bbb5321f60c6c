//! Features of the board, and of the hypervisor as the guest sees it.
//!
//! What is KVM's alone is left out of the arguments of an emulated machine: QEMU would take it and do
//! nothing.

use std::collections::BTreeSet;

use super::MachineError;

/// Features of the board and of the hypervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// ACPI is there, and by it the power button; so by default.
    pub acpi: bool,
    /// System Management Mode is there; secure boot brings it along.
    pub smm: bool,
    /// The guest is not told that it runs on KVM.
    pub kvm_hidden: bool,
    /// Whether KVM's clock is there; as the processor model has it by default.
    pub kvm_clock: Option<bool>,
    /// Whether KVM's spin locks are there; as the processor model has it by default.
    pub kvm_spinlocks: Option<bool>,
    /// Whether KVM's end of interrupt is there; as the processor model has it by default.
    pub kvm_end_of_interrupt: Option<bool>,
    /// What the guest is told of Hyper-V.
    pub hyperv: Hyperv,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            acpi: true,
            smm: false,
            kvm_hidden: false,
            kvm_clock: None,
            kvm_spinlocks: None,
            kvm_end_of_interrupt: None,
            hyperv: Hyperv::default(),
        }
    }
}

/// What the guest is told of Hyper-V, whose interfaces KVM has for the sake of Windows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hyperv {
    /// All that KVM has.
    pub all: bool,
    /// These. QEMU wants what one of them needs to be among them.
    pub enlightenments: BTreeSet<Enlightenment>,
    /// Attempts at a spin lock before the hypervisor is told.
    pub spinlocks: Option<u32>,
    /// The hypervisor's name.
    pub vendor: Option<Vendor>,
}

/// Defines the enlightenments with QEMU's words for them (docs/system/i386/hyperv.rst).
macro_rules! enlightenments {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)+) => {
        /// An interface of Hyper-V.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Enlightenment { $($(#[$doc])* $name,)+ }

        impl Enlightenment {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// QEMU's word.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }
        }
    };
}

enlightenments! {
    /// Watchdogs are relaxed.
    Relaxed = "hv-relaxed",
    /// Paravirtual interrupt controller.
    Vapic = "hv-vapic",
    /// Index of the processor.
    Vpindex = "hv-vpindex",
    /// Run time of the processor.
    Runtime = "hv-runtime",
    /// Clocks.
    Time = "hv-time",
    /// Synthetic interrupt controller.
    Synic = "hv-synic",
    /// Synthetic timers.
    Stimer = "hv-stimer",
    /// Synthetic timers that interrupt directly.
    StimerDirect = "hv-stimer-direct",
    /// Reset.
    Reset = "hv-reset",
    /// Frequencies of the clocks.
    Frequencies = "hv-frequencies",
    /// Notice of a migration.
    Reenlightenment = "hv-reenlightenment",
    /// Paravirtual TLB flush.
    Tlbflush = "hv-tlbflush",
    /// The same for guests of the guest.
    TlbflushDirect = "hv-tlbflush-direct",
    /// The same for a range.
    TlbflushExtended = "hv-tlbflush-ext",
    /// Paravirtual interrupts between processors.
    Ipi = "hv-ipi",
    /// Enlightened VMCS, for guests of the guest.
    Evmcs = "hv-evmcs",
    /// Report of a crash.
    Crash = "hv-crash",
}

/// The hypervisor's name as Hyper-V tells it: 1 to 12 letters, digits, dots, hyphens and spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vendor(String);

impl Vendor {
    /// The most characters: what fits into three registers.
    pub const MAX: usize = 12;

    /// Checks `name`.
    pub fn new(name: impl Into<String>) -> Result<Self, MachineError> {
        let name = name.into();
        let fits = (1..=Self::MAX).contains(&name.len());
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b" ._-".contains(&b);
        if fits && name.bytes().all(allowed) {
            Ok(Self(name))
        } else {
            Err(MachineError::Vendor(name))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
