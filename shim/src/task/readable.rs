//! Waiting until a descriptor is readable: the one place of the shim's own code that is `unsafe`,
//! because tokio cannot see that an owned descriptor stays what it is.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits until `descriptor` is readable: for a pidfd, until its process has ended.
#[allow(
    unsafe_code,
    reason = "tokio asks for a promise that the type of the argument keeps"
)]
pub(crate) async fn readable(descriptor: OwnedFd) -> io::Result<()> {
    // SAFETY: an `OwnedFd` that nobody else has is open, and names the same file, for as long as
    // the `AsyncFd` owns it.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
    watched.readable().await.map(drop)
}
