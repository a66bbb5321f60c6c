//! The types of `kubevirt.io`, their defaults and validation, and the pod contract.

pub mod annotation;
pub mod contract;
pub mod field;
pub mod machine;
pub mod quantity;
pub mod v1;
pub mod words;

pub use field::FieldError;
pub use quantity::Quantity;
