//! The frame around the Task service: what containerd runs as a command, in the dialects of
//! containerd 1.6 to 2.x.
//!
//! `start` prints the address of the pod's server, spawning it for a sandbox; `delete` undoes a
//! container after its server died; `-info` and `-v` describe the runtime. Without an action the
//! process is the server itself. Nothing but the answer ever goes to standard output.

mod bootstrap;
mod delete;
mod info;
mod log;
mod options;
mod serve;
mod socket;
mod start;
mod traces;

pub(crate) use bootstrap::Dialect;
pub(crate) use delete::delete;
pub(crate) use info::{print_info, print_version};
pub(crate) use serve::serve;
pub(crate) use start::start;

/// The runtime's name in containerd's configuration.
pub(crate) const RUNTIME: &str = "io.containerd.kubevirt.v1";
