//! Features and timers that are named without a word on whether they are on, and those that others
//! need.

use crate::v1::{FeatureHyperv, FeatureState, Features, Timer, VirtualMachineInstanceSpec};

/// Attempts to take a lock before Hyper-V is told.
const SPINLOCKS: u32 = 4096;

pub(super) fn fill(spec: &mut VirtualMachineInstanceSpec) {
    // A mainframe has no ACPI.
    let acpi = spec.architecture.as_deref() != Some("s390x");
    let features = spec.domain.features.get_or_insert_default();
    let state = features.acpi.get_or_insert_default();
    state.enabled.get_or_insert(acpi);
    board(features);
    if let Some(hyperv) = &mut features.hyperv {
        enlightenments(hyperv);
        dependencies(hyperv);
    }
    let clock = spec.domain.clock.as_mut();
    if let Some(timer) = clock.and_then(|clock| clock.timer.as_mut()) {
        timers(timer);
    }
}

fn on(state: &mut Option<FeatureState>) {
    if let Some(state) = state {
        state.enabled.get_or_insert(true);
    }
}

fn board(features: &mut Features) {
    if let Some(apic) = &mut features.apic {
        apic.enabled.get_or_insert(true);
    }
    on(&mut features.smm);
    on(&mut features.pvspinlock);
}

fn enlightenments(hyperv: &mut FeatureHyperv) {
    for state in [
        &mut hyperv.relaxed,
        &mut hyperv.vapic,
        &mut hyperv.vpindex,
        &mut hyperv.runtime,
        &mut hyperv.synic,
        &mut hyperv.reset,
        &mut hyperv.frequencies,
        &mut hyperv.reenlightenment,
        &mut hyperv.ipi,
        &mut hyperv.evmcs,
    ] {
        on(state);
    }
    if let Some(spinlocks) = &mut hyperv.spinlocks
        && *spinlocks.enabled.get_or_insert(true)
    {
        spinlocks.spinlocks.get_or_insert(SPINLOCKS);
    }
    if let Some(timer) = &mut hyperv.synictimer {
        timer.enabled.get_or_insert(true);
        on(&mut timer.direct);
    }
    if let Some(vendor) = &mut hyperv.vendorid {
        vendor.enabled.get_or_insert(true);
    }
    if let Some(flush) = &mut hyperv.tlbflush {
        flush.enabled.get_or_insert(true);
        on(&mut flush.direct);
        on(&mut flush.extended);
    }
}

/// Switches on what those that are on need, unless the spec says something of it.
fn dependencies(hyperv: &mut FeatureHyperv) {
    let is_on = |state: &Option<FeatureState>| {
        state
            .as_ref()
            .is_some_and(|state| state.enabled == Some(true))
    };
    let state = || FeatureState {
        enabled: Some(true),
    };
    let timer = hyperv.synictimer.as_ref();
    if timer.is_some_and(|timer| timer.enabled == Some(true)) {
        hyperv.synic.get_or_insert_with(state);
    }
    let flush = hyperv.tlbflush.as_ref();
    let flush = flush.is_some_and(|flush| flush.enabled == Some(true));
    if flush || is_on(&hyperv.ipi) || is_on(&hyperv.synic) {
        hyperv.vpindex.get_or_insert_with(state);
    }
    if is_on(&hyperv.evmcs) {
        hyperv.vapic.get_or_insert_with(state);
    }
}

fn timers(timer: &mut Timer) {
    let ticking = [&mut timer.hpet, &mut timer.pit].into_iter().flatten();
    ticking.for_each(|timer| {
        timer.present.get_or_insert(true);
    });
    let clocks = [&mut timer.kvm, &mut timer.hyperv].into_iter().flatten();
    clocks.for_each(|clock| {
        clock.present.get_or_insert(true);
    });
    if let Some(rtc) = &mut timer.rtc {
        rtc.present.get_or_insert(true);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn filled(domain: Value) -> Value {
        let mut spec = serde_json::from_value(json!({ "domain": domain })).unwrap();
        fill(&mut spec);
        let once = spec.clone();
        fill(&mut spec);
        assert_eq!(spec, once);
        serde_json::to_value(&spec.domain).unwrap()
    }

    #[test]
    fn what_is_named_is_on_with_what_it_needs() {
        let on = || json!({ "enabled": true });
        let hyperv = |given: Value| {
            filled(json!({ "features": { "hyperv": given } }))["features"]["hyperv"].clone()
        };
        assert_eq!(
            hyperv(json!({ "synictimer": { "direct": {} } })),
            json!({
                "synictimer": { "enabled": true, "direct": on() }, "synic": on(), "vpindex": on(),
            })
        );
        assert_eq!(
            hyperv(json!({ "tlbflush": {}, "vpindex": { "enabled": false } })),
            json!({ "tlbflush": on(), "vpindex": { "enabled": false } })
        );
        assert_eq!(
            hyperv(json!({ "spinlocks": {} })),
            json!({ "spinlocks": { "enabled": true, "spinlocks": 4096 } })
        );
        let off = json!({ "spinlocks": { "enabled": false }, "ipi": { "enabled": false } });
        assert_eq!(hyperv(off.clone()), off);
    }

    #[test]
    fn a_timer_that_is_named_is_there() {
        let timer = json!({ "hpet": {}, "rtc": { "present": false }, "kvm": {} });
        assert_eq!(
            filled(json!({ "clock": { "timer": timer } }))["clock"]["timer"],
            json!({
                "hpet": { "present": true }, "rtc": { "present": false }, "kvm": { "present": true },
            })
        );
    }
}
