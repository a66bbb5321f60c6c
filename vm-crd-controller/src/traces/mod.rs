//! Traces of machines' starts, for those who ask: from an instance's creation to its guest's first line,
//! through this controller and the shim.
//!
//! Nothing is remembered: the ids follow from the instance's UID, the times of the phases stand in its
//! status. The shim gets the parent of its spans by an annotation of the pod.

mod otlp;
mod start;

pub use otlp::{Endpoint, Exporter};
pub use start::Start;
