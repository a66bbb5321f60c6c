//! Machine to running guest: QEMU arguments, QMP, guest agent.
//!
//! A [`Machine`] is the validated description of one guest; it owns a descriptor for everything
//! that QEMU opens. [`CommandLine`] turns it into QEMU's arguments; [`Channels`] are the host's
//! ends of the machine's console, monitor and agent. This crate knows QEMU and nothing of
//! Kubernetes or containerd, and it never starts a process: the caller does.

pub mod accelerator;
pub mod agent;
pub mod exec;
pub mod image;
pub mod machine;
pub mod qmp;
pub mod version;

mod args;
mod bounded;
mod channels;
mod lines;
mod pci;

pub use agent::Agent;
pub use args::{CommandLine, FIRST_DESCRIPTOR};
pub use channels::Channels;
pub use machine::Machine;
pub use qmp::Qmp;
