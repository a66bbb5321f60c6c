//! What may happen to the controller and around it. After each fault the job is finished: no instance
//! gets a second pod, and no stop is lost.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use vm_api::v1::{VirtualMachine, VirtualMachineInstance};

use super::leading::{SHORT, leads};
use crate::bench::{Bench, CONTROLLER_TOKEN, CONTROLLER_USER};
use crate::controller::Controller;
use crate::space::{NAME, Space, until};
use crate::tap::{Step, Tap};

/// A lease that outlasts what happens in a case.
const LONG: &[&str] = &["--lease-seconds=60"];

/// Where the distribution (libfaketime) puts what plays with clocks.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A task that ends when dropped.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn node_of(space: &Space) -> Task {
    Task(tokio::spawn(space.node.clone().play()))
}

/// Waits until the machine and its instance have stopped and say so.
async fn stopped(space: &Space) -> Result<()> {
    space.gone(&space.vmis, NAME).await?;
    until("the machine is stopped", || async {
        let status = space.vm().await?.status.unwrap_or_default();
        let word = status.printable_status.map(|word| word.to_string());
        ensure!(
            word.as_deref() == Some("Stopped") && status.created == Some(false),
            "{status:?}"
        );
        Ok(())
    })
    .await?;
    ensure!(
        space
            .pods
            .list(&ListParams::default())
            .await?
            .items
            .is_empty(),
        "a pod is left"
    );
    Ok(())
}

/// Each instance that was made got one pod. What the API server did for a controller that was killed
/// over it, it cannot say in its audit log: that may count or not.
fn one_pod_each(bench: &Bench, space: &Space, instances: usize) -> Result<()> {
    let done = bench.done(CONTROLLER_USER, &space.namespace);
    let unknown = bench.unanswered(CONTROLLER_USER, &space.namespace);
    let number = |writes: &[String], what| writes.iter().filter(|write| *write == what).count();
    for what in ["create virtualmachineinstances", "create pods"] {
        let (least, most) = (number(&done, what), number(&unknown, what));
        ensure!(
            (least..=least + most).contains(&instances),
            "{what}: {least}, and {most} of unknown end, not {instances}: {done:?}"
        );
    }
    Ok(())
}

/// At which moment of a write the controller is killed.
#[derive(Clone, Copy)]
enum Moment {
    /// The write is lost; every controller but the first has got one write done.
    Before,
    /// It is done, and the controller has not heard of it.
    After,
}

/// Kills the controller at every write.
struct Killer {
    moment: Moment,
    pid: AtomicI32,
    /// Writes that the controller of now may still do.
    free: AtomicUsize,
    kills: AtomicUsize,
}

impl Killer {
    fn new(moment: Moment) -> Self {
        Self {
            moment,
            pid: AtomicI32::new(0),
            free: AtomicUsize::new(0),
            kills: AtomicUsize::new(0),
        }
    }

    /// Whether the controller lives on after that step.
    fn spares(&self, step: &Step) -> bool {
        if !step.is_write() || step.done != matches!(self.moment, Moment::After) {
            return true;
        }
        let one_less = |free: usize| free.checked_sub(1);
        if self
            .free
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
            .is_ok()
        {
            return true;
        }
        // Of writes that come at the same time, the first has killed it.
        let pid = self.pid.swap(0, Ordering::SeqCst);
        if pid != 0 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            self.kills.fetch_add(1, Ordering::SeqCst);
        }
        false
    }

    /// Runs controllers, one after the other.
    fn run(self: Arc<Self>, bench: Arc<Bench>, kubeconfig: PathBuf) -> Task {
        Task(tokio::spawn(async move {
            loop {
                // Of the same name, as a container that kubelet starts again: it need not wait.
                let mut controller =
                    Controller::start_by(&bench, "killed", SHORT, &kubeconfig, &[]);
                self.pid.store(controller.pid().as_raw(), Ordering::SeqCst);
                while !controller.has_ended() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let passes = usize::from(matches!(self.moment, Moment::Before));
                self.free.store(passes, Ordering::SeqCst);
            }
        }))
    }
}

/// A whole life, through which the controller is killed at every write.
async fn killed(bench: Arc<Bench>, name: &str, moment: Moment) -> Result<()> {
    let space = Space::new(&bench.client, name).await?;
    let killer = Arc::new(Killer::new(moment));
    let watching = Arc::clone(&killer);
    let tap = Tap::new(
        &bench,
        Arc::new(move |step| {
            let spared = watching.spares(&step);
            Box::pin(async move { spared })
        }),
    )
    .await;
    let kubeconfig = bench.kubeconfig_by(CONTROLLER_TOKEN, &tap.server);
    let _controllers = Arc::clone(&killer).run(Arc::clone(&bench), kubeconfig);
    let _node = node_of(&space);
    space.machine("Always", json!({})).await?;
    space.status("Running").await?;
    space.patch(json!({ "runStrategy": "Halted" })).await?;
    stopped(&space).await?;
    one_pod_each(&bench, &space, 1)?;
    space.patch(json!({ "runStrategy": "Always" })).await?;
    space.status("Running").await?;
    space.held().await?;
    space.vms.delete(NAME, &DeleteParams::default()).await?;
    space.gone(&space.vms, NAME).await?;
    space.gone(&space.vmis, NAME).await?;
    one_pod_each(&bench, &space, 2)?;
    let kills = killer.kills.load(Ordering::SeqCst);
    ensure!(kills >= 10, "it was killed only {kills} times");
    Ok(())
}

pub(crate) async fn killed_before_each_write(bench: Arc<Bench>, name: String) -> Result<()> {
    killed(bench, &name, Moment::Before).await
}

pub(crate) async fn killed_after_each_write(bench: Arc<Bench>, name: String) -> Result<()> {
    killed(bench, &name, Moment::After).await
}

/// A leader stands still between two steps, and goes on when another has led the machine to its end.
pub(crate) async fn two_leaders(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let (arrived, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let held = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (arrived, goes_on) = (Arc::clone(&arrived), Arc::clone(&goes_on));
        move |step: Step| {
            // What the pod is made from is read: its creation is the next step.
            let is_it = step.done && step.path.contains("/persistentvolumeclaims/data");
            let first = is_it && !held.swap(true, Ordering::SeqCst);
            let (arrived, goes_on) = (Arc::clone(&arrived), Arc::clone(&goes_on));
            Box::pin(async move {
                if first {
                    arrived.notify_one();
                    goes_on.notified().await;
                }
                true
            }) as BoxFuture<'static, bool>
        }
    };
    let tap = Tap::new(&bench, Arc::new(watcher)).await;
    let kubeconfig = bench.kubeconfig_by(CONTROLLER_TOKEN, &tap.server);
    let first = Controller::start_by(&bench, "suspended", SHORT, &kubeconfig, &[]);
    leads(&bench, "suspended").await?;
    let _: PersistentVolumeClaim = space
        .create(json!({
            "metadata": { "name": "data" },
            "spec": { "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": "1Gi" } } },
        }))
        .await?;
    let volumes = json!([{ "name": "root", "persistentVolumeClaim": { "claimName": "data" } }]);
    space
        .machine("Always", json!({ "volumes": volumes }))
        .await?;
    tokio::time::timeout(Duration::from_secs(20), arrived.notified())
        .await
        .context("the claim is not read")?;
    first.signal(Signal::SIGSTOP);
    goes_on.notify_one();
    let second = Controller::start(&bench, "successor", SHORT);
    leads(&bench, "successor").await?;
    let _node = node_of(&space);
    space.status("Running").await?;
    space.patch(json!({ "runStrategy": "Halted" })).await?;
    stopped(&space).await?;
    first.signal(Signal::SIGCONT);
    until("the first stands by", || async {
        ensure!(first.log().contains("standing by"), "{}", first.log());
        Ok(())
    })
    .await?;
    one_pod_each(&bench, &space, 1)?;
    space.delete().await?;
    second.stop();
    first.stop();
    Ok(())
}

/// The API server goes while a machine is started, and again while it is stopped, for longer than the
/// lease lasts.
pub(crate) async fn api_server_gone(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let mut controller = Controller::start(&bench, "patient", SHORT);
    leads(&bench, "patient").await?;
    let _node = node_of(&space);
    space.machine("Always", json!({})).await?;
    outage(&bench).await;
    space.status("Running").await?;
    space.patch(json!({ "runStrategy": "Halted" })).await?;
    outage(&bench).await;
    stopped(&space).await?;
    one_pod_each(&bench, &space, 1)?;
    ensure!(!controller.has_ended(), "{}", controller.log());
    ensure!(
        controller.log().contains("gave up the lease"),
        "the outage was too short"
    );
    space.delete().await?;
    controller.stop();
    Ok(())
}

async fn outage(bench: &Bench) {
    bench.kill_apiserver();
    tokio::time::sleep(Duration::from_secs(4)).await;
    bench.start_apiserver().await;
}

/// The controller sees nothing for a while, and what it missed is nowhere any more.
pub(crate) async fn watch_history_lost(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let controller = Controller::start(&bench, "blind", LONG);
    leads(&bench, "blind").await?;
    let pod = space.running("Always").await?;
    controller.signal(Signal::SIGSTOP);
    // The guest powers off, its pod is removed, and the user asks for a stop and changes the template.
    space.node.finish(&pod, 0).await?;
    let memory = json!({ "domain": { "memory": { "guest": "256Mi" } } });
    space
        .patch(json!({ "runStrategy": "Halted", "template": { "spec": memory } }))
        .await?;
    let version = space
        .vms
        .list(&ListParams::default())
        .await?
        .metadata
        .resource_version;
    bench.kill_apiserver();
    bench.compact(&version.context("a version")?);
    bench.start_apiserver().await;
    controller.signal(Signal::SIGCONT);
    stopped(&space).await?;
    one_pod_each(&bench, &space, 1)?;
    let log = controller.log();
    ensure!(log.contains("a watch broke"), "{log}");
    space.patch(json!({ "runStrategy": "Always" })).await?;
    let next = space.another_pod(&pod).await?;
    let spec = next
        .annotations()
        .get("kubevirt.io/vmi-spec")
        .context("the spec")?;
    ensure!(spec.contains("256Mi"), "{spec}");
    space.node.run(&next).await?;
    space.status("Running").await?;
    space.delete().await?;
    controller.stop();
    Ok(())
}

/// Somebody else writes the machine and its instance, spec, status and metadata, all the time.
pub(crate) async fn conflicting_writers(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let controller = Controller::start(&bench, "disturbed", LONG);
    leads(&bench, "disturbed").await?;
    let _node = node_of(&space);
    let disturbances = Arc::new(AtomicUsize::new(0));
    let disturber = Task(tokio::spawn(disturb(
        space.vms.clone(),
        space.vmis.clone(),
        Arc::clone(&disturbances),
    )));
    space.machine("Always", json!({})).await?;
    space.status("Running").await?;
    let uid = space.vmi().await?.uid();
    space.patch(json!({ "runStrategy": "Halted" })).await?;
    stopped(&space).await?;
    one_pod_each(&bench, &space, 1)?;
    // A stop that is asked for once, as virtctl does.
    space.patch(json!({ "runStrategy": "Manual" })).await?;
    space.request(json!([{ "action": "Start" }])).await?;
    space.status("Running").await?;
    let next = space.vmi().await?.uid();
    ensure!(next != uid, "another instance");
    space
        .request(json!([{ "action": "Stop", "uid": next }]))
        .await?;
    stopped(&space).await?;
    one_pod_each(&bench, &space, 2)?;
    drop(disturber);
    let number = disturbances.load(Ordering::SeqCst);
    ensure!(number >= 20, "there were only {number} other writes");
    let log = controller.log();
    ensure!(
        log.contains("the object has been modified"),
        "no write came too late: {log}"
    );
    space.delete().await?;
    controller.stop();
    Ok(())
}

async fn disturb(
    vms: Api<VirtualMachine>,
    vmis: Api<VirtualMachineInstance>,
    number: Arc<AtomicUsize>,
) {
    let params = PatchParams::default();
    for count in 0.. {
        let count = count.to_string();
        let metadata = Patch::Merge(json!({ "metadata": { "annotations": { "count": count } } }));
        let status = Patch::Merge(json!({ "status": { "migrationTransport": count } }));
        let template = json!({ "metadata": { "annotations": { "count": count } } });
        let spec = Patch::Merge(json!({ "spec": { "template": template } }));
        // While there is none to write, there is nothing to disturb.
        let written = [
            vms.patch(NAME, &params, &metadata).await.is_ok(),
            vms.patch(NAME, &params, &spec).await.is_ok(),
            vmis.patch(NAME, &params, &metadata).await.is_ok(),
            vmis.patch_status(NAME, &params, &status).await.is_ok(),
        ];
        number.fetch_add(
            written.into_iter().filter(|done| *done).count(),
            Ordering::SeqCst,
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The clock of one process, told by libfaketime; timers go on as they are.
struct Clock(PathBuf);

impl Clock {
    fn new(bench: &Bench) -> Result<Self> {
        let library = Self::library();
        let exists = Path::new(&library).exists();
        ensure!(
            exists,
            "no {library:?}: install libfaketime, or set TEST_ASSET_FAKETIME"
        );
        let clock = Self(bench.log_file("clock"));
        clock.set("+0s")?;
        Ok(clock)
    }

    /// Sets it to so much after the true time.
    fn set(&self, offset: &str) -> Result<()> {
        // At once: the process reads it all the time.
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{offset}\n"))?;
        std::fs::rename(&new, &self.0)?;
        Ok(())
    }

    fn library() -> OsString {
        std::env::var_os("TEST_ASSET_FAKETIME").unwrap_or_else(|| FAKETIME.into())
    }

    fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", Self::library()),
            ("FAKETIME_TIMESTAMP_FILE", self.0.clone().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}

/// The clock of the controller's host is set back, and forward again.
pub(crate) async fn clock_jumps(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let clock = Clock::new(&bench)?;
    let kubeconfig = bench.kubeconfig(CONTROLLER_TOKEN);
    let controller =
        Controller::start_by(&bench, "dizzy", SHORT, &kubeconfig, &clock.environment());
    leads(&bench, "dizzy").await?;
    space.machine("Always", json!({})).await?;
    let pod = space.pod().await?;
    space.node.refuse(&pod, "no disk in /disk").await?;
    space.status("CrashLoopBackOff").await?;
    space.gone(&space.vmis, NAME).await?;
    // The pause now seems to last an hour.
    clock.set("-1h")?;
    let mut looks = 0;
    until("it is started again", || {
        looks += 1;
        // Whatever happens to it has it looked at.
        let label = json!({ "metadata": { "labels": { "look": looks.to_string() } } });
        let (space, pod) = (&space, &pod);
        async move {
            let patch = Patch::Merge(label);
            space
                .vms
                .patch(NAME, &PatchParams::default(), &patch)
                .await?;
            let pods = space.live_pods().await?;
            ensure!(
                pods.iter().any(|new| new.name_any() != pod.name_any()),
                "it is not"
            );
            Ok(())
        }
    })
    .await?;
    // What happens is told, though it lies an hour ahead.
    space.status("Starting").await?;
    let next = space.pod().await?;
    space.node.run(&next).await?;
    space.status("Running").await?;
    clock.set("+2h")?;
    space.patch(json!({ "runStrategy": "Halted" })).await?;
    space.terminating(&next).await?;
    space.node.finish(&next, 0).await?;
    stopped(&space).await?;
    one_pod_each(&bench, &space, 2)?;
    let log = controller.log();
    let last = log
        .lines()
        .next_back()
        .and_then(|line| line.split(' ').next());
    let last: Timestamp = last.context("no line")?.parse().context("its time")?;
    let ahead = last.duration_since(Timestamp::now()).as_secs();
    ensure!(ahead > 3600, "its clock was not set forward: {ahead} s");
    ensure!(
        !log.contains("gave up the lease"),
        "leading needs no clock: {log}"
    );
    space.delete().await?;
    controller.stop();
    Ok(())
}
