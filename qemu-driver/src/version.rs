//! QEMU's version, and the oldest that we drive.

use std::fmt;

/// A version of QEMU. Versions order as their numbers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub micro: u32,
}

/// The oldest QEMU that knows all that we say to it: `-netdev` as JSON came with 7.2.
pub const OLDEST: Version = Version {
    major: 7,
    minor: 2,
    micro: 0,
};

/// This QEMU is older than [`OLDEST`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "QEMU {0} is too old: install QEMU {OLDEST} or newer, or set its path in the node's config"
)]
pub struct TooOld(pub Version);

impl Version {
    /// The version, if it is not older than [`OLDEST`].
    pub fn supported(self) -> Result<Self, TooOld> {
        if self < OLDEST {
            Err(TooOld(self))
        } else {
            Ok(self)
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_than_7_2_is_refused() {
        let version = |major, minor, micro| Version {
            major,
            minor,
            micro,
        };
        for good in [
            version(7, 2, 0),
            version(7, 2, 22),
            version(8, 0, 0),
            version(11, 1, 0),
        ] {
            assert_eq!(good.supported(), Ok(good));
        }
        for bad in [version(7, 1, 99), version(6, 9, 9), version(0, 0, 0)] {
            assert_eq!(bad.supported(), Err(TooOld(bad)));
        }
        assert_eq!(
            TooOld(version(6, 2, 0)).to_string(),
            "QEMU 6.2.0 is too old: install QEMU 7.2.0 or newer, or set its path in the node's \
             config"
        );
    }
}
