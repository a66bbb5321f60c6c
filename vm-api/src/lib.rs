//! The types of `kubevirt.io`, their defaults and validation, and the pod contract.

pub mod annotation;
pub mod contract;
#[cfg(feature = "schema")]
pub mod crd;
pub mod defaults;
pub mod field;
pub mod machine;
pub mod quantity;
pub mod support;
pub mod v1;
pub mod validate;
pub mod words;

pub use field::FieldError;
pub use quantity::Quantity;
