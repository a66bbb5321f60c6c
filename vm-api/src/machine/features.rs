//! Features of a machine's board, and of the hypervisor as its guest sees it.
//!
//! What one of Hyper-V's enlightenments needs comes with it, as KubeVirt's admission has it.

use std::collections::BTreeSet;

use crate::field::FieldError;
use crate::v1::{FeatureHyperv, FeatureState, VirtualMachineInstanceSpec};
use crate::words::words;

words! {
    /// An interface of Hyper-V, in the words of the spec.
    Enlightenment {
        /// Watchdogs are relaxed.
        Relaxed = "relaxed",
        /// Paravirtual interrupt controller.
        Vapic = "vapic",
        /// Index of the processor.
        Vpindex = "vpindex",
        /// Run time of the processor.
        Runtime = "runtime",
        /// Clocks: the timer `hyperv` of the clock.
        Time = "time",
        /// Synthetic interrupt controller.
        Synic = "synic",
        /// Synthetic timers.
        Synictimer = "synictimer",
        /// Synthetic timers that interrupt directly.
        SynictimerDirect = "synictimer.direct",
        /// Reset.
        Reset = "reset",
        /// Frequencies of the clocks.
        Frequencies = "frequencies",
        /// Notice of a migration.
        Reenlightenment = "reenlightenment",
        /// Paravirtual TLB flush.
        Tlbflush = "tlbflush",
        /// The same for guests of the guest.
        TlbflushDirect = "tlbflush.direct",
        /// The same for a range.
        TlbflushExtended = "tlbflush.extended",
        /// Paravirtual interrupts between processors.
        Ipi = "ipi",
        /// Enlightened VMCS, for guests of the guest.
        Evmcs = "evmcs",
        /// Report of a crash: the panic device `hyperv`.
        Crash = "crash",
    }
}

impl Enlightenment {
    /// What it needs, by QEMU's table (`target/i386/kvm/kvm.c`).
    fn needs(self) -> &'static [Self] {
        match self {
            Self::Synic | Self::Tlbflush | Self::Ipi => &[Self::Vpindex],
            Self::Synictimer => &[Self::Synic, Self::Vpindex, Self::Time],
            Self::SynictimerDirect => &[Self::Synictimer, Self::Synic, Self::Vpindex, Self::Time],
            Self::TlbflushDirect => &[Self::Tlbflush, Self::Vpindex, Self::Vapic],
            Self::TlbflushExtended => &[Self::Tlbflush, Self::Vpindex],
            Self::Evmcs => &[Self::Vapic],
            _ => &[],
        }
    }
}

/// What the guest is told of Hyper-V.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hyperv {
    /// All that KVM has.
    pub all: bool,
    /// These, and what they need.
    pub enlightenments: BTreeSet<Enlightenment>,
    /// Attempts at a spin lock before the hypervisor is told.
    pub spinlocks: Option<u32>,
    /// The hypervisor's name: 1 to 12 letters, digits, dots, hyphens, underscores and spaces.
    pub vendor: Option<String>,
}

/// Features of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineFeatures {
    /// ACPI is there; so by default.
    pub acpi: bool,
    /// System Management Mode is there.
    pub smm: bool,
    /// The guest is not told that it runs on KVM.
    pub kvm_hidden: bool,
    /// Whether KVM's spin locks are there, where the spec says so.
    pub kvm_spinlocks: Option<bool>,
    /// Whether KVM's end of interrupt is there, where the spec says so.
    pub kvm_end_of_interrupt: Option<bool>,
    /// What the guest is told of Hyper-V.
    pub hyperv: Hyperv,
}

/// Attempts at a spin lock where the spec names no number; KubeVirt's.
const SPINLOCKS: u32 = 4096;

/// Bytes of the hypervisor's name at most: what fits into three registers.
const LONGEST_VENDOR: usize = 12;

/// The features that `spec` asks for, but for those of its clock and its panic devices.
pub fn features(spec: &VirtualMachineInstanceSpec) -> Result<MachineFeatures, Vec<FieldError>> {
    let given = spec.domain.features.clone().unwrap_or_default();
    let mut errors = Vec::new();
    let apic = given.apic.as_ref();
    if apic.and_then(|apic| apic.enabled) == Some(false) {
        let message = "every machine has an interrupt controller: leave it out";
        errors.push(FieldError::new("domain.features.apic.enabled", message));
    }
    let all = given.hyperv_passthrough.as_ref();
    let all = all.is_some_and(|all| all.enabled != Some(false));
    if all && given.hyperv.is_some() {
        let message = "it excludes hyperv: leave one of the two out";
        errors.push(FieldError::new(
            "domain.features.hypervPassthrough",
            message,
        ));
    }
    let hyperv = given.hyperv.clone().unwrap_or_default();
    let vendor = vendor(&hyperv).map_err(|error| errors.push(error));
    let spinlocks = hyperv.spinlocks.as_ref();
    let spinlocks = spinlocks.filter(|spinlocks| spinlocks.enabled != Some(false));
    let features = MachineFeatures {
        acpi: given
            .acpi
            .as_ref()
            .is_none_or(|acpi| acpi.enabled != Some(false)),
        smm: is_on(given.smm.as_ref()),
        kvm_hidden: given
            .kvm
            .as_ref()
            .is_some_and(|kvm| kvm.hidden == Some(true)),
        kvm_spinlocks: given.pvspinlock.as_ref().map(|state| is_on(Some(state))),
        kvm_end_of_interrupt: apic.and_then(|apic| apic.end_of_interrupt),
        hyperv: Hyperv {
            all,
            enlightenments: with_needs(named(&hyperv)),
            spinlocks: spinlocks.map(|it| it.spinlocks.unwrap_or(SPINLOCKS)),
            vendor: vendor.unwrap_or_default(),
        },
    };
    if errors.is_empty() {
        Ok(features)
    } else {
        Err(errors)
    }
}

/// Those with all that they need.
pub fn with_needs(named: Vec<Enlightenment>) -> BTreeSet<Enlightenment> {
    let needed = named.iter().flat_map(|it| it.needs().iter().copied());
    let needed: Vec<_> = needed.collect();
    named.into_iter().chain(needed).collect()
}

fn is_on(state: Option<&FeatureState>) -> bool {
    state.is_some_and(|state| state.enabled != Some(false))
}

fn named(hyperv: &FeatureHyperv) -> Vec<Enlightenment> {
    use Enlightenment as E;
    let timer = hyperv.synictimer.as_ref();
    let timer = timer.filter(|timer| timer.enabled != Some(false));
    let flush = hyperv.tlbflush.as_ref();
    let flush = flush.filter(|flush| flush.enabled != Some(false));
    let all = [
        (E::Relaxed, is_on(hyperv.relaxed.as_ref())),
        (E::Vapic, is_on(hyperv.vapic.as_ref())),
        (E::Vpindex, is_on(hyperv.vpindex.as_ref())),
        (E::Runtime, is_on(hyperv.runtime.as_ref())),
        (E::Synic, is_on(hyperv.synic.as_ref())),
        (E::Synictimer, timer.is_some()),
        (
            E::SynictimerDirect,
            is_on(timer.and_then(|it| it.direct.as_ref())),
        ),
        (E::Reset, is_on(hyperv.reset.as_ref())),
        (E::Frequencies, is_on(hyperv.frequencies.as_ref())),
        (E::Reenlightenment, is_on(hyperv.reenlightenment.as_ref())),
        (E::Tlbflush, flush.is_some()),
        (
            E::TlbflushDirect,
            is_on(flush.and_then(|it| it.direct.as_ref())),
        ),
        (
            E::TlbflushExtended,
            is_on(flush.and_then(|it| it.extended.as_ref())),
        ),
        (E::Ipi, is_on(hyperv.ipi.as_ref())),
        (E::Evmcs, is_on(hyperv.evmcs.as_ref())),
    ];
    all.into_iter()
        .filter(|(_, on)| *on)
        .map(|(it, _)| it)
        .collect()
}

fn vendor(hyperv: &FeatureHyperv) -> Result<Option<String>, FieldError> {
    let given = hyperv.vendorid.as_ref();
    let Some(given) = given.filter(|vendor| vendor.enabled != Some(false)) else {
        return Ok(None);
    };
    let name = given.vendorid.clone().unwrap_or_default();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b" ._-".contains(&b);
    if (1..=LONGEST_VENDOR).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(Some(name));
    }
    let message = format!(
        "`{name}` cannot be the hypervisor's name: use 1 to {LONGEST_VENDOR} letters, digits, dots, \
         hyphens, underscores and spaces"
    );
    Err(FieldError::new(
        "domain.features.hyperv.vendorid.vendorid",
        message,
    ))
}

/// Paths of what `spec` asks of KVM, and a machine without KVM does not have.
pub fn of_kvm(spec: &VirtualMachineInstanceSpec) -> Vec<String> {
    let mut paths = Vec::new();
    let given = spec.domain.features.clone().unwrap_or_default();
    let Ok(features) = features(spec) else {
        return paths;
    };
    for enlightenment in named(&given.hyperv.clone().unwrap_or_default()) {
        paths.push(format!("domain.features.hyperv.{enlightenment}"));
    }
    let devices = &spec.domain.devices.panic_devices;
    let crash = |device: &crate::v1::PanicDevice| device.model.as_deref() == Some("hyperv");
    let clock = super::clock(spec).ok();
    for (asked, path) in [
        (features.hyperv.all, "domain.features.hypervPassthrough"),
        (
            features.hyperv.spinlocks.is_some(),
            "domain.features.hyperv.spinlocks",
        ),
        (
            features.hyperv.vendor.is_some(),
            "domain.features.hyperv.vendorid",
        ),
        (
            features.kvm_spinlocks == Some(true),
            "domain.features.pvspinlock",
        ),
        (
            features.kvm_end_of_interrupt == Some(true),
            "domain.features.apic.endOfInterrupt",
        ),
        (
            clock.as_ref().is_some_and(|it| it.kvm == Some(true)),
            "domain.clock.timer.kvm",
        ),
        (
            clock.as_ref().is_some_and(|it| it.hyperv),
            "domain.clock.timer.hyperv",
        ),
        (
            clock.as_ref().is_some_and(|it| it.pit_forgets),
            "domain.clock.timer.pit.tickPolicy",
        ),
        (devices.iter().any(crash), "domain.devices.panicDevices"),
    ] {
        if asked {
            paths.push(path.to_owned());
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(features: Value) -> VirtualMachineInstanceSpec {
        serde_json::from_value(json!({ "domain": { "features": features } })).unwrap()
    }

    fn read(features: Value) -> Result<MachineFeatures, Vec<String>> {
        let read = super::features(&spec(features));
        read.map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_feature_that_is_named_is_on() {
        let plain = read(json!({})).unwrap();
        assert!(plain.acpi && !plain.smm && !plain.kvm_hidden);
        assert_eq!(plain.hyperv, Hyperv::default());
        let all = read(json!({
            "acpi": { "enabled": false }, "smm": {}, "kvm": { "hidden": true },
            "pvspinlock": { "enabled": false }, "apic": { "endOfInterrupt": true },
        }));
        let expected = MachineFeatures {
            acpi: false,
            smm: true,
            kvm_hidden: true,
            kvm_spinlocks: Some(false),
            kvm_end_of_interrupt: Some(true),
            ..plain
        };
        assert_eq!(all, Ok(expected));
    }

    #[test]
    fn enlightenments_bring_what_they_need() {
        use Enlightenment as E;
        let of = |hyperv: Value| {
            let read = read(json!({ "hyperv": hyperv })).unwrap().hyperv;
            read.enlightenments.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(
            of(json!({ "relaxed": {}, "reset": { "enabled": false } })),
            [E::Relaxed]
        );
        assert_eq!(
            of(json!({ "synictimer": { "direct": {} } })),
            [
                E::Vpindex,
                E::Time,
                E::Synic,
                E::Synictimer,
                E::SynictimerDirect
            ]
        );
        assert_eq!(
            of(json!({ "tlbflush": { "direct": {}, "extended": { "enabled": false } } })),
            [E::Vapic, E::Vpindex, E::Tlbflush, E::TlbflushDirect]
        );
        assert_eq!(
            of(json!({ "tlbflush": { "enabled": false, "direct": {} } })),
            []
        );
        assert_eq!(of(json!({ "evmcs": {} })), [E::Vapic, E::Evmcs]);
        let hyperv = |hyperv: Value| read(json!({ "hyperv": hyperv })).map(|it| it.hyperv);
        let spin = hyperv(json!({ "spinlocks": {} })).unwrap();
        assert_eq!(spin.spinlocks, Some(4096));
        let spin = hyperv(json!({ "spinlocks": { "spinlocks": 8191 } })).unwrap();
        assert_eq!(spin.spinlocks, Some(8191));
        let name = |name: &str| hyperv(json!({ "vendorid": { "vendorid": name } }));
        assert_eq!(name("KVM Hv").unwrap().vendor.as_deref(), Some("KVM Hv"));
        for bad in ["", "thirteen char", "a,b", "ä"] {
            assert!(name(bad).unwrap_err()[0].contains("cannot be the hypervisor's name"));
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (features, expected) in [
            (
                json!({ "apic": { "enabled": false } }),
                "domain.features.apic.enabled",
            ),
            (
                json!({ "hypervPassthrough": {}, "hyperv": {} }),
                "domain.features.hypervPassthrough",
            ),
        ] {
            assert!(read(features).unwrap_err()[0].starts_with(expected));
        }
    }

    #[test]
    fn what_kvm_alone_has_is_known() {
        let asked = of_kvm(&spec(json!({
            "hyperv": { "relaxed": {}, "synictimer": {}, "spinlocks": {} },
            "kvm": { "hidden": true }, "pvspinlock": { "enabled": false },
        })));
        let expected = ["relaxed", "synictimer", "spinlocks"];
        assert_eq!(
            asked,
            expected.map(|it| format!("domain.features.hyperv.{it}"))
        );
        assert_eq!(of_kvm(&spec(json!({ "smm": {} }))), Vec::<String>::new());
        let clock = json!({ "domain": { "clock": { "timer": { "hyperv": {}, "kvm": {} } } } });
        let asked = of_kvm(&serde_json::from_value(clock).unwrap());
        assert_eq!(
            asked,
            ["domain.clock.timer.kvm", "domain.clock.timer.hyperv"]
        );
    }
}
