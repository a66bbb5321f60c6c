//! Turns kubevirt.io objects into pods.

fn main() {}
