//! What replica sets and pools share: both keep so many of something, find what is theirs without
//! listing, and tell it in the same words.

mod children;
mod pace;
mod status;

pub use children::Children;
pub use pace::Pace;
pub(crate) use status::{Counts, Failure, Words, notes, of};
