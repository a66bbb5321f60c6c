//! The descriptors passed to QEMU, and the numbers it knows them by.

use std::os::fd::OwnedFd;

use super::FIRST_DESCRIPTOR;
use crate::machine::{Access, DiskFile};

/// Descriptors that QEMU inherits, in the order of their numbers.
#[derive(Default)]
pub(super) struct Descriptors {
    passed: Vec<OwnedFd>,
    sets: usize,
}

impl Descriptors {
    /// Passes `fd`; its number in QEMU.
    pub(super) fn pass(&mut self, fd: OwnedFd) -> usize {
        self.passed.push(fd);
        FIRST_DESCRIPTOR + self.passed.len() - 1
    }

    /// Passes `file` as a set of descriptors from which QEMU picks by access mode: the values for
    /// `-add-fd`, and the path by which QEMU opens the file.
    pub(super) fn pass_file(&mut self, file: DiskFile) -> (Vec<String>, String) {
        self.sets += 1;
        let set = self.sets;
        let fds = match file.into_access() {
            Access::ReadOnly(fd) => vec![fd],
            Access::ReadWrite {
                read_write,
                read_only,
            } => vec![read_write, read_only],
        };
        let add = fds
            .into_iter()
            .map(|fd| format!("fd={},set={set}", self.pass(fd)))
            .collect();
        (add, format!("/dev/fdset/{set}"))
    }

    pub(super) fn into_passed(self) -> Vec<OwnedFd> {
        self.passed
    }
}

impl super::Builder {
    /// Passes `file`; the path by which QEMU opens it.
    pub(super) fn pass_file(&mut self, file: DiskFile) -> String {
        let (add, path) = self.descriptors.pass_file(file);
        for value in add {
            self.option("-add-fd", value);
        }
        path
    }
}
