//! containerd on the node: which daemon serves, from which configuration, and our stanza in it.

mod daemon;
mod edit;
mod stanza;

pub(crate) use daemon::{Daemon, SOCKET};
pub(crate) use edit::{Change, DROP_IN, add, imports_since, remove};
pub(crate) use stanza::HANDLER;
