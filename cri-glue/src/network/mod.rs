//! The machine's network: a tap in the pod's network namespace, translation of addresses between
//! guest and pod, and a DHCP server for the guest.
//!
//! The machine shares the pod's address ("masquerade"). Relies on the pod's own network being set
//! up; promises that what it changes stays within the pod's network namespace, and that [`undo`]
//! takes all of it back.

mod dhcp;
mod dns;
mod error;
mod firewall;
mod guest;
mod link;
mod mac;
mod namespace;
mod pod;
mod request;
mod reserve;
mod setup;
mod sysctl;
mod tap;
mod undo;

pub use qemu_driver::machine::MacAddress;

pub use self::{
    dhcp::DhcpServer,
    dns::Dns,
    error::NetworkError,
    guest::GuestNetwork,
    mac::derive_mac,
    namespace::in_namespace,
    request::{DEFAULT_INTERFACE, Inbound, Port, Protocol, Request},
    reserve::reserve,
    setup::{Network, Record, set_up},
    undo::{NetworkUndo, undo},
};

#[cfg(test)]
mod tests;
