//! Machines launched by the node's own runc and QEMU from hand-made bundles, without containerd.
//!
//! Needs root. Every case has a network namespace, control groups and directories of its own, and
//! ends by looking for what was left behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod boots;
mod dead_runs;
mod disks;
mod failures;
mod guest;
mod helpers;
mod hostile;
mod pod;
mod wishes;
