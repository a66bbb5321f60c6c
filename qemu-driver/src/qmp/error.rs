//! Why a conversation with the monitor failed.

use std::time::Duration;

use crate::bounded::text;
use crate::lines::LineError;
use crate::version::TooOld;

/// The most characters of QEMU's that a message repeats: it may be broken, and say what its guest
/// wants.
pub(super) const MAX_WORDS: usize = 512;

/// Why a conversation with the monitor failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket cannot be used on this runtime.
    #[error("QEMU's monitor cannot be used: {0}")]
    Socket(#[source] std::io::Error),

    /// No answer within the bound.
    #[error("QEMU did not answer {command} within {bound:?}")]
    TimeOut {
        /// The command.
        command: &'static str,
        /// The bound.
        bound: Duration,
    },

    /// The monitor was closed, as QEMU's end does.
    #[error("QEMU ended before it answered {command}")]
    Closed {
        /// The command.
        command: &'static str,
    },

    /// QEMU understood and refused.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's own words, cut.
        reason: String,
    },

    /// The answer has not the form that QEMU's documentation gives it.
    #[error("QEMU's answer to {command} is not understood: {}", text(&source.to_string(), MAX_WORDS))]
    Answer {
        /// The command.
        command: &'static str,
        /// Where it departs.
        source: serde_json::Error,
    },

    /// What QEMU sent cannot be a greeting.
    #[error("QEMU's monitor sent {0} instead of a greeting")]
    Greeting(#[source] LineError),

    /// QEMU is too old.
    #[error(transparent)]
    Version(#[from] TooOld),

    /// QEMU runs a machine type that is not of the q35 family.
    #[error("QEMU runs the machine type {}, which is none of ours", text(.0, MAX_WORDS))]
    MachineType(String),

    /// The guest stands still for another reason.
    #[error(
        "the machine waits for a disk that failed, and tries it again by itself: mend what is below \
         the disk, or delete the pod"
    )]
    WaitsForDisk,

    /// Others have not read theirs yet.
    #[error("{0} pictures of the display are being read already: read or end one of them first")]
    Pictures(usize),
}
