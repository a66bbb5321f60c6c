//! Ordinary containers of the pod (init containers, sidecars, ephemeral ones), handed to the
//! node's own shim.
//!
//! One inner shim per pod, started with the first such container and ended with the last. It is
//! found under a group of its own, written into each bundle: by the pod's id it would find our
//! socket. It opens the container's fifos and publishes its events by itself.

mod answer;
mod container;
mod inner;
mod leftover;
mod link;

pub(crate) use container::create;
pub(crate) use inner::{InnerError, InnerShim};
pub(crate) use leftover::clean_up;
