//! What is watched, and who looks at it: the wiring between stores, queues and reconcilers.

mod sets;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource};
use tokio::sync::watch::Receiver;
use tracing::{info, warn};
use vm_api::contract::labels;
use vm_api::pool::VirtualMachinePool;
use vm_api::v1::{VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceReplicaSet};

use crate::args::Args;
use crate::ask::{Answers, AskMachine, MachinePod};
use crate::cluster::Cluster;
use crate::events::Events;
use crate::in_use::{InUse, Tell};
use crate::instancetype::Types;
use crate::metrics::Metrics;
use crate::own::OwnWrites;
use crate::packed::Packed;
use crate::pool::Pools;
use crate::reconcile;
use crate::replica_set::ReplicaSets;
use crate::replicas::Pace;
use crate::serve::Readiness;
use crate::traces::Exporter;
use crate::vm::Machines;
use crate::vmi::{Finding, Instances};
use crate::watch::{Change, Guarded, Trigger, look_at_all, owner, watch};
use sets::Keepers;

type Machine = Packed<VirtualMachine>;
type Instance = Guarded<VirtualMachineInstance>;
type ReplicaSet = Guarded<VirtualMachineInstanceReplicaSet>;
type Pool = Guarded<VirtualMachinePool>;

/// Watches and reconciles until `stopping` turns true, then finishes what was begun. Machines are
/// asked by `way`, if there is one.
pub(crate) async fn work(
    client: Client,
    args: Args,
    way: Option<Arc<dyn AskMachine>>,
    metrics: Metrics,
    readiness: Readiness,
    stopping: Receiver<bool>,
) {
    let cluster = Cluster::new(client.clone(), metrics.clone());
    let own = cluster.own.clone();
    let (machine, machine_queue) = Trigger::new();
    let (instance, instance_queue) = Trigger::new();
    let tell = Tell::new();
    let (pools, pool_queue, watch_pools) = sets::pools(client.clone());
    let (replica_sets, replica_set_queue, watch_replica_sets) = sets::replica_sets(client.clone());
    let (types, watch_types) = Types::watch(&client, cluster.clone());
    let (machines, watch_machines) = watch_machines(
        client.clone(),
        &own,
        machine.clone(),
        pools.clone(),
        tell.clone(),
    );
    let (instances, watch_instances) = watch_instances(
        client.clone(),
        &own,
        instance.clone(),
        machine,
        machines.clone(),
        replica_sets.clone(),
        tell.clone(),
    );
    let answers = Answers::default();
    let ask = ask(answers.clone(), way, instance.clone());
    let (pods, watch_pods) = watch_pods(client.clone(), &own, instance, instances.clone());
    // Only who leads has stores; with this future they are gone.
    let show = || metrics.objects.show(machines.clone(), instances.clone());
    let _shown = args.object_metrics.then(show);
    let watches = join_all([
        watch_machines,
        watch_instances,
        watch_pods,
        watch_types,
        watch_pools,
        watch_replica_sets,
        ask.boxed(),
    ]);

    let telling = {
        let namespace = args.lease_namespace.clone();
        tell.clone()
            .write(client.clone(), namespace, metrics.clone())
    };
    let (events, writing) = Events::start(client, &args.identity, metrics.clone());
    let machine_reconciler = Arc::new(Machines::new(
        cluster.clone(),
        events.clone(),
        instances.clone(),
        types.clone(),
        args.progress_delay(),
    ));
    let replica_set_reconciler = Arc::new(ReplicaSets {
        cluster: cluster.clone(),
        events: events.clone(),
        instances: instances.clone(),
        children: replica_sets.children,
        pace: Pace::default(),
    });
    let pool_reconciler = Arc::new(Pools {
        cluster: cluster.clone(),
        events: events.clone(),
        machines: machines.clone(),
        instances: instances.clone(),
        children: pools.children,
        pace: Pace::default(),
    });
    let instance_reconciler = Arc::new(Instances {
        cluster,
        events,
        metrics: metrics.clone(),
        pods: pods.clone(),
        answers,
        placeholder_image: args.placeholder_image.clone(),
        images: Finding::default(),
        progress_delay: args.progress_delay(),
        traces: Exporter::start(args.otlp_endpoint.clone(), args.trace_all, metrics.clone()),
    });
    let concurrency = args.concurrency;
    let reconcilers = async move {
        let filled = futures::join!(
            machines.wait_until_ready(),
            instances.wait_until_ready(),
            pods.wait_until_ready(),
            replica_sets.store.wait_until_ready(),
            pools.store.wait_until_ready(),
            types.wait_until_ready()
        );
        if let (Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), true) = filled {
            info!(
                machines = machines.len(),
                instances = instances.len(),
                pods = pods.len(),
                "the stores are filled"
            );
            tell.begin(InUse {
                running: !instances.is_empty(),
                machines: !machines.is_empty(),
            });
            readiness.set(true);
        }
        let more = || (concurrency, metrics.clone(), stopping.clone());
        join_all([
            reconcile::run(machine_reconciler, machines, machine_queue, more()),
            reconcile::run(instance_reconciler, instances, instance_queue, more()),
            reconcile::run(
                replica_set_reconciler,
                replica_sets.store,
                replica_set_queue,
                more(),
            ),
            reconcile::run(pool_reconciler, pools.store, pool_queue, more()),
        ])
        .await;
    };
    tokio::select! {
        _ = watches => warn!("the watches ended"),
        () = telling => warn!("nobody says any more whether machines run"),
        () = reconcilers => {}
    }
    // The reconcilers are gone, and with them the last way to hand in events.
    if let Err(error) = writing.await {
        warn!(%error, "the event writer broke down");
    }
}

/// Machines that run are asked; an instance whose machine told something new is looked at.
async fn ask(answers: Answers, way: Option<Arc<dyn AskMachine>>, instance: Trigger<Instance>) {
    match way {
        Some(way) => {
            let news = move |machine: &MachinePod| {
                instance.look_at(ObjectRef::new(&machine.instance).within(&machine.namespace));
            };
            answers.ask(way, news).await;
        }
        None => std::future::pending().await,
    }
}

/// Machines are looked at when they change, and so is the pool of one.
fn watch_machines(
    client: Client,
    own: &OwnWrites,
    machine: Trigger<Machine>,
    pools: Keepers<Pool>,
    tell: Tell,
) -> (Store<Machine>, BoxFuture<'static, ()>) {
    let own = own.clone();
    watch(
        Api::all(client),
        Config::default(),
        move |machines, change| {
            tell.machines(!machines.is_empty());
            match change {
                Change::Object(object) => {
                    own.appeared(object);
                    machine.look_at(ObjectRef::from_obj(object));
                    pools.machine_changed(machines, object);
                }
                Change::Listed => {
                    look_at_all(machines, &machine);
                    pools.machines_listed(machines);
                }
            }
        },
    )
}

/// Instances are looked at when they change, and so are the replica set of one and the machine of
/// that name, which may be waiting for the name to become free.
fn watch_instances(
    client: Client,
    own: &OwnWrites,
    instance: Trigger<Instance>,
    machine: Trigger<Machine>,
    machines: Store<Machine>,
    replica_sets: Keepers<ReplicaSet>,
    tell: Tell,
) -> (Store<Instance>, BoxFuture<'static, ()>) {
    let own = own.clone();
    watch(
        Api::all(client),
        Config::default(),
        move |instances, change| {
            tell.instances(!instances.is_empty());
            match change {
                Change::Object(object) => {
                    own.appeared(object);
                    instance.look_at(ObjectRef::from_obj(object));
                    let name = object.meta().name.as_deref().unwrap_or_default();
                    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
                    machine.look_at(ObjectRef::new(name).within(namespace));
                    replica_sets.instance_changed(instances, object);
                }
                Change::Listed => {
                    look_at_all(instances, &instance);
                    replica_sets.instances_listed(instances);
                    look_at_all(&machines, &machine);
                }
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
) -> (Store<Packed<Pod>>, BoxFuture<'static, ()>) {
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
