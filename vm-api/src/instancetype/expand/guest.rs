//! What a preference fills in apart from devices.

use super::devices::{or, or_text};
use crate::instancetype::{
    ClockPreferences, FeaturePreferences, FirmwarePreferences, PreferenceSpec,
};
use crate::v1::{
    Bios, Bootloader, DomainSpec, Efi, FeatureHyperv, Features, VirtualMachineInstanceSpec,
};

/// Fills in everything but devices and annotations.
pub(super) fn fill(preference: &PreferenceSpec, spec: &mut VirtualMachineInstanceSpec) {
    let domain = &mut spec.domain;
    processors(preference, domain);
    if let Some(preferred) = &preference.features {
        features(preferred, domain.features.get_or_insert_default());
    }
    if let Some(preferred) = &preference.firmware {
        firmware(preferred, domain);
    }
    let machine = preference.machine.as_ref();
    if let Some(preferred) = machine.map(|machine| &machine.preferred_machine_type)
        && preferred.is_some()
    {
        or_text(
            &mut domain.machine.get_or_insert_default().r#type,
            preferred,
        );
    }
    if let Some(preferred) = &preference.clock {
        clock(preferred, domain);
    }
    or(
        &mut domain.launch_security,
        &preference.preferred_launch_security,
    );
    or_text(&mut spec.subdomain, &preference.preferred_subdomain);
    or(
        &mut spec.termination_grace_period_seconds,
        &preference.preferred_termination_grace_period_seconds,
    );
    or_text(&mut spec.architecture, &preference.preferred_architecture);
}

/// Features of the model that are not named yet.
fn processors(preference: &PreferenceSpec, domain: &mut DomainSpec) {
    let Some(preferred) = &preference.cpu else {
        return;
    };
    if preferred.preferred_cpu_features.is_empty() {
        return;
    }
    let features = &mut domain.cpu.get_or_insert_default().features;
    let own: Vec<_> = features.iter().map(|it| it.name.clone()).collect();
    let more = preferred.preferred_cpu_features.iter();
    features.extend(more.filter(|it| !own.contains(&it.name)).cloned());
}

fn features(preferred: &FeaturePreferences, features: &mut Features) {
    or(&mut features.acpi, &preferred.preferred_acpi);
    or(&mut features.apic, &preferred.preferred_apic);
    or(&mut features.kvm, &preferred.preferred_kvm);
    or(&mut features.pvspinlock, &preferred.preferred_pvspinlock);
    or(&mut features.smm, &preferred.preferred_smm);
    if let Some(preferred) = &preferred.preferred_hyperv {
        enlightenments(preferred, features.hyperv.get_or_insert_default());
    }
}

fn enlightenments(preferred: &FeatureHyperv, hyperv: &mut FeatureHyperv) {
    or(&mut hyperv.relaxed, &preferred.relaxed);
    or(&mut hyperv.vapic, &preferred.vapic);
    or(&mut hyperv.spinlocks, &preferred.spinlocks);
    or(&mut hyperv.vpindex, &preferred.vpindex);
    or(&mut hyperv.runtime, &preferred.runtime);
    or(&mut hyperv.synic, &preferred.synic);
    or(&mut hyperv.synictimer, &preferred.synictimer);
    or(&mut hyperv.reset, &preferred.reset);
    or(&mut hyperv.vendorid, &preferred.vendorid);
    or(&mut hyperv.frequencies, &preferred.frequencies);
    or(&mut hyperv.reenlightenment, &preferred.reenlightenment);
    or(&mut hyperv.tlbflush, &preferred.tlbflush);
    or(&mut hyperv.ipi, &preferred.ipi);
    or(&mut hyperv.evmcs, &preferred.evmcs);
}

/// BIOS or UEFI only where neither is chosen; how, wherever that is open.
fn firmware(preferred: &FirmwarePreferences, domain: &mut DomainSpec) {
    let mut chosen = domain
        .firmware
        .as_ref()
        .and_then(|firmware| firmware.bootloader.clone())
        .unwrap_or_default();
    choose(preferred, &mut chosen);
    if let Some(bios) = &mut chosen.bios {
        or(&mut bios.use_serial, &preferred.preferred_use_bios_serial);
    }
    if chosen != Bootloader::default() {
        domain.firmware.get_or_insert_default().bootloader = Some(chosen);
    }
}

fn choose(preferred: &FirmwarePreferences, chosen: &mut Bootloader) {
    if chosen.bios.is_none() && chosen.efi.is_none() {
        if preferred.preferred_use_bios == Some(true) {
            chosen.bios = Some(Bios::default());
        } else if let Some(efi) = &preferred.preferred_efi {
            // It says everything about itself.
            chosen.efi = Some(efi.clone());
            return;
        } else if preferred.preferred_use_efi == Some(true) {
            chosen.efi = Some(Efi::default());
        }
    }
    if let Some(efi) = &mut chosen.efi {
        or(&mut efi.secure_boot, &preferred.preferred_use_secure_boot);
    }
}

fn clock(preferred: &ClockPreferences, domain: &mut DomainSpec) {
    let clock = domain.clock.get_or_insert_default();
    // What it shows is one choice: not half of it.
    if let Some(offset) = &preferred.preferred_clock_offset
        && clock.utc.is_none()
        && clock.timezone.is_none()
    {
        clock.utc.clone_from(&offset.utc);
        clock.timezone.clone_from(&offset.timezone);
    }
    or(&mut clock.timer, &preferred.preferred_timer);
}
