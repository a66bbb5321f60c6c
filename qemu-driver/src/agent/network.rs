//! The guest's network interfaces, as it tells them.
//!
//! The answer has a type of ours that takes what is there and leaves out what cannot be: guests of
//! all ages answer, and a guest may answer anything.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::text;
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
    type Ok = Vec<RawInterface>;
    const NAME: &'static str = "guest-network-get-interfaces";
    const ALLOW_OOB: bool = false;
}

impl qapi::qga::QgaCommand for Query {}

/// QEMU, `qga/qapi-schema.json`, `GuestNetworkInterface`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RawInterface {
    name: String,
    hardware_address: Option<String>,
    #[serde(default)]
    ip_addresses: Vec<RawAddress>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawAddress {
    ip_address: String,
    prefix: u8,
}

pub(super) fn checked(interfaces: Vec<RawInterface>) -> Vec<Interface> {
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
        addresses: raw
            .ip_addresses
            .into_iter()
            .filter_map(address)
            .take(MAX_ADDRESSES)
            .collect(),
    };
    interfaces
        .into_iter()
        .take(MAX_INTERFACES)
        .map(interface)
        .collect()
}
