//! The guest's network interfaces, as it tells them.
//!
//! The answer has a type of ours that takes what is there and leaves out what cannot be: guests of
//! all ages answer, and a guest may answer anything.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::text;
use crate::bounded;
use crate::machine::MacAddress;

/// A network interface of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The guest's name for it.
    pub name: String,
    /// Its link address, by which it can be told which of the machine's interfaces it is.
    pub mac: Option<MacAddress>,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

/// An address of an interface and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// The prefix's length in bits.
    pub prefix: u8,
}

/// The most interfaces of a guest, and addresses of an interface, that are told.
const MAX_INTERFACES: usize = 64;
const MAX_ADDRESSES: usize = 64;

/// The command `guest-network-get-interfaces`.
#[derive(Serialize)]
pub(super) struct Query {}

impl qapi::Command for Query {
    type Ok = RawInterfaces;
    const NAME: &'static str = "guest-network-get-interfaces";
    const ALLOW_OOB: bool = false;
}

impl qapi::qga::QgaCommand for Query {}

#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct RawInterfaces(
    #[serde(deserialize_with = "bounded::first::<MAX_INTERFACES, _, _>")] Vec<RawInterface>,
);

/// QEMU, `qga/qapi-schema.json`, `GuestNetworkInterface`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawInterface {
    name: String,
    hardware_address: Option<String>,
    #[serde(default, deserialize_with = "bounded::first::<MAX_ADDRESSES, _, _>")]
    ip_addresses: Vec<RawAddress>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawAddress {
    ip_address: String,
    prefix: u8,
}

pub(super) fn checked(RawInterfaces(interfaces): RawInterfaces) -> Vec<Interface> {
    let address = |raw: RawAddress| {
        let address: IpAddr = raw.ip_address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        (raw.prefix <= most).then_some(Address {
            address,
            prefix: raw.prefix,
        })
    };
    let interface = |raw: RawInterface| Interface {
        name: text(&raw.name),
        mac: raw.hardware_address.and_then(|mac| mac.parse().ok()),
        addresses: raw.ip_addresses.into_iter().filter_map(address).collect(),
    };
    interfaces.into_iter().map(interface).collect()
}
