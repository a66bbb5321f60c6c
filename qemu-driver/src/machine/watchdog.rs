//! What is done to a guest that hangs.

use serde::Deserialize;

/// What a watchdog does when the guest has not reset it in time, in QEMU's words (`qapi/run-state.json`,
/// `WatchdogAction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchdogAction {
    /// Resets the guest, which boots again.
    Reset,
    /// Ends QEMU at once, with status 0.
    Poweroff,
    /// Presses the power button; what follows is the guest's matter.
    Shutdown,
}

impl WatchdogAction {
    /// QEMU's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Poweroff => "poweroff",
            Self::Shutdown => "shutdown",
        }
    }
}
