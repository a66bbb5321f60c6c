//! The types of `kubevirt.io`, their defaults and validation, and the pod contract.

pub mod annotation;
pub mod contract;
#[cfg(feature = "schema")]
pub mod crd;
pub mod datagrams;
pub mod defaults;
pub mod field;
pub mod instancetype;
pub mod machine;
pub mod pool;
pub mod quantity;
#[cfg(feature = "schema")]
mod resource;
#[cfg(feature = "schema")]
pub mod selector;
pub mod strict;
pub mod support;
mod trace_parent;
pub mod v1;
pub mod validate;
pub mod words;

pub use field::FieldError;
pub use quantity::Quantity;
pub use trace_parent::{TraceParent, TraceParentError};
