//! MAC addresses.

use std::fmt;
use std::str::FromStr;

/// A MAC address of one station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

/// Why a MAC address is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// The text does not follow the format.
    #[error(
        "`{0}` is not a MAC address: write six bytes in hexadecimal, such as 02:00:00:00:00:01"
    )]
    Malformed(String),
    /// The address stands for many stations or for none.
    #[error(
        "`{0}` is a multicast address or all zeros; an interface needs one of its own, such as 02:00:00:00:00:01"
    )]
    NotOneStation(String),
}

impl FromStr for MacAddress {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let malformed = || MacError::Malformed(text.to_owned());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0; 6];
        let mut parts = text.split(separator);
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(malformed)?;
            if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        if parts.next().is_some() {
            return Err(malformed());
        }
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(MacError::NotOneStation(text.to_owned()));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_separators_are_read() {
        for text in ["02:00:00:00:0a:FF", "02-00-00-00-0a-ff"] {
            assert_eq!(
                text.parse::<MacAddress>().unwrap().to_string(),
                "02:00:00:00:0a:ff"
            );
        }
    }

    #[test]
    fn others_are_refused() {
        let wrong = [
            "",
            "zz",
            "02:00:00:00:00",
            "02:00:00:00:00:00:01",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:01",
        ];
        for text in wrong {
            assert_eq!(
                text.parse::<MacAddress>(),
                Err(MacError::Malformed(text.to_owned()))
            );
        }
        for text in [
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
        ] {
            assert_eq!(
                text.parse::<MacAddress>(),
                Err(MacError::NotOneStation(text.to_owned()))
            );
        }
    }
}
