//! What is watched, and who looks at it: the wiring between stores, queues and reconcilers.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource};
use tokio::sync::watch::Receiver;
use tracing::{info, warn};
use vm_api::contract::labels;
use vm_api::v1::{VirtualMachine, VirtualMachineInstance};

use crate::args::Args;
use crate::cluster::Cluster;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::own::OwnWrites;
use crate::reconcile;
use crate::serve::Readiness;
use crate::vm::Machines;
use crate::vmi::Instances;
use crate::watch::{Change, Guarded, Trigger, look_at_all, owner, watch};

type Machine = Guarded<VirtualMachine>;
type Instance = Guarded<VirtualMachineInstance>;

/// Watches and reconciles until `stopping` turns true, then finishes what was begun.
pub(crate) async fn work(
    client: Client,
    args: Args,
    metrics: Metrics,
    readiness: Readiness,
    stopping: Receiver<bool>,
) {
    let cluster = Cluster::new(client.clone(), metrics.clone());
    let own = cluster.own.clone();
    let (machine, machine_queue) = Trigger::new();
    let (instance, instance_queue) = Trigger::new();
    let (machines, watch_machines) = watch_machines(client.clone(), machine.clone());
    let (instances, watch_instances) = watch_instances(
        client.clone(),
        &own,
        instance.clone(),
        machine,
        machines.clone(),
    );
    let (pods, watch_pods) = watch_pods(client.clone(), &own, instance, instances.clone());
    let watches = async { futures::join!(watch_machines, watch_instances, watch_pods) };

    let (events, writing) = Events::start(client, &args.identity, metrics.clone());
    let machine_reconciler = Arc::new(Machines::new(
        cluster.clone(),
        events.clone(),
        instances.clone(),
        args.progress_delay(),
    ));
    let instance_reconciler = Arc::new(Instances {
        cluster,
        events,
        pods: pods.clone(),
        placeholder_image: args.placeholder_image.clone(),
        progress_delay: args.progress_delay(),
    });
    let concurrency = args.concurrency;
    let reconcilers = async move {
        let filled = futures::join!(
            machines.wait_until_ready(),
            instances.wait_until_ready(),
            pods.wait_until_ready()
        );
        if let (Ok(()), Ok(()), Ok(())) = filled {
            info!(
                machines = machines.len(),
                instances = instances.len(),
                pods = pods.len(),
                "the stores are filled"
            );
            readiness.set(true);
        }
        futures::join!(
            reconcile::run(
                machine_reconciler,
                machines,
                machine_queue,
                concurrency,
                metrics.clone(),
                stopping.clone()
            ),
            reconcile::run(
                instance_reconciler,
                instances,
                instance_queue,
                concurrency,
                metrics,
                stopping
            ),
        );
    };
    tokio::select! {
        _ = watches => warn!("the watches ended"),
        () = reconcilers => {}
    }
    // The reconcilers are gone, and with them the last way to hand in events.
    if let Err(error) = writing.await {
        warn!(%error, "the event writer broke down");
    }
}

/// Machines are looked at when they change.
fn watch_machines(
    client: Client,
    machine: Trigger<Machine>,
) -> (Store<Machine>, impl Future<Output = ()> + Send) {
    watch(
        Api::all(client),
        Config::default(),
        move |machines, change| match change {
            Change::Object(object) => machine.look_at(ObjectRef::from_obj(object)),
            Change::Listed => look_at_all(machines, &machine),
        },
    )
}

/// Instances are looked at when they change, and so is the machine of that name, which may be
/// waiting for the name to become free.
fn watch_instances(
    client: Client,
    own: &OwnWrites,
    instance: Trigger<Instance>,
    machine: Trigger<Machine>,
    machines: Store<Machine>,
) -> (Store<Instance>, impl Future<Output = ()> + Send) {
    let own = own.clone();
    watch(
        Api::all(client),
        Config::default(),
        move |instances, change| match change {
            Change::Object(object) => {
                own.appeared(object);
                instance.look_at(ObjectRef::from_obj(object));
                let name = object.meta().name.as_deref().unwrap_or_default();
                let namespace = object.meta().namespace.as_deref().unwrap_or_default();
                machine.look_at(ObjectRef::new(name).within(namespace));
            }
            Change::Listed => {
                look_at_all(instances, &instance);
                look_at_all(&machines, &machine);
            }
        },
    )
}

/// The instance of a pod is looked at when the pod changes.
fn watch_pods(
    client: Client,
    own: &OwnWrites,
    instance: Trigger<Instance>,
    instances: Store<Instance>,
) -> (Store<Pod>, impl Future<Output = ()> + Send) {
    let selector = format!("{}={}", labels::APP, labels::APP_VALUE);
    let config = Config::default().labels(&selector);
    let own = own.clone();
    watch(Api::all(client), config, move |_, change| match change {
        Change::Object(pod) => {
            own.appeared(pod);
            if let Some(owner) = owner::<Instance, _>(pod) {
                instance.look_at(owner);
            }
        }
        Change::Listed => look_at_all(&instances, &instance),
    })
}
