//! The types of `kubevirt.io`, their defaults and validation, and the pod contract.

pub mod contract;
