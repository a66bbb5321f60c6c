//! What watches over a guest that hangs.

use crate::field::{FieldError, word};
use crate::v1::VirtualMachineInstanceSpec;
use crate::words::words;

words! {
    /// What a watchdog does when the guest has not reset it in time.
    WatchdogAction {
        /// The guest is reset, and boots again.
        Reset = "reset",
        /// The machine ends.
        Poweroff = "poweroff",
        /// The power button is pressed.
        Shutdown = "shutdown",
    }
}

/// What the machine's watchdog does, if it has one: an i6300esb, which resets unless the spec says
/// otherwise.
pub fn watchdog(spec: &VirtualMachineInstanceSpec) -> Result<Option<WatchdogAction>, FieldError> {
    let Some(watchdog) = &spec.domain.devices.watchdog else {
        return Ok(None);
    };
    if watchdog.diag288.is_some() {
        return Err(FieldError::new(
            "domain.devices.watchdog",
            "amd64 has no diag288: use i6300esb",
        ));
    }
    let timer = watchdog.i6300esb.as_ref();
    let action = timer.and_then(|timer| timer.action.as_deref());
    let path = || "domain.devices.watchdog.i6300esb.action".to_owned();
    Ok(Some(word(path, action)?.unwrap_or(WatchdogAction::Reset)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(watchdog: Value) -> Result<Option<WatchdogAction>, FieldError> {
        let spec = json!({ "domain": { "devices": { "watchdog": watchdog } } });
        watchdog_of(&serde_json::from_value(spec).unwrap())
    }

    fn watchdog_of(
        spec: &VirtualMachineInstanceSpec,
    ) -> Result<Option<WatchdogAction>, FieldError> {
        super::watchdog(spec)
    }

    #[test]
    fn a_watchdog_resets_unless_it_is_told_otherwise() {
        let timer = |action: &str| json!({ "name": "w", "i6300esb": { "action": action } });
        for (given, expected) in [
            (Value::Null, None),
            (json!({ "name": "w" }), Some(WatchdogAction::Reset)),
            (timer(""), Some(WatchdogAction::Reset)),
            (timer("poweroff"), Some(WatchdogAction::Poweroff)),
            (timer("shutdown"), Some(WatchdogAction::Shutdown)),
        ] {
            assert_eq!(read(given.clone()), Ok(expected), "{given}");
        }
        let path = |given| read(given).unwrap_err().path;
        assert_eq!(
            path(timer("bark")),
            "domain.devices.watchdog.i6300esb.action"
        );
        let other = json!({ "name": "w", "diag288": {} });
        assert_eq!(path(other), "domain.devices.watchdog");
    }
}
