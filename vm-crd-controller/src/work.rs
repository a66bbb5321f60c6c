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
use crate::ask::{Answers, AskMachine, MachinePod};
use crate::cluster::Cluster;
use crate::events::Events;
use crate::in_use::{InUse, Tell};
use crate::metrics::Metrics;
use crate::own::OwnWrites;
use crate::reconcile;
use crate::serve::Readiness;
use crate::traces::Exporter;
use crate::vm::Machines;
use crate::vmi::Instances;
use crate::watch::{Change, Guarded, Trigger, look_at_all, owner, watch};

type Machine = Guarded<VirtualMachine>;
type Instance = Guarded<VirtualMachineInstance>;

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
    let (machines, watch_machines) = watch_machines(client.clone(), machine.clone(), tell.clone());
    let (instances, watch_instances) = watch_instances(
        client.clone(),
        &own,
        instance.clone(),
        machine,
        machines.clone(),
        tell.clone(),
    );
    let answers = Answers::default();
    let ask = ask(answers.clone(), way, instance.clone());
    let (pods, watch_pods) = watch_pods(client.clone(), &own, instance, instances.clone());
    // Only who leads has stores; with this future they are gone.
    let show = || metrics.objects.show(machines.clone(), instances.clone());
    let _shown = args.object_metrics.then(show);
    let watches = async { futures::join!(watch_machines, watch_instances, watch_pods, ask) };

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
        args.progress_delay(),
    ));
    let instance_reconciler = Arc::new(Instances {
        cluster,
        events,
        metrics: metrics.clone(),
        pods: pods.clone(),
        answers,
        placeholder_image: args.placeholder_image.clone(),
        progress_delay: args.progress_delay(),
        traces: Exporter::start(args.otlp_endpoint.clone(), args.trace_all, metrics.clone()),
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
            tell.begin(InUse {
                running: !instances.is_empty(),
                machines: !machines.is_empty(),
            });
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

/// Machines are looked at when they change.
fn watch_machines(
    client: Client,
    machine: Trigger<Machine>,
    tell: Tell,
) -> (Store<Machine>, impl Future<Output = ()> + Send) {
    watch(
        Api::all(client),
        Config::default(),
        move |machines, change| {
            tell.machines(!machines.is_empty());
            match change {
                Change::Object(object) => machine.look_at(ObjectRef::from_obj(object)),
                Change::Listed => look_at_all(machines, &machine),
            }
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
    tell: Tell,
) -> (Store<Instance>, impl Future<Output = ()> + Send) {
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
                }
                Change::Listed => {
                    look_at_all(instances, &instance);
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
