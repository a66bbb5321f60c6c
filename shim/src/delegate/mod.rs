//! Ordinary containers of the pod (init containers, sidecars, ephemeral ones), handed to the
//! node's own shim.
//!
//! One inner shim per pod, started with the first such container and ended with the last. It opens
//! the containers' fifos and publishes their events by itself.

mod answer;
mod container;
mod inner;
mod leftover;
mod link;
mod program;
mod stray;

pub(crate) use container::create;
pub(crate) use inner::InnerShim;
pub(crate) use leftover::clean_up;
pub(crate) use program::{InnerError, Program};
