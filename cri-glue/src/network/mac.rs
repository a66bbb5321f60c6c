//! The hardware address of a machine's network interface. A [`MacAddress`] is always one that an
//! interface may have: neither a group address nor zero.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::NetworkError;

/// Name space of the addresses made by [`MacAddress::derive`]; any constant serves, it must only
/// never change.
const NAMESPACE: Uuid = Uuid::from_u128(0x6b75_6265_7669_7274_006d_6163_0000_0001);

/// First octet of derived addresses: unicast, locally administered (IEEE 802-2014, 8.4).
const LOCALLY_ADMINISTERED: u8 = 0x02;

/// Bit of the first octet that marks a group (multicast) address.
const GROUP: u8 = 0x01;

/// A unicast Ethernet address, written `02:00:5e:10:00:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address that belongs to `seed`, the same for ever: a machine keeps its address over
    /// restarts and moves.
    pub fn derive(seed: &str) -> Self {
        let [_, a, b, c, d, e, ..] = Uuid::new_v5(&NAMESPACE, seed.as_bytes()).into_bytes();
        Self([LOCALLY_ADMINISTERED, a, b, c, d, e])
    }

    /// The six octets, in the order in which they are sent.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError::Mac {
            text: text.to_owned(),
        };
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(wrong)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        let usable = octets[0] & GROUP == 0 && octets != [0; 6];
        if parts.next().is_some() || !usable {
            return Err(wrong());
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::MacAddress;

    #[test]
    fn a_derived_address_never_changes() {
        assert_eq!(
            MacAddress::derive("default/web/default").to_string(),
            "02:b8:2c:a8:5e:94"
        );
        assert_ne!(
            MacAddress::derive("default/web/default"),
            MacAddress::derive("default/web/data")
        );
    }

    #[test]
    fn a_derived_address_can_be_read_back() {
        let mac = MacAddress::derive("x");
        assert_eq!(mac.to_string().parse::<MacAddress>().unwrap(), mac);
    }

    #[test]
    fn both_separators_are_read() {
        for text in ["02:00:5e:10:00:AB", "02-00-5e-10-00-ab"] {
            assert_eq!(
                text.parse::<MacAddress>().unwrap().octets(),
                [2, 0, 0x5e, 0x10, 0, 0xab]
            );
        }
    }

    #[test]
    fn what_no_interface_may_have_is_refused() {
        for text in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:00:00",
            "2:0:5e:10:0:0",
            "0x:00:5e:10:00:00",
            "+2:00:5e:10:00:00",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text} was taken");
        }
    }
}
