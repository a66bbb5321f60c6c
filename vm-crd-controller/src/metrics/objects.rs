//! Machines and instances as metrics with KubeVirt's names, read from the stores when somebody asks.
//!
//! Nothing is kept for an object between two scrapes, and in one each object is looked at once: as types
//! all of them would take more than their series do. Only the replica that leads has stores, so that
//! every series is exported once.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use kube::runtime::reflector::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use vm_api::v1::{VirtualMachine, VirtualMachineInstance};

use super::instances::Instances;
use super::machines::Machines;
use crate::packed::Packed;
use crate::watch::Guarded;

/// The stores whose objects are exported, if this replica has any; a clone exports the same.
#[derive(Clone, Default)]
pub struct Objects(Arc<Mutex<Option<Stores>>>);

/// The stores of a replica that leads.
#[derive(Clone)]
struct Stores {
    machines: Store<Packed<VirtualMachine>>,
    instances: Store<Guarded<VirtualMachineInstance>>,
}

/// Exports the objects of the stores until dropped.
#[must_use = "the objects are exported only while this lives"]
pub struct Shown(Objects);

impl Objects {
    /// Exports what these stores hold for as long as the result lives.
    pub fn show(
        &self,
        machines: Store<Packed<VirtualMachine>>,
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
        let mut machines = Machines::default();
        for machine in stores.machines.state() {
            if let Ok(machine) = machine.unpack() {
                machines.add(&machine);
            }
        }
        machines.encode(&mut encoder)?;
        let mut instances = Instances::default();
        for instance in stores.instances.state() {
            if let Ok(instance) = &instance.0 {
                instances.add(instance);
            }
        }
        instances.encode(&mut encoder)
    }
}

/// Labels of a series; those without a value are left out, as KubeVirt does.
pub(super) type Labels<'a> = [(&'static str, &'a str)];

/// The series of one metric.
#[derive(Default)]
pub(super) struct Gauge(Vec<Series>);

struct Series {
    labels: Vec<(&'static str, Box<str>)>,
    value: f64,
}

impl Gauge {
    /// Adds a series.
    pub(super) fn put(&mut self, labels: &Labels<'_>, value: f64) {
        let labels = labels.iter().filter(|(_, value)| !value.is_empty());
        let labels = labels.map(|(name, value)| (*name, Box::from(*value)));
        self.0.push(Series {
            labels: labels.collect(),
            value,
        });
    }

    /// Writes all of them.
    pub(super) fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for series in &self.0 {
            let labels: Vec<_> = series
                .labels
                .iter()
                .map(|(name, value)| (*name, &**value))
                .collect();
            metric.encode_family(&labels)?.encode_gauge(&series.value)?;
        }
        Ok(())
    }
}

/// A number as a metric's value. Amounts of bytes are exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
pub(super) fn value(number: u64) -> f64 {
    number as f64
}
