//! A real QEMU, emulating, with guests of one sector: what its arguments mean and what it reports.
//!
//! Needs `qemu-system-x86_64`, SeaBIOS, OVMF and `qemu-img` of the distribution.

#![allow(
    unreachable_pub,
    reason = "the modules of a test are read by each other alone"
)]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod boot_sector;
mod console;
mod disks;
mod firmware;
mod guest;
mod hugepages;
mod life;
mod size;
mod watchdog;
mod wishes;
