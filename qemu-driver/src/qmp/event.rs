//! What QEMU reports by itself.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::bounded::text;
use crate::machine::WatchdogAction;

/// What QEMU reports by itself, as far as we act on it; other events are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The power button was pressed (`POWERDOWN`).
    PowerButton,
    /// The machine ends (`SHUTDOWN`).
    Shutdown {
        /// Whether the guest wanted it.
        guest: bool,
        /// QEMU's word for the cause: `guest-shutdown`, `host-qmp-quit`, `host-signal`, …
        reason: String,
    },
    /// The guest rebooted, in place (`RESET`).
    Reset {
        /// Whether the guest wanted it.
        guest: bool,
    },
    /// The guest did not reset its watchdog in time, which does this now (`WATCHDOG`).
    Watchdog(WatchdogAction),
    /// The guest reported its panic (`GUEST_PANICKED`).
    Panicked,
    /// The guest reported a crash from which it goes on into its crash kernel
    /// (`GUEST_CRASHLOADED`).
    CrashLoaded,
    /// The guest's processors stopped (`STOP`): a pause, an error of a disk, or an internal error
    /// of the accelerator, which only [`Qmp::state`](crate::Qmp::state) tells apart.
    Stopped,
    /// They run again (`RESUME`).
    Resumed,
    /// A disk could not read or write (`BLOCK_IO_ERROR`).
    DiskError {
        /// QEMU's id of the block node, `disk-<name>`, where known.
        node: Option<String>,
        /// `read` or `write`.
        operation: String,
        /// What QEMU did: `stop`, `report` or `ignore`.
        action: String,
        /// Whether the space below the disk ran out.
        no_space: bool,
    },
    /// A port of the guest was opened or closed from within (`VSERPORT_CHANGE`): the id `agent`
    /// is the guest agent's.
    Port {
        /// QEMU's id of the port.
        id: String,
        /// Whether somebody in the guest has it open.
        open: bool,
    },
}

/// The longest word of QEMU that is kept, in characters.
const MAX_WORD: usize = 256;

impl Event {
    /// The event `name` with `data`; `None` for one that we do not act on, or whose data we do
    /// not understand.
    pub(super) fn parse(name: &str, data: &RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct Cause {
            guest: bool,
            #[serde(default)]
            reason: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct DiskError {
            node_name: Option<String>,
            operation: String,
            action: String,
            #[serde(default)]
            nospace: bool,
        }
        #[derive(Deserialize)]
        struct Watchdog {
            action: WatchdogAction,
        }
        #[derive(Deserialize)]
        struct Port {
            id: String,
            open: bool,
        }
        let event = match name {
            "POWERDOWN" => Self::PowerButton,
            "STOP" => Self::Stopped,
            "RESUME" => Self::Resumed,
            "GUEST_PANICKED" => Self::Panicked,
            "GUEST_CRASHLOADED" => Self::CrashLoaded,
            "SHUTDOWN" => {
                let Cause { guest, reason } = serde_json::from_str(data.get()).ok()?;
                Self::Shutdown {
                    guest,
                    reason: short(reason),
                }
            }
            "RESET" => {
                let Cause { guest, .. } = serde_json::from_str(data.get()).ok()?;
                Self::Reset { guest }
            }
            "WATCHDOG" => {
                let Watchdog { action } = serde_json::from_str(data.get()).ok()?;
                Self::Watchdog(action)
            }
            "BLOCK_IO_ERROR" => {
                let error: DiskError = serde_json::from_str(data.get()).ok()?;
                Self::DiskError {
                    node: error.node_name.map(short),
                    operation: short(error.operation),
                    action: short(error.action),
                    no_space: error.nospace,
                }
            }
            "VSERPORT_CHANGE" => {
                let Port { id, open } = serde_json::from_str(data.get()).ok()?;
                Self::Port {
                    id: short(id),
                    open,
                }
            }
            _ => return None,
        };
        Some(event)
    }
}

fn short(word: String) -> String {
    text(&word, MAX_WORD)
}

/// What QEMU has said about the machine's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// The guest reported a panic.
    pub panicked: bool,
    /// Whether the guest wanted the end, and QEMU's word for the cause: `guest-shutdown`,
    /// `guest-panic`, `host-qmp-quit`, `host-signal`. None if QEMU ended without a word: it was
    /// killed, or crashed.
    pub shutdown: Option<(bool, String)>,
    /// What the guest's watchdog did last, if the guest was not reset and nobody else pressed the
    /// power button since.
    pub watchdog: Option<WatchdogAction>,
    /// Whether the watchdog's own press of the power button was reported.
    pub pressed: bool,
}

impl Ending {
    /// Takes in `event`; whether it changed anything.
    pub(super) fn learn(&mut self, event: &Event) -> bool {
        match event {
            Event::Panicked => self.panicked = true,
            Event::Watchdog(action) => {
                self.watchdog = Some(*action);
                self.pressed = false;
            }
            Event::PowerButton if self.watchdog == Some(WatchdogAction::Shutdown) => {
                // The guest had not followed its watchdog: what it does now is another's doing.
                self.watchdog = self.watchdog.filter(|_| !self.pressed);
                self.pressed = self.watchdog.is_some();
            }
            Event::Shutdown { guest, reason } => self.shutdown = Some((*guest, reason.clone())),
            // The machine lives on: what was said before was about an end that did not come.
            Event::Reset { .. } if *self != Self::default() => *self = Self::default(),
            _ => return false,
        }
        true
    }

    /// The guest powered itself off, with or without the power button.
    pub fn powered_off(&self) -> bool {
        !self.panicked && self.shutdown.as_ref().is_some_and(|(guest, _)| *guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn parse(name: &str, data: Value) -> Option<Event> {
        Event::parse(name, &serde_json::value::to_raw_value(&data).unwrap())
    }

    #[test]
    fn events_are_read() {
        let reason = "guest-shutdown";
        for (name, data, expected) in [
            ("POWERDOWN", Value::Null, Some(Event::PowerButton)),
            ("STOP", Value::Null, Some(Event::Stopped)),
            (
                "SHUTDOWN",
                json!({"guest": true, "reason": reason}),
                Some(Event::Shutdown {
                    guest: true,
                    reason: reason.into(),
                }),
            ),
            ("SHUTDOWN", json!({"guest": "yes"}), None),
            (
                "RESET",
                json!({"guest": true, "reason": "new"}),
                Some(Event::Reset { guest: true }),
            ),
            (
                "GUEST_PANICKED",
                json!({"action": "run", "info": {"type": "unheard-of"}}),
                Some(Event::Panicked),
            ),
            (
                "BLOCK_IO_ERROR",
                json!({"device": "", "node-name": "disk-root", "qom-path": "/machine/x",
                       "operation": "write", "action": "stop", "nospace": true, "reason": "x"}),
                Some(Event::DiskError {
                    node: Some("disk-root".into()),
                    operation: "write".into(),
                    action: "stop".into(),
                    no_space: true,
                }),
            ),
            (
                "VSERPORT_CHANGE",
                json!({"id": "agent", "open": true}),
                Some(Event::Port {
                    id: "agent".into(),
                    open: true,
                }),
            ),
            (
                "WATCHDOG",
                json!({"action": "poweroff"}),
                Some(Event::Watchdog(WatchdogAction::Poweroff)),
            ),
            ("WATCHDOG", json!({"action": "inject-nmi"}), None),
            ("RTC_CHANGE", json!({"offset": 1}), None),
        ] {
            assert_eq!(parse(name, data), expected, "{name}");
        }
    }

    #[test]
    fn words_are_cut() {
        let data = json!({"guest": false, "reason": "ä".repeat(1000)});
        let Some(Event::Shutdown { reason, .. }) = parse("SHUTDOWN", data) else {
            panic!()
        };
        assert_eq!(reason, "ä".repeat(MAX_WORD));
    }

    proptest! {
        #[test]
        fn whatever_qemu_reports_is_short_and_printable(
            name in prop::sample::select(&["SHUTDOWN", "BLOCK_IO_ERROR", "VSERPORT_CHANGE"][..]),
            word in ".{0,40}|[\n\0\u{1b}x]{0,40}",
            times in 1..40_usize,
            other in any::<String>(),
        ) {
            let word = word.repeat(times);
            let data = json!({
                "guest": true, "reason": word, "node-name": word, "operation": word, "action": word,
                "id": word, "open": true, "x": other,
            });
            let event = parse(name, data).unwrap();
            let words = match event.clone() {
                Event::Shutdown { reason, .. } => vec![reason],
                Event::DiskError { node, operation, action, .. } => {
                    vec![node.unwrap(), operation, action]
                }
                Event::Port { id, .. } => vec![id],
                other => panic!("{other:?}"),
            };
            for word in words {
                prop_assert!(word.chars().count() <= MAX_WORD);
                prop_assert!(!word.contains(char::is_control));
            }
            let raw = RawValue::from_string(json!(other).to_string()).unwrap();
            prop_assert_eq!(Event::parse(name, &raw), None);
        }
    }

    #[test]
    fn the_ending_is_learnt() {
        let shutdown = |guest| Event::Shutdown {
            guest,
            reason: "r".into(),
        };
        let ending = |events: &[Event]| {
            let mut ending = Ending::default();
            events.iter().for_each(|event| {
                ending.learn(event);
            });
            (ending.powered_off(), ending.panicked)
        };
        let reset = Event::Reset { guest: true };
        assert_eq!(ending(&[]), (false, false));
        assert_eq!(ending(&[Event::PowerButton, shutdown(true)]), (true, false));
        assert_eq!(ending(&[shutdown(false)]), (false, false));
        assert_eq!(ending(&[Event::Panicked, shutdown(true)]), (false, true));
        assert_eq!(ending(&[Event::Panicked, reset.clone()]), (false, false));
        let mut barked = Ending::default();
        assert!(barked.learn(&Event::Watchdog(WatchdogAction::Reset)));
        assert!(barked.watchdog.is_some() && !barked.powered_off());
        assert!(barked.learn(&reset));
        assert_eq!(barked, Ending::default());
        // The press of the watchdog, and of another.
        for (action, after) in [
            (WatchdogAction::Shutdown, Some(WatchdogAction::Shutdown)),
            (WatchdogAction::Reset, Some(WatchdogAction::Reset)),
        ] {
            barked.learn(&Event::Watchdog(action));
            barked.learn(&Event::PowerButton);
            assert_eq!(barked.watchdog, after);
        }
        barked.learn(&Event::Watchdog(WatchdogAction::Shutdown));
        barked.learn(&Event::PowerButton);
        assert!(barked.learn(&Event::PowerButton));
        assert_eq!(barked, Ending::default());
    }
}
