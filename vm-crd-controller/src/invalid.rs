//! Objects that cannot be read as what they claim to be: told to their owner, and left alone.

use std::fmt::Display;

use kube::Resource;
use tracing::warn;

use crate::cluster::reference;
use crate::conditions::reason;
use crate::events::{Events, Note};

/// Tells the owner of `object` why it cannot be read.
pub(crate) fn report<K: Resource<DynamicType = ()>>(
    events: &Events,
    object: &K,
    error: &dyn Display,
) {
    warn!(%error, name = object.meta().name, "an object cannot be read");
    let message = format!("the object cannot be read: {error}");
    events.publish(
        &reference(object),
        [Note::warning(reason::INVALID_SPEC, message)],
    );
}
