//! The wiring of replica sets and pools: which of them looks when something of theirs changes.

use futures::future::BoxFuture;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource, ResourceExt};
use vm_api::pool::VirtualMachinePool;
use vm_api::v1::{VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceReplicaSet};

use crate::owner::controller;
use crate::packed::Packed;
use crate::replicas::Children;
use crate::watch::{Change, Guarded, Queue, Trigger, look_at_all, watch};

type Machine = Packed<VirtualMachine>;
type Instance = Guarded<VirtualMachineInstance>;
type ReplicaSet = Guarded<VirtualMachineInstanceReplicaSet>;
type Pool = Guarded<VirtualMachinePool>;

/// A kind that keeps so many of something: its objects, what is theirs, and who is told.
#[derive(Clone)]
pub(super) struct Keepers<K: Resource<DynamicType = ()> + Clone + 'static> {
    /// The objects.
    pub(super) store: Store<K>,
    /// What belongs to which.
    pub(super) children: Children,
    trigger: Trigger<K>,
}

/// Keepers, the queue of those to look at, and their watch.
type Watched<K> = (Keepers<K>, Queue<K>, BoxFuture<'static, ()>);

/// Replica sets look when they change.
pub(super) fn replica_sets(client: Client) -> Watched<ReplicaSet> {
    let kind = "VirtualMachineInstanceReplicaSet";
    let children = Children::of_kind(kind).with_orphans();
    let (trigger, queue) = Trigger::new();
    let own = trigger.clone();
    let (store, watches) =
        watch(
            Api::all(client),
            Config::default(),
            move |sets, change| match change {
                Change::Object(set) => own.look_at(ObjectRef::from_obj(set)),
                Change::Listed => look_at_all(sets, &own),
            },
        );
    let keepers = Keepers {
        store,
        children,
        trigger,
    };
    (keepers, queue, watches)
}

/// Pools look when they change.
pub(super) fn pools(client: Client) -> Watched<Pool> {
    let children = Children::of_kind("VirtualMachinePool");
    let (trigger, queue) = Trigger::new();
    let own = trigger.clone();
    let (store, watches) =
        watch(
            Api::all(client),
            Config::default(),
            move |pools, change| match change {
                Change::Object(pool) => own.look_at(ObjectRef::from_obj(pool)),
                Change::Listed => look_at_all(pools, &own),
            },
        );
    let keepers = Keepers {
        store,
        children,
        trigger,
    };
    (keepers, queue, watches)
}

impl Keepers<ReplicaSet> {
    /// An instance changed: its set looks, and if it has none, the sets that may adopt it.
    pub(super) fn instance_changed(&self, instances: &Store<Instance>, instance: &Instance) {
        let namespace = instance.namespace().unwrap_or_default();
        for name in self.children.changed(instances, instance) {
            self.trigger
                .look_at(ObjectRef::new(&name).within(&namespace));
        }
        if controller(instance).is_some() {
            return;
        }
        for set in self.store.state() {
            if set.meta().namespace.as_deref() == Some(&namespace) {
                self.trigger.look_at(ObjectRef::from_obj(&*set));
            }
        }
    }

    /// All instances were listed anew.
    pub(super) fn instances_listed(&self, instances: &Store<Instance>) {
        self.children.listed(instances);
        look_at_all(&self.store, &self.trigger);
    }
}

impl Keepers<Pool> {
    /// A machine changed: its pool looks.
    pub(super) fn machine_changed(&self, machines: &Store<Machine>, machine: &Machine) {
        let namespace = machine.namespace().unwrap_or_default();
        for name in self.children.changed(machines, machine) {
            self.trigger
                .look_at(ObjectRef::new(&name).within(&namespace));
        }
    }

    /// All machines were listed anew.
    pub(super) fn machines_listed(&self, machines: &Store<Machine>) {
        self.children.listed(machines);
        look_at_all(&self.store, &self.trigger);
    }
}
