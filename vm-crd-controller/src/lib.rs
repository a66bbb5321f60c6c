//! Turns kubevirt.io objects into pods, and the pods' state back into theirs.
//!
//! VirtualMachine → VirtualMachineInstance → Pod by two reconcilers; each decides by a pure function
//! over what is observed and carries its plan out by thin effects.

pub mod args;
pub mod clock;
pub mod cluster;
pub mod conditions;
pub mod events;
pub mod incumbent;
mod invalid;
pub mod lease;
pub mod machine;
pub mod metrics;
pub mod own;
pub mod reconcile;
mod refusal;
pub mod render;
pub mod run;
pub mod serve;
pub mod vm;
pub mod vmi;
pub mod watch;
mod work;
