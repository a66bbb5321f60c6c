//! Watches: each kind is listed and watched once, kept in a store, and its changes are turned into
//! the names of what has to be looked at.
//!
//! Relies on kube's watcher for reconnecting. Promises that nothing is missed: after a new listing
//! (the first, or one after an outage) everything that the store holds is looked at, and so is what
//! vanished meanwhile, because whoever owned it is looked at too.

use std::convert::Infallible;
use std::fmt::Debug;
use std::hash::Hash;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{Config, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tracing::{debug, warn};

/// The annotation in which `kubectl apply` keeps a copy of all that it applied.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Names of objects to look at.
pub type Queue<K> = UnboundedReceiver<Result<ObjectRef<K>, Infallible>>;

/// Where names of objects to look at are handed in; a clone hands in to the same queue.
#[derive(Clone)]
pub struct Trigger<K: Resource<DynamicType = ()>>(
    UnboundedSender<Result<ObjectRef<K>, Infallible>>,
);

impl<K: Resource<DynamicType = ()>> Trigger<K> {
    /// An empty queue.
    pub fn new() -> (Self, Queue<K>) {
        let (sender, receiver) = unbounded();
        (Self(sender), receiver)
    }

    /// Hands in a name.
    pub fn look_at(&self, mut object: ObjectRef<K>) {
        // Version and UID, which nobody reads, would be kept for as long as the name waits.
        object.extra = Default::default();
        // The queue is gone only when the controller ends.
        let _ = self.0.unbounded_send(Ok(object));
    }
}

/// An object of a kind that users write: one that cannot be read does not hide the others.
pub type Guarded<K> = DeserializeGuard<K>;

/// Something that happened to the objects of one kind.
pub enum Change<'a, K> {
    /// This object changed or is gone.
    Object(&'a K),
    /// All were listed anew.
    Listed,
}

/// Watches the objects of `api` that `config` selects; `on_change` turns changes into names, the
/// store at hand. The future runs until dropped; its store is filled from the first listing on.
pub fn watch<K>(
    api: Api<K>,
    config: Config,
    mut on_change: impl FnMut(&Store<K>, Change<'_, K>) + Send + 'static,
) -> (Store<K>, BoxFuture<'static, ()>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (store, writer) = store::<K>();
    let events = watcher(api, config)
        .default_backoff()
        .map_ok(|event| event.modify(trim));
    let kind = K::kind(&()).into_owned();
    let reader = store.clone();
    let task = reflector(writer, events).for_each(move |event| {
        match event {
            Ok(Event::Apply(object) | Event::Delete(object)) => {
                on_change(&reader, Change::Object(&object));
            }
            Ok(Event::InitDone) => on_change(&reader, Change::Listed),
            Ok(Event::Init | Event::InitApply(_)) => {}
            Err(error) => warn!(kind, %error, "a watch broke; it is set up again"),
        }
        futures::future::ready(())
    });
    // A watch is large, and there are many.
    (store, task.boxed())
}

/// Takes away what no reconciler reads, so that the stores stay small.
fn trim<K: Resource>(object: &mut K) {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// Hands in everything that a store holds.
pub fn look_at_all<K>(store: &Store<K>, trigger: &Trigger<K>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
    (): Eq + Hash,
{
    let objects = store.state();
    debug!(kind = %K::kind(&()), count = objects.len(), "looking at all");
    for object in objects {
        trigger.look_at(ObjectRef::from_obj(&*object));
    }
}

/// The controlling owner of `object`, if it is of kind `Owner`.
pub fn owner<Owner, K>(object: &K) -> Option<ObjectRef<Owner>>
where
    Owner: Resource<DynamicType = ()>,
    K: Resource,
{
    let namespace = object.namespace()?;
    let kind = Owner::kind(&());
    let group = Owner::group(&());
    let owner = object.owner_references().iter().find(|owner| {
        owner.controller == Some(true)
            && owner.kind == kind
            && owner.api_version.split('/').next() == Some(&*group)
    })?;
    Some(ObjectRef::new(&owner.name).within(&namespace))
}
