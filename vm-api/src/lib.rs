//! The types of `kubevirt.io`, their defaults and validation, and the pod contract.

pub mod contract;
pub mod quantity;
pub mod v1;

pub use quantity::Quantity;
