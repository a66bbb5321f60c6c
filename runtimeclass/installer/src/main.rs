//! Installs the runtime on a node and takes it back.

fn main() {}
