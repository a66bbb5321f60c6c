//! Says in a ConfigMap whether machines run and whether any are defined, by which the admission policy
//! `kubevirt-uninstall` keeps the product from being taken away from under them.
//!
//! Relies on the stores. Promises one write when a replica begins to lead and one at each change, of
//! which there is none but with the first machine and the last.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{debug, warn};
use vm_api::contract::{IN_USE_CONFIG_MAP, IN_USE_DEFINED, IN_USE_RUNNING};

use crate::cluster::FIELD_MANAGER;
use crate::metrics::Metrics;

/// Pause before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How long a state must last before it is written: machines that come and go cost nothing.
const SETTLE: Duration = Duration::from_secs(1);

/// Whether there is anything that the product must stay for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// There is an instance.
    pub running: bool,
    /// There is a machine.
    pub machines: bool,
}

/// Where the watches tell; a clone tells the same.
#[derive(Clone)]
pub struct Tell(watch::Sender<Option<InUse>>);

impl Tell {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// There are instances, or none; counted only once all stores are filled.
    pub fn instances(&self, any: bool) {
        self.change(|state| state.running = any);
    }

    /// There are machines, or none.
    pub fn machines(&self, any: bool) {
        self.change(|state| state.machines = any);
    }

    /// All stores are filled: this is how it is.
    pub fn begin(&self, state: InUse) {
        self.0.send_replace(Some(state));
    }

    fn change(&self, change: impl FnOnce(&mut InUse)) {
        self.0.send_if_modified(|state| {
            let Some(state) = state else {
                return false;
            };
            let before = *state;
            change(state);
            *state != before
        });
    }

    /// Writes what is told to the ConfigMap in `namespace`, until dropped.
    pub async fn write(self, client: Client, namespace: String, metrics: Metrics) {
        let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
        let mut told = self.0.subscribe();
        let mut written = None;
        // The sender lives as long as `self`.
        while told.wait_for(|state| *state != written).await.is_ok() {
            tokio::time::sleep(SETTLE).await;
            let state = *told.borrow_and_update();
            let Some(state) = state.filter(|state| Some(*state) != written) else {
                continue;
            };
            metrics.count_write("configmaps", "apply");
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let patch = Patch::Apply(map(state));
            match maps.patch(IN_USE_CONFIG_MAP, &params, &patch).await {
                Ok(_) => {
                    debug!(?state, "said whether machines run");
                    written = Some(state);
                }
                Err(error) => {
                    warn!(%error, map = IN_USE_CONFIG_MAP, "cannot say whether machines run");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

impl Default for Tell {
    fn default() -> Self {
        Self::new()
    }
}

fn map(state: InUse) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": IN_USE_CONFIG_MAP,
            "labels": { "app.kubernetes.io/part-of": "kubevirt" },
        },
        "data": {
            IN_USE_RUNNING: state.running.to_string(),
            IN_USE_DEFINED: (state.running || state.machines).to_string(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_told_before_everything_is_known() {
        let tell = Tell::new();
        let mut told = tell.0.subscribe();
        tell.instances(true);
        assert!(!told.has_changed().unwrap());
        tell.begin(InUse::default());
        assert!(told.has_changed().unwrap());
        told.mark_unchanged();
        tell.machines(false);
        assert!(!told.has_changed().unwrap(), "that was so before");
        tell.machines(true);
        let state = told.borrow_and_update().unwrap();
        let data = map(state)["data"].clone();
        assert_eq!(data, json!({ "running": "false", "defined": "true" }));
        tell.instances(true);
        let data = map(told.borrow_and_update().unwrap())["data"].clone();
        assert_eq!(data, json!({ "running": "true", "defined": "true" }));
    }
}
