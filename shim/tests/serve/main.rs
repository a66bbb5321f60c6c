//! The shim's program under a containerd that is played by the test: started in both dialects,
//! driven over ttrpc, killed, and asked to clean up. runc, the node's own shim and QEMU are real.
//!
//! Needs root. Every case has a network namespace, control groups and directories of its own, and
//! ends by looking for what was left behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod daemon;
mod deaths;
mod dialects;
#[path = "../../../cri-glue/tests/launch/guest.rs"]
mod guest;
mod images;
mod machines;
mod ordinary;
mod pinning;
mod pod;
mod resize;
mod sandboxes;
mod steps;
mod traced;
mod users;
