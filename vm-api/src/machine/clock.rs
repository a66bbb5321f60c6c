//! What a machine's clock shows, and which timers tick.
//!
//! Time zones come from a database of our own: what a spec may name does not depend on the node.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

use crate::field::{FieldError, word};
use crate::v1::{Clock, Timer, VirtualMachineInstanceSpec};
use crate::words::words;

words! {
    /// What becomes of ticks that the guest missed.
    TickPolicy {
        /// They come late.
        Delay = "delay",
        /// They come faster until none is missing.
        Catchup = "catchup",
        /// Those that are missing become one.
        Merge = "merge",
        /// They are forgotten.
        Discard = "discard",
    }
}

words! {
    /// What the real-time clock follows.
    Track {
        /// The guest's time, which stands still when the guest is paused.
        Guest = "guest",
        /// The node's clock.
        Wall = "wall",
    }
}

/// What the clock shows.
#[derive(Clone, Debug, PartialEq)]
pub enum ClockBase {
    /// Universal time.
    Utc,
    /// Universal time and so many seconds.
    Offset(i32),
    /// The time of a zone.
    Zone(TimeZone),
}

impl ClockBase {
    /// What the clock shows at `now`, if not universal time.
    pub fn shown(&self, now: Timestamp) -> Option<DateTime> {
        match self {
            Self::Utc => None,
            Self::Offset(seconds) => {
                let shown = now.saturating_add(SignedDuration::from_secs((*seconds).into()));
                Some(Offset::UTC.to_datetime(shown.unwrap_or(now)))
            }
            Self::Zone(zone) => Some(zone.to_datetime(now)),
        }
    }
}

/// The clock and the timers of a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineClock {
    /// What the clock shows.
    pub base: ClockBase,
    /// It stands still while the guest does.
    pub follows_guest: bool,
    /// The real-time clock makes up for missed ticks; so by default.
    pub catches_up: bool,
    /// The high precision event timer is there; so by default.
    pub hpet: bool,
    /// The programmable interval timer is there; so by default.
    pub pit: bool,
    /// That timer forgets missed ticks.
    pub pit_forgets: bool,
    /// Whether KVM's clock is there, where the spec says so.
    pub kvm: Option<bool>,
    /// Hyper-V's clock is there.
    pub hyperv: bool,
}

const TIMER: &str = "domain.clock.timer";

/// The clock that `spec` asks for.
pub fn clock(spec: &VirtualMachineInstanceSpec) -> Result<MachineClock, Vec<FieldError>> {
    let given = spec.domain.clock.clone().unwrap_or_default();
    let timer = given.timer.clone().unwrap_or_default();
    let mut errors = Vec::new();
    let base = base(&given).map_err(|error| errors.push(error)).ok();
    let mut read = |result: Result<bool, FieldError>| {
        result.map_err(|error| errors.push(error)).unwrap_or(false)
    };
    let catches_up = read(rtc_catches_up(&timer));
    let follows_guest = read(follows_guest(&timer));
    let pit_forgets = read(pit_forgets(&timer));
    read(hpet_is_late(&timer));
    read(rtc_is_there(&timer));
    let there = |present: Option<Option<bool>>| present.flatten() != Some(false);
    let clock = MachineClock {
        base: base.unwrap_or(ClockBase::Utc),
        follows_guest,
        catches_up,
        hpet: there(timer.hpet.as_ref().map(|timer| timer.present)),
        pit: there(timer.pit.as_ref().map(|timer| timer.present)),
        pit_forgets,
        kvm: timer.kvm.map(|timer| timer.present != Some(false)),
        hyperv: timer
            .hyperv
            .is_some_and(|timer| timer.present != Some(false)),
    };
    if errors.is_empty() {
        Ok(clock)
    } else {
        Err(errors)
    }
}

fn base(clock: &Clock) -> Result<ClockBase, FieldError> {
    let zone = clock.timezone.as_deref().filter(|name| !name.is_empty());
    match (zone, &clock.utc) {
        (None, utc) => Ok(match utc.as_ref().and_then(|utc| utc.offset_seconds) {
            None | Some(0) => ClockBase::Utc,
            Some(seconds) => ClockBase::Offset(seconds),
        }),
        (Some(_), Some(_)) => {
            let message = "it excludes utc: leave one of the two out";
            Err(FieldError::new("domain.clock.timezone", message))
        }
        (Some(name), None) => {
            let zone = TimeZoneDatabase::bundled().get(name);
            zone.map(ClockBase::Zone).map_err(|_| {
                let message = format!("`{name}` is no time zone: use one such as Europe/Berlin");
                FieldError::new("domain.clock.timezone", message)
            })
        }
    }
}

fn policy(timer: &str, text: Option<&String>) -> Result<Option<TickPolicy>, FieldError> {
    word(
        || format!("{TIMER}.{timer}.tickPolicy"),
        text.map(String::as_str),
    )
}

fn unsupported(timer: &str, policy: TickPolicy, instead: &str) -> FieldError {
    let path = format!("{TIMER}.{timer}.tickPolicy");
    FieldError::new(
        path,
        format!("QEMU does not have `{policy}` here: use {instead}"),
    )
}

fn rtc_catches_up(timer: &Timer) -> Result<bool, FieldError> {
    let rtc = timer.rtc.as_ref();
    match policy("rtc", rtc.and_then(|rtc| rtc.tick_policy.as_ref()))? {
        None | Some(TickPolicy::Catchup) => Ok(true),
        Some(TickPolicy::Delay) => Ok(false),
        Some(other) => Err(unsupported("rtc", other, "catchup or delay")),
    }
}

fn follows_guest(timer: &Timer) -> Result<bool, FieldError> {
    let track = timer.rtc.as_ref().and_then(|rtc| rtc.track.as_deref());
    let track = word(|| format!("{TIMER}.rtc.track"), track)?;
    Ok(track == Some(Track::Guest))
}

fn pit_forgets(timer: &Timer) -> Result<bool, FieldError> {
    let pit = timer.pit.as_ref();
    match policy("pit", pit.and_then(|pit| pit.tick_policy.as_ref()))? {
        None | Some(TickPolicy::Delay) => Ok(false),
        Some(TickPolicy::Discard) => Ok(true),
        Some(other) => Err(unsupported("pit", other, "delay or discard")),
    }
}

fn hpet_is_late(timer: &Timer) -> Result<bool, FieldError> {
    let hpet = timer.hpet.as_ref();
    match policy("hpet", hpet.and_then(|hpet| hpet.tick_policy.as_ref()))? {
        None | Some(TickPolicy::Delay) => Ok(true),
        Some(other) => Err(unsupported("hpet", other, "delay")),
    }
}

fn rtc_is_there(timer: &Timer) -> Result<bool, FieldError> {
    let rtc = timer.rtc.as_ref();
    if rtc.and_then(|rtc| rtc.present) != Some(false) {
        return Ok(true);
    }
    let message = "every machine has a real-time clock: leave it out";
    Err(FieldError::new(format!("{TIMER}.rtc.present"), message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(clock: Value) -> Result<MachineClock, Vec<String>> {
        let spec = json!({ "domain": { "clock": clock } });
        let read = super::clock(&serde_json::from_value(spec).unwrap());
        read.map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    fn shown(clock: Value, at: &str) -> Option<String> {
        let base = read(clock).unwrap().base;
        base.shown(at.parse().unwrap()).map(|time| time.to_string())
    }

    #[test]
    fn the_clock_shows_what_it_is_told() {
        let (winter, summer) = ("2026-01-01T00:00:00Z", "2026-07-01T00:00:00Z");
        assert_eq!(shown(json!({}), winter), None);
        assert_eq!(shown(json!({ "utc": {} }), winter), None);
        let offset = |seconds: i32| json!({ "utc": { "offsetSeconds": seconds } });
        assert_eq!(shown(offset(0), winter), None);
        for (clock, at, expected) in [
            (offset(3661), winter, "2026-01-01T01:01:01"),
            (offset(-1), winter, "2025-12-31T23:59:59"),
            (
                json!({ "timezone": "Europe/Berlin" }),
                winter,
                "2026-01-01T01:00:00",
            ),
            (
                json!({ "timezone": "Europe/Berlin" }),
                summer,
                "2026-07-01T02:00:00",
            ),
            (
                json!({ "timezone": "America/St_Johns" }),
                winter,
                "2025-12-31T20:30:00",
            ),
        ] {
            assert_eq!(shown(clock, at).as_deref(), Some(expected));
        }
        for (clock, expected) in [
            (json!({ "timezone": "bogus" }), "`bogus` is no time zone"),
            (json!({ "timezone": "../../etc/passwd" }), "is no time zone"),
            (json!({ "timezone": "UTC", "utc": {} }), "it excludes utc"),
        ] {
            let errors = read(clock).unwrap_err();
            assert!(
                errors[0].starts_with("domain.clock.timezone: "),
                "{errors:?}"
            );
            assert!(errors[0].contains(expected), "{errors:?}");
        }
    }

    #[test]
    fn timers_tick_as_qemu_can_let_them() {
        let plain = read(json!({})).unwrap();
        assert!(plain.hpet && plain.pit && plain.catches_up);
        assert!(!plain.follows_guest && !plain.pit_forgets && !plain.hyperv);
        let windows = read(json!({ "timer": {
            "hpet": { "present": false }, "pit": { "tickPolicy": "delay" },
            "rtc": { "tickPolicy": "catchup" }, "hyperv": {},
        } }));
        assert_eq!(
            windows,
            Ok(MachineClock {
                hpet: false,
                hyperv: true,
                ..plain.clone()
            })
        );
        let other = read(json!({ "timer": {
            "pit": { "present": false, "tickPolicy": "discard" },
            "rtc": { "tickPolicy": "delay", "track": "guest" }, "kvm": { "present": false },
        } }));
        let expected = MachineClock {
            pit: false,
            pit_forgets: true,
            catches_up: false,
            follows_guest: true,
            kvm: Some(false),
            ..plain
        };
        assert_eq!(other, Ok(expected));
        for (timer, expected) in [
            (
                json!({ "rtc": { "present": false } }),
                "rtc.present: every machine",
            ),
            (
                json!({ "rtc": { "tickPolicy": "merge" } }),
                "rtc.tickPolicy: QEMU",
            ),
            (json!({ "rtc": { "track": "boot" } }), "rtc.track: `boot`"),
            (
                json!({ "pit": { "tickPolicy": "catchup" } }),
                "use delay or discard",
            ),
            (
                json!({ "hpet": { "tickPolicy": "discard" } }),
                "hpet.tickPolicy: QEMU",
            ),
            (
                json!({ "hpet": { "tickPolicy": "bogus" } }),
                "`bogus` is none of",
            ),
        ] {
            let errors = read(json!({ "timer": timer })).unwrap_err();
            assert!(errors[0].contains(expected), "{errors:?}");
        }
    }
}
