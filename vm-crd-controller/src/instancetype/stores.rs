//! The four kinds, watched; an object that the watch has not shown yet is read.

use futures::FutureExt;
use futures::future::{BoxFuture, join4};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use vm_api::instancetype::{
    Family, ObjectKind, Scope, VirtualMachineClusterInstancetype, VirtualMachineClusterPreference,
    VirtualMachineInstancetype, VirtualMachinePreference,
};

use super::found::{Found, read};
use super::problem::Problem;
use crate::cluster::Cluster;
use crate::watch::{Guarded, watch};

/// The four kinds as they are watched.
#[derive(Clone)]
pub(super) struct Stores {
    instancetypes: Store<Guarded<VirtualMachineInstancetype>>,
    cluster_instancetypes: Store<Guarded<VirtualMachineClusterInstancetype>>,
    preferences: Store<Guarded<VirtualMachinePreference>>,
    cluster_preferences: Store<Guarded<VirtualMachineClusterPreference>>,
}

impl Stores {
    /// Watches the four kinds; the future runs until dropped.
    pub(super) fn watch(client: &Client) -> (Self, BoxFuture<'static, ()>) {
        let config = Config::default;
        let (instancetypes, first) = watch(Api::all(client.clone()), config(), |_, _| {});
        let (cluster_instancetypes, second) = watch(Api::all(client.clone()), config(), |_, _| {});
        let (preferences, third) = watch(Api::all(client.clone()), config(), |_, _| {});
        let (cluster_preferences, fourth) = watch(Api::all(client.clone()), config(), |_, _| {});
        let stores = Self {
            instancetypes,
            cluster_instancetypes,
            preferences,
            cluster_preferences,
        };
        let watches = join4(first, second, third, fourth).map(|_| ());
        (stores, watches.boxed())
    }

    /// Waits for the first listings; false if the watches ended before.
    pub(super) async fn wait_until_ready(&self) -> bool {
        let ready = join4(
            self.instancetypes.wait_until_ready(),
            self.cluster_instancetypes.wait_until_ready(),
            self.preferences.wait_until_ready(),
            self.cluster_preferences.wait_until_ready(),
        )
        .await;
        matches!(ready, (Ok(()), Ok(()), Ok(()), Ok(())))
    }

    fn get(&self, kind: ObjectKind, namespace: &str, name: &str) -> Option<Result<Found, Problem>> {
        match (kind.family, kind.scope) {
            (Family::Instancetype, Scope::Namespace) => self
                .instancetypes
                .get(&ObjectRef::new(name).within(namespace))
                .map(|found| read(&found)),
            (Family::Instancetype, Scope::Cluster) => self
                .cluster_instancetypes
                .get(&ObjectRef::new(name))
                .map(|found| read(&found)),
            (Family::Preference, Scope::Namespace) => self
                .preferences
                .get(&ObjectRef::new(name).within(namespace))
                .map(|found| read(&found)),
            (Family::Preference, Scope::Cluster) => self
                .cluster_preferences
                .get(&ObjectRef::new(name))
                .map(|found| read(&found)),
        }
    }
}

/// The object of that kind and name, from the stores where there are any.
pub(super) async fn find(
    stores: Option<&Stores>,
    cluster: &Cluster,
    kind: ObjectKind,
    namespace: &str,
    name: &str,
) -> kube::Result<Option<Result<Found, Problem>>> {
    if let Some(found) = stores.and_then(|stores| stores.get(kind, namespace, name)) {
        return Ok(Some(found));
    }
    if name.is_empty() {
        return Ok(None);
    }
    // Applied together with a machine, it may be newer than what the watch has shown.
    Ok(match (kind.family, kind.scope) {
        (Family::Instancetype, Scope::Namespace) => cluster
            .read::<Guarded<VirtualMachineInstancetype>>(namespace, name)
            .await?
            .map(|found| read(&found)),
        (Family::Instancetype, Scope::Cluster) => cluster
            .read_global::<Guarded<VirtualMachineClusterInstancetype>>(name)
            .await?
            .map(|found| read(&found)),
        (Family::Preference, Scope::Namespace) => cluster
            .read::<Guarded<VirtualMachinePreference>>(namespace, name)
            .await?
            .map(|found| read(&found)),
        (Family::Preference, Scope::Cluster) => cluster
            .read_global::<Guarded<VirtualMachineClusterPreference>>(name)
            .await?
            .map(|found| read(&found)),
    })
}
