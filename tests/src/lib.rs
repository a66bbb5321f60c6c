//! What the end-to-end tests share: a namespace of their own on a real cluster, `kubectl` as a user
//! has it, the nodes, and waiting.
//!
//! The tests expect the environment of `cargo xtask cluster env`, the product installed and the
//! guests' images loaded; `cargo xtask test` sees to all of that. Without it they fail at once.

mod container_disk;
mod kubectl;
mod manifest;
mod namespace;
mod node;
mod proxy;
mod reach;
mod tunnel;
mod volume;
mod wait;

pub use container_disk::{ContainerDisk, Entry};
pub use kubectl::{Output, kubectl, kubectl_input, kubectl_spawn};
pub use manifest::{Manifest, image};
pub use namespace::TestNamespace;
pub use node::{Node, NodeConfiguration};
pub use proxy::Proxy;
pub use reach::Addresses;
pub use tunnel::Tunnel;
pub use volume::LocalClaim;
pub use wait::{SOON, STARTED, eventually};

/// Instantiates each case once per node: node 1 has containerd 1.6, node 2 containerd 2.x.
///
/// A case is a function `fn(Node)`.
#[macro_export]
macro_rules! on_both_nodes {
    ($($case:ident),+ $(,)?) => {
        mod node1 { $(#[test] fn $case() { super::$case($crate::Node::One) })+ }
        mod node2 { $(#[test] fn $case() { super::$case($crate::Node::Two) })+ }
    };
}
