//! The reconciler of instances: VirtualMachineInstance → pod, and its state back.

mod asked;
mod conditions;
mod decide;
mod images;
mod notes;
mod obstacle;
mod phase;
mod pod;
mod prepare;
mod resize;
mod status;
mod volumes;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use tracing::{debug, info};
use vm_api::contract::TRACE_PARENT_ANNOTATION;
use vm_api::v1::VirtualMachineInstance;

pub(crate) use asked::START_PAUSED;
pub(crate) use decide::{FINALIZER, QUICK_END};
use decide::{Observed, Plan, decide, must_be_gone, wants_pod};
pub use images::Finding;
use obstacle::Obstacle;
use pod::{Complaint, Progress};

use crate::ask::{Answers, MachinePod};
use crate::cluster::{Cluster, Creation, reference, resource};
use crate::conditions::reason;
use crate::events::{Events, Note};
use crate::metrics::Metrics;
use crate::packed::Packed;
use crate::reconcile::{Doing, Reconcile, ReconcileError, STALE};
use crate::refusal::{Refusal, refusal};
use crate::render::ImageForm;
use crate::traces::{Exporter, Start};
use crate::watch::Guarded;
use crate::{clock, invalid, owner, render};

/// The age from which a pod that does not get on is asked about: kubelet's own retries are past.
const PATIENCE: Duration = Duration::from_secs(4);

/// How soon an instance is looked at again whose pod no watch shows.
const UNSEEN: Duration = Duration::from_secs(1);

/// Annotation of an instance: whenever its value changes, the machine is asked at once. Who does
/// something to the machine that its pod does not show sets it.
pub const ASK_ANNOTATION: &str = "kubevirt.io/ask-again";

/// What the API server says of a resource that it does not have, where it would name an object that
/// is gone.
const NO_SUCH_RESOURCE: &str = "could not find the requested resource";

/// What the node installer labels a node with that has no hardware virtualization.
const EMULATED: &str = "tcg";

/// Reconciles instances.
pub struct Instances {
    /// The way to the API server.
    pub cluster: Cluster,
    /// Where events go.
    pub events: Events,
    /// What is counted.
    pub metrics: Metrics,
    /// Pods of machines.
    pub pods: Store<Packed<Pod>>,
    /// What machines told.
    pub answers: Answers,
    /// Image of the machine container of machines that boot from a claim.
    pub placeholder_image: String,
    /// What the cluster has for images beside a machine's first.
    pub images: Finding,
    /// How long a start that goes well stays unreported.
    pub progress_delay: Duration,
    /// Where the traces of starts go.
    pub traces: Exporter,
}

impl Reconcile<Guarded<VirtualMachineInstance>> for Instances {
    fn reconcile(
        self: Arc<Self>,
        object: Arc<Guarded<VirtualMachineInstance>>,
    ) -> BoxFuture<'static, Result<Option<Duration>, ReconcileError>> {
        async move {
            match &object.0 {
                Ok(instance) => self.one(instance).await,
                Err(error) => {
                    invalid::report(&self.events, &*object, error);
                    Ok(None)
                }
            }
        }
        .boxed()
    }
}

impl Instances {
    async fn one(
        &self,
        instance: &VirtualMachineInstance,
    ) -> Result<Option<Duration>, ReconcileError> {
        let namespace = instance.namespace().unwrap_or_default();
        let name = ObjectRef::new(&render::pod_name(instance)).within(&namespace);
        let is_ours = |pod: &Pod| owner::is_of(pod, instance.metadata.uid.as_deref());
        let seen = self.pods.get(&name).map(|pod| pod.unpack()).transpose();
        let seen = seen.map_err(kube::Error::SerdeError);
        let mut pod = seen.doing("read the pod")?.filter(is_ours);
        let written = &self.cluster.own;
        if written.is_stale(instance) || pod.as_ref().is_some_and(|pod| written.is_stale(pod)) {
            // The watch brings what was written; this only makes sure.
            return Ok(Some(STALE));
        }
        // The watch may be behind, and does not show a pod that lost its label.
        let is_unseen = pod.is_none() && must_be_gone(instance);
        if is_unseen {
            let found = self.cluster.pod(&namespace, &name.name).await;
            let found = found.doing("look for the pod")?;
            pod = found.filter(is_ours);
        }
        let mut obstacle = None;
        if wants_pod(instance, pod.as_ref()) {
            match self.make_pod(instance).await? {
                Ok(()) => return Ok(Some(self.progress_delay)),
                Err(found) => obstacle = Some(found),
            }
        }
        let complaint = match pod.as_ref() {
            Some(pod) => self.complaint_about(pod).await?,
            None => None,
        };
        let resize_refused = match pod.as_ref() {
            Some(pod) => self.resize(instance, pod).await?,
            None => None,
        };
        let uid = instance.uid().unwrap_or_default();
        self.follow(instance, pod.as_ref(), &uid);
        let told = self.answers.of(&uid);
        let plan = decide(&Observed {
            instance,
            pod: pod.as_ref(),
            obstacle: obstacle.as_ref(),
            complaint: complaint.as_ref(),
            emulated: self.is_emulated(pod.as_ref()).await?,
            told: told.as_deref(),
            resize_refused: resize_refused.as_deref(),
            now: clock::now(),
            progress_delay: self.progress_delay,
        });
        let again = self.carry_out(instance, pod.as_ref(), plan).await?;
        let unseen = (is_unseen && pod.is_some()).then_some(UNSEEN);
        Ok(again.into_iter().chain(unseen).min())
    }

    /// Makes the pod, or tells what keeps it from being made.
    async fn make_pod(
        &self,
        instance: &VirtualMachineInstance,
    ) -> Result<Result<(), Obstacle>, ReconcileError> {
        let begin = SystemTime::now();
        let mut pod = match self.render(instance).await? {
            Ok(pod) => pod,
            Err(Some(obstacle)) => return Ok(Err(obstacle)),
            Err(None) => return Ok(Ok(())),
        };
        let trace = Start::of(instance, self.traces.all());
        if let Some(trace) = &trace {
            let parent = trace.parent_of_pod().to_string();
            pod.annotations_mut()
                .insert(TRACE_PARENT_ANNOTATION.to_owned(), parent);
        }
        match self.cluster.create(&pod, resource::PODS).await {
            Ok(Creation::Made) => {
                let step = trace.map(|it| it.step("create-pod", begin, SystemTime::now()));
                self.traces.send(step);
                let message = format!("Created virtual machine pod {}", pod.name_any());
                info!(pod = pod.name_any(), "pod created");
                let note = Note::normal(reason::SUCCESSFUL_CREATE, message);
                self.events.publish(&reference(instance), [note]);
                Ok(Ok(()))
            }
            // The watch lags behind our own write, or another has the name.
            Ok(Creation::Found) => {
                let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
                let found = self.cluster.pod(&namespace, &name).await;
                let found = found.doing("look for the pod")?;
                let uid = instance.metadata.uid.as_deref();
                match found.is_some_and(|found| !owner::is_of(&found, uid)) {
                    true => Ok(Err(Obstacle::NameTaken(name))),
                    false => Ok(Ok(())),
                }
            }
            Err(error) => {
                if images::refused(&pod, &error) {
                    self.images.forget();
                }
                Ok(not_made(error)?.map_or(Ok(()), Err))
            }
        }
    }

    /// The pod, with its further images in the form that the cluster has; or what keeps it from being
    /// made, which is nothing where its namespace is on its way out.
    async fn render(
        &self,
        instance: &VirtualMachineInstance,
    ) -> Result<Result<Pod, Option<Obstacle>>, ReconcileError> {
        let claims = match prepare::claims(&self.cluster, instance).await? {
            Ok(claims) => claims,
            Err(obstacle) => return Ok(Err(Some(obstacle))),
        };
        let render =
            |form| prepare::pod(instance, &claims, &self.placeholder_image, form).map_err(Some);
        let known = self.images.form();
        let with_volumes = match render(known.unwrap_or_default()) {
            Ok(pod) if known.is_none() && images::needed(&pod) => pod,
            rendered => return Ok(rendered),
        };
        match self.cluster.rehearse(&with_volumes).await {
            Ok(Some(made)) if images::kept(&with_volumes, &made) => {
                self.images.learn(ImageForm::Volume);
                return Ok(Ok(with_volumes));
            }
            // It is there, in whichever form.
            Ok(None) => return Ok(Ok(with_volumes)),
            Ok(Some(_)) => {}
            Err(error) if images::refused(&with_volumes, &error) => {}
            Err(error) => return Ok(Err(not_made(error)?)),
        }
        let pod = match render(ImageForm::Sidecar) {
            Ok(pod) => pod,
            rendered => return Ok(rendered),
        };
        match self.cluster.rehearse(&pod).await {
            Ok(Some(made)) if !images::are_sidecars(&made) => {
                let obstacle = images::unsupported(&instance.spec, &with_volumes);
                Ok(Err(Some(obstacle)))
            }
            Ok(made) => {
                if made.is_some() {
                    info!("the cluster has no image volumes: further images are sidecars");
                    self.images.learn(ImageForm::Sidecar);
                }
                Ok(Ok(pod))
            }
            Err(error) => Ok(Err(not_made(error)?)),
        }
    }

    /// What kubelet complains about while the pod does not get on: only its events tell.
    async fn complaint_about(&self, pod: &Pod) -> Result<Option<Complaint>, ReconcileError> {
        let created = pod.metadata.creation_timestamp.as_ref();
        let age = created.map_or(Duration::ZERO, |at| clock::between(at, &clock::now()));
        let waits = pod::progress(pod) == Progress::Starting && pod::node(pod).is_some();
        if !waits || age < PATIENCE || pod::is_terminating(pod) {
            return Ok(None);
        }
        let event = self
            .cluster
            .warning_about(pod)
            .await
            .doing("read the pod's events")?;
        Ok(event.map(|event| {
            Complaint::new(
                event.reason.unwrap_or_else(|| "Failed".to_owned()),
                event.message.unwrap_or_default(),
            )
        }))
    }

    /// Lets the pod have the size that the spec asks for; the API server's sentence if it refuses.
    async fn resize(
        &self,
        instance: &VirtualMachineInstance,
        pod: &Pod,
    ) -> Result<Option<String>, ReconcileError> {
        let patch = resize::change(instance, pod).and_then(|change| change.patch(pod));
        let Some((container, resources)) = patch else {
            return Ok(None);
        };
        match self.cluster.resize(pod, &container, &resources).await {
            Ok(()) => {
                info!(pod = pod.name_any(), "pod resized");
                Ok(None)
            }
            // Kubernetes before 1.33 does not know how.
            Err(kube::Error::Api(status))
                if status.code == 404 && status.message.contains(NO_SUCH_RESOURCE) =>
            {
                let unknown = "the cluster cannot resize pods: it needs Kubernetes 1.33";
                Ok(Some(unknown.to_owned()))
            }
            Err(error) => match refusal(&error) {
                Refusal::Mend(message) => Ok(Some(message)),
                Refusal::Leaving => Ok(None),
                Refusal::Passing => Err(error).doing("resize the pod"),
            },
        }
    }

    /// Has the machine asked while it runs.
    fn follow(&self, instance: &VirtualMachineInstance, pod: Option<&Pod>, uid: &str) {
        let running = pod.filter(|pod| !pod::is_terminating(pod));
        let Some((pod, Progress::Running(since))) = running.map(|pod| (pod, pod::progress(pod)))
        else {
            self.answers.forget(uid);
            return;
        };
        let seconds = since.map_or(0, |since| clock::between(&since, &clock::now()).as_secs());
        let machine = MachinePod {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            container: pod::machine_container(pod).to_owned(),
            instance: instance.name_any(),
        };
        let ready = pod::condition(pod, "Ready").map_or("", |ready| &ready.status);
        let asked_for = instance.annotations().get(ASK_ANNOTATION);
        let hint = format!("{ready} {}", asked_for.map_or("", String::as_str));
        self.answers.runs(uid, &machine, seconds, &hint);
    }

    async fn is_emulated(&self, pod: Option<&Pod>) -> Result<bool, ReconcileError> {
        let Some(pod) = pod.filter(|pod| matches!(pod::progress(pod), Progress::Running(_))) else {
            return Ok(false);
        };
        match pod::node(pod) {
            Some(node) => {
                let accelerator = self
                    .cluster
                    .accelerator(node)
                    .await
                    .doing("read the node's labels")?;
                Ok(accelerator.as_deref() == Some(EMULATED))
            }
            None => Ok(false),
        }
    }

    async fn carry_out(
        &self,
        instance: &VirtualMachineInstance,
        pod: Option<&Pod>,
        plan: Plan,
    ) -> Result<Option<Duration>, ReconcileError> {
        let regarding = reference(instance);
        let wrote = plan.status.is_some();
        if let Some(status) = plan.status {
            debug!(phase = ?status.phase, "writing the status");
            let written = serde_json::to_value(&status)
                .map_err(kube::Error::SerdeError)
                .doing("write the status as JSON")?;
            self.cluster
                .apply_status(instance, written, resource::INSTANCE_STATUS)
                .await
                .doing("write the status")?;
            let (metadata, old) = (&instance.metadata, instance.status.as_ref());
            self.metrics.transitions.count(metadata, old, &status);
            if let Some(trace) = Start::of(instance, self.traces.all()) {
                self.traces.send(trace.spans(instance, &status));
            }
        }
        self.events.publish(&regarding, plan.notes);
        if let Some(pod) = pod.filter(|_| plan.delete_pod) {
            let name = pod.name_any();
            let was_there = self
                .cluster
                .delete(pod, resource::PODS)
                .await
                .doing("delete the pod")?;
            if was_there {
                info!(pod = name, "pod deleted");
                let message = format!("Deleted virtual machine pod {name}");
                let note = Note::normal(reason::SUCCESSFUL_DELETE, message);
                self.events.publish(&regarding, [note]);
            }
        }
        // A written status makes the version that was seen an old one; its event brings us back.
        if !wrote && (plan.hold || plan.release) {
            let mut finalizers = instance.finalizers().to_vec();
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            if plan.hold {
                finalizers.push(FINALIZER.to_owned());
            }
            self.cluster
                .set_finalizers(instance, &finalizers, resource::INSTANCES)
                .await
                .doing("set the finalizers")?;
        }
        Ok(plan.again)
    }
}

/// What the API server's refusal of a pod means: nothing if its namespace is on its way out.
fn not_made(error: kube::Error) -> Result<Option<Obstacle>, ReconcileError> {
    match refusal(&error) {
        Refusal::Mend(message) => Ok(Some(Obstacle::Refused(message))),
        Refusal::Leaving => Ok(None),
        Refusal::Passing => Err(error).doing("create the pod"),
    }
}
