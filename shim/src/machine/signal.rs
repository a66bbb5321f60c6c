//! What a signal means for a machine.

use rustix::process::Signal;

/// What a signal to a machine asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To pull the plug.
    Plug,
    /// To press the power button.
    Button,
    /// What a process ignores unless it asks for it.
    Nothing,
}

impl Wish {
    /// What the signal with this number asks for, real-time signals included.
    pub(crate) fn of(number: u32) -> Option<Self> {
        const IGNORED: [Signal; 4] = [Signal::CHILD, Signal::CONT, Signal::URG, Signal::WINCH];
        let number = i32::try_from(number)
            .ok()
            .filter(|number| (1..=64).contains(number))?;
        Some(if number == Signal::KILL.as_raw() {
            Self::Plug
        } else if IGNORED.iter().any(|signal| signal.as_raw() == number) {
            Self::Nothing
        } else {
            Self::Button
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_its_meaning() {
        for (number, wish) in [
            (0, None),
            (1, Some(Wish::Button)),
            (9, Some(Wish::Plug)),
            (15, Some(Wish::Button)),
            (17, Some(Wish::Nothing)),
            (18, Some(Wish::Nothing)),
            (23, Some(Wish::Nothing)),
            (28, Some(Wish::Nothing)),
            // SIGRTMIN+3, by which systemd as PID 1 is stopped.
            (37, Some(Wish::Button)),
            (64, Some(Wish::Button)),
            (65, None),
            (u32::MAX, None),
        ] {
            assert_eq!(Wish::of(number), wish, "{number}");
        }
    }
}
