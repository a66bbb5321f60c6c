//! The machine's network: a tap in the pod's network namespace, translation of addresses between
//! guest and pod, and what gives the guest its addresses: a DHCP server for IPv4, a router and a
//! DHCPv6 server for IPv6.
//!
//! The machine shares the pod's address ("masquerade") or takes it over ("bridge"). Relies on the pod's own network being set
//! up; promises that what it changes stays within the pod's network namespace, and that [`undo`]
//! takes all of it back.

mod bridge;
mod dhcp;
mod dhcp6;
mod dns;
mod error;
mod firewall;
mod forwarding;
mod guest;
mod link;
mod mac;
mod masquerade;
mod namespace;
mod pace;
mod pod;
mod relay;
mod request;
mod reserve;
mod router;
mod services;
mod setup;
mod sysctl;
mod tap;
mod undo;

pub use qemu_driver::machine::MacAddress;

pub use self::{
    dns::Dns,
    error::NetworkError,
    guest::{GuestNetwork, GuestNetwork6},
    mac::derive_mac,
    namespace::in_namespace,
    relay::Loopback6,
    request::{Binding, DEFAULT_INTERFACE, Inbound, Port, Protocol, Request},
    reserve::reserve,
    services::Services,
    setup::{Network, Record, set_up},
    undo::{NetworkUndo, undo},
};

#[cfg(test)]
mod tests;
