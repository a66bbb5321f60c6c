//! Hardware addresses for machines that ask for none: the same machine always gets the same one.

use qemu_driver::machine::MacAddress;
use uuid::Uuid;

/// Name space of the derived addresses; any constant serves, it must only never change.
const NAMESPACE: Uuid = Uuid::from_u128(0x6b75_6265_7669_7274_006d_6163_0000_0001);

/// First octet of derived addresses: unicast, locally administered (IEEE 802-2014, 8.4).
const LOCALLY_ADMINISTERED: u8 = 0x02;

/// The address that belongs to `seed`, the same for ever: a machine keeps its address over restarts
/// and moves if the seed names the machine and its interface.
pub fn derive_mac(seed: &str) -> MacAddress {
    let [_, a, b, c, d, e, ..] = Uuid::new_v5(&NAMESPACE, seed.as_bytes()).into_bytes();
    MacAddress::new([LOCALLY_ADMINISTERED, a, b, c, d, e]).expect("unicast and not zero")
}

#[cfg(test)]
mod tests {
    use super::derive_mac;

    #[test]
    fn a_derived_address_never_changes() {
        assert_eq!(
            derive_mac("default/web/default").to_string(),
            "02:a5:fb:fa:df:6d"
        );
        assert_ne!(
            derive_mac("default/web/default"),
            derive_mac("default/web/data")
        );
    }
}
