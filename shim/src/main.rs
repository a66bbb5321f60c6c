//! containerd-shim-kubevirt-v1: the containerd shim v2 that boots pods as QEMU guests.

fn main() {}
