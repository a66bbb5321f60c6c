//! Turns kubevirt.io objects into pods, and the pods' state back into theirs.
//!
//! VirtualMachine → VirtualMachineInstance → Pod by two reconcilers, VirtualMachinePool → VirtualMachine
//! and VirtualMachineInstanceReplicaSet → VirtualMachineInstance by two more; each decides by a pure
//! function over what is observed and carries its plan out by thin effects.

pub mod admission;
pub mod api;
pub mod args;
pub mod ask;
pub mod clock;
pub mod cluster;
pub mod conditions;
pub mod events;
pub mod fence;
pub mod in_use;
pub mod incumbent;
pub mod instancetype;
mod invalid;
mod json;
pub mod lease;
pub mod machine;
pub mod metrics;
pub mod own;
mod owner;
pub mod packed;
pub mod pool;
pub mod reconcile;
mod refusal;
pub mod render;
pub mod replica_set;
pub mod replicas;
pub mod run;
pub mod serve;
pub mod traces;
pub mod verbs;
pub mod vm;
pub mod vmi;
pub mod warnings;
pub mod watch;
mod work;
