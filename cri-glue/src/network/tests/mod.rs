//! The machine's network as its users see it: a pod, a peer and a guest, each a network namespace
//! of its own with the kernel's real network stack, instead of a cluster and QEMU.
//!
//! These tests need root. Without it they fail, unless `KUBEVIRT_TESTS_WITHOUT_ROOT=skip` is set.

mod bench;
mod bridge;
mod further;
mod hostile;
mod hostile6;
mod lease;
mod lease6;
mod reach;
mod reach6;
mod relay;
mod teardown;
