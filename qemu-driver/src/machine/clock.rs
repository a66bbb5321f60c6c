//! What the machine's clock shows, and which timers tick.

use jiff::civil::DateTime;

/// The real-time clock and the timers of the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What the clock shows when QEMU starts; UTC by default.
    pub base: ClockBase,
    /// The clock stands still while the guest does; else it follows the node's, by default.
    pub follows_guest: bool,
    /// Ticks that the guest missed are made up for; so by default.
    pub catches_up: bool,
    /// The high precision event timer is there; so by default.
    pub hpet: bool,
    /// The programmable interval timer is there; so by default.
    pub pit: bool,
    /// That timer forgets what the guest missed; by default it is late. Only KVM's can forget.
    pub pit_forgets: bool,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            base: ClockBase::Utc,
            follows_guest: false,
            catches_up: true,
            hpet: true,
            pit: true,
            pit_forgets: false,
        }
    }
}

/// What the clock shows when QEMU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockBase {
    /// Universal time.
    Utc,
    /// This, from where it goes on.
    At(DateTime),
}
