//! Machines and instances as metrics with KubeVirt's names, read from the stores when somebody asks.
//!
//! Nothing is kept for an object between two scrapes. Only the replica that leads has stores, so that
//! every series is exported once.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use kube::runtime::reflector::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use vm_api::v1::{VirtualMachine, VirtualMachineInstance};

use super::{instances, machines};
use crate::watch::Guarded;

/// The stores whose objects are exported, if this replica has any; a clone exports the same.
#[derive(Clone, Default)]
pub struct Objects(Arc<Mutex<Option<Stores>>>);

/// The stores of a replica that leads.
#[derive(Clone)]
struct Stores {
    machines: Store<Guarded<VirtualMachine>>,
    instances: Store<Guarded<VirtualMachineInstance>>,
}

/// Exports the objects of the stores until dropped.
#[must_use = "the objects are exported only while this lives"]
pub struct Shown(Objects);

impl Objects {
    /// Exports what these stores hold for as long as the result lives.
    pub fn show(
        &self,
        machines: Store<Guarded<VirtualMachine>>,
        instances: Store<Guarded<VirtualMachineInstance>>,
    ) -> Shown {
        self.set(Some(Stores {
            machines,
            instances,
        }));
        Shown(self.clone())
    }

    fn set(&self, stores: Option<Stores>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stores;
    }

    fn stores(&self) -> Option<Stores> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Objects")
    }
}

impl Collector for Objects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(stores) = self.stores() else {
            return Ok(());
        };
        let held = stores.machines.state();
        let machines: Vec<_> = held.iter().filter_map(|it| it.0.as_ref().ok()).collect();
        machines::encode(&mut encoder, &machines)?;
        let held = stores.instances.state();
        let instances: Vec<_> = held.iter().filter_map(|it| it.0.as_ref().ok()).collect();
        instances::encode(&mut encoder, &instances)
    }
}

/// Labels of a series; those without a value are left out, as KubeVirt does.
pub(super) type Labels<'a> = [(&'static str, &'a str)];

/// The series of one metric.
pub(super) struct Gauge<'a>(MetricEncoder<'a>);

impl<'a> Gauge<'a> {
    /// Begins a metric.
    pub(super) fn begin(
        encoder: &'a mut DescriptorEncoder<'_>,
        name: &'a str,
        help: &str,
    ) -> Result<Self, fmt::Error> {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        Ok(Self(metric))
    }

    /// Writes one of its series.
    pub(super) fn put(&mut self, labels: &Labels<'_>, value: f64) -> fmt::Result {
        let mut labels = labels.to_vec();
        labels.retain(|(_, value)| !value.is_empty());
        self.0.encode_family(&labels)?.encode_gauge(&value)
    }
}

/// A number as a metric's value. Amounts of bytes are exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
pub(super) fn value(number: u64) -> f64 {
    number as f64
}
