//! Instance types and preferences of machines: found, remembered as they were, and expanded.
//!
//! *Expected flow*: a machine's matcher → the object, by name or by the labels of a volume → a
//! ControllerRevision that holds it, owned by the machine → the reference to it in the machine's
//! status, written before there is an instance → each instance is made from the revision.
//! *Guarantees*: a machine whose status has a reference is not changed by a change of the object;
//! one without matchers costs nothing. *Assumptions*: the content of a ControllerRevision does not
//! change, which the API server sees to.

mod found;
mod infer;
mod problem;
mod refs;
mod revision;
mod stores;

use std::borrow::Cow;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{Client, ResourceExt};
use thiserror::Error;
use vm_api::defaults;
use vm_api::instancetype::{Expansion, Family, Matcher, ObjectKind};
use vm_api::v1::{ControllerRevisionRef, InstancetypeStatusRef, VirtualMachine};

use crate::cluster::{Cluster, resource};
use found::{Content, Found};
pub use problem::Problem;
pub(crate) use refs::Refs;
use refs::{Named, Step};
use stores::Stores;

/// Both matchers of a machine.
const FAMILIES: [Family; 2] = [Family::Instancetype, Family::Preference];

/// Finds instance types and preferences; a clone finds the same.
#[derive(Clone)]
pub struct Types {
    cluster: Cluster,
    stores: Option<Stores>,
}

/// Why a machine could not be expanded.
#[derive(Debug, Error)]
pub enum ExpandError {
    /// The user's to mend.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The API server did not answer.
    #[error("looking up the machine's instance type and preference failed: {0}")]
    Cluster(#[from] kube::Error),
}

impl Types {
    /// Watches the four kinds; the future runs until dropped.
    pub fn watch(client: &Client, cluster: Cluster) -> (Self, BoxFuture<'static, ()>) {
        let (stores, watches) = Stores::watch(client);
        let stores = Some(stores);
        (Self { cluster, stores }, watches)
    }

    /// Reads each object when it is asked for: for who asks seldom, or does not lead.
    pub fn unwatched(cluster: Cluster) -> Self {
        let stores = None;
        Self { cluster, stores }
    }

    /// Waits for the first listings; false if the watches ended before.
    pub async fn wait_until_ready(&self) -> bool {
        match &self.stores {
            Some(stores) => stores.wait_until_ready().await,
            None => true,
        }
    }

    /// `vm` as it stands for itself: its template expanded with its instance type and its preference
    /// and filled up with the defaults, both matchers and what the status remembers of them gone. A
    /// machine without matchers is returned as it is. Nothing is written: what the status remembers
    /// counts, and otherwise the objects as they are now. `vm` needs a namespace.
    ///
    /// # Errors
    ///
    /// If something that the machine refers to is not there or does not go together with it; the
    /// sentence names the fields and is fit for the answer of an API.
    pub async fn expand(&self, vm: &VirtualMachine) -> Result<VirtualMachine, ExpandError> {
        let mut expanded = vm.clone();
        if vm.spec.instancetype.is_none() && vm.spec.preference.is_none() {
            return Ok(expanded);
        }
        let mut contents = Vec::new();
        for family in FAMILIES {
            contents.extend(self.current(vm, family).await??);
        }
        apply(&mut expanded, &contents)?;
        defaults::instance(expanded.spec.template.spec.get_or_insert_default());
        expanded.spec.instancetype = None;
        expanded.spec.preference = None;
        if let Some(status) = &mut expanded.status {
            status.instancetype_ref = None;
            status.preference_ref = None;
        }
        Ok(expanded)
    }

    /// What the status of `vm` has to remember before it gets an instance; what that refers to is
    /// stored by then.
    pub(crate) async fn settle(&self, vm: &VirtualMachine) -> kube::Result<Result<Refs, Problem>> {
        let known = Refs::known(vm);
        let mut refs = Refs::default();
        let mut new = Vec::new();
        for family in FAMILIES {
            let matcher = refs::matcher(vm, family);
            let step = match refs::step(matcher.as_ref(), known.of(family)) {
                Ok(step) => step,
                Err(problem) => return Ok(Err(problem)),
            };
            match step {
                Step::Nothing => {}
                Step::Known(reference) => refs.set(family, Some(reference)),
                Step::LookUp(_) | Step::Infer(_) => match self.look_up(vm, family, step).await? {
                    Ok(Some(found)) => new.push(found),
                    Ok(None) => refs.set(family, matcher.as_ref().map(refs::inferred)),
                    Err(problem) => return Ok(Err(problem)),
                },
            }
        }
        if let Err(problem) = goes_together(vm, &refs, &new) {
            return Ok(Err(problem));
        }
        for (named, found) in new {
            let name = match self.store(vm, &found).await? {
                Ok(name) => name,
                Err(problem) => return Ok(Err(problem)),
            };
            let reference = InstancetypeStatusRef {
                controller_revision_ref: Some(ControllerRevisionRef { name: Some(name) }),
                ..named.reference
            };
            refs.set(found.kind.family, Some(reference));
        }
        Ok(Ok(refs))
    }

    /// `vm` with its template expanded from the revisions that `refs` names; the matchers stay.
    pub(crate) async fn expanded<'a>(
        &self,
        vm: &'a VirtualMachine,
        refs: &Refs,
    ) -> kube::Result<Result<Cow<'a, VirtualMachine>, Problem>> {
        if vm.spec.instancetype.is_none() && vm.spec.preference.is_none() {
            return Ok(Ok(Cow::Borrowed(vm)));
        }
        let mut contents = Vec::new();
        for family in FAMILIES {
            let Some(name) = refs.of(family).and_then(InstancetypeStatusRef::revision) else {
                continue;
            };
            match self.stored(vm, family, name).await? {
                Ok(content) => contents.push(content),
                Err(problem) => return Ok(Err(problem)),
            }
        }
        let mut expanded = vm.clone();
        Ok(apply(&mut expanded, &contents).map(|()| {
            annotate(&mut expanded, refs);
            Cow::Owned(expanded)
        }))
    }

    /// The content that the matcher of `vm` means: what the status remembers, or else what is there
    /// now.
    async fn current(
        &self,
        vm: &VirtualMachine,
        family: Family,
    ) -> kube::Result<Result<Option<Content>, Problem>> {
        let known = Refs::known(vm);
        let matcher = refs::matcher(vm, family);
        let step = match refs::step(matcher.as_ref(), known.of(family)) {
            Ok(step) => step,
            Err(problem) => return Ok(Err(problem)),
        };
        match step {
            Step::Nothing => Ok(Ok(None)),
            Step::Known(reference) => match reference.revision() {
                Some(name) => Ok(self.stored(vm, family, name).await?.map(Some)),
                None => Ok(Ok(None)),
            },
            Step::LookUp(_) | Step::Infer(_) => {
                let found = self.look_up(vm, family, step).await?;
                Ok(found.map(|found| found.map(|(_, found)| found.content)))
            }
        }
    }

    /// The object that a matcher means; none where a failed inference is ignored.
    async fn look_up(
        &self,
        vm: &VirtualMachine,
        family: Family,
        step: Step,
    ) -> kube::Result<Result<Option<(Named, Found)>, Problem>> {
        let Some(matcher) = refs::matcher(vm, family) else {
            return Ok(Ok(None));
        };
        let named = match step {
            Step::LookUp(named) => Ok(named),
            Step::Infer(volume) => self.infer(vm, &matcher, &volume).await?,
            Step::Nothing | Step::Known(_) => return Ok(Ok(None)),
        };
        let named = match named {
            Ok(named) => named,
            Err(Problem::Inference {
                ignorable: true, ..
            }) if matcher.ignores_failure() => return Ok(Ok(None)),
            Err(problem) => return Ok(Err(problem)),
        };
        let namespace = vm.namespace().unwrap_or_default();
        let stores = self.stores.as_ref();
        let found = stores::find(stores, &self.cluster, named.kind, &namespace, &named.name);
        Ok(match found.boxed().await? {
            Some(found) => found.map(|found| Some((named, found))),
            None => Err(Problem::Missing {
                kind: named.kind,
                name: named.name,
            }),
        })
    }

    async fn infer(
        &self,
        vm: &VirtualMachine,
        matcher: &Matcher<'_>,
        volume: &str,
    ) -> kube::Result<Result<Named, Problem>> {
        let family = matcher.family;
        let claim = match infer::claim(vm, family, volume) {
            Ok(claim) => claim,
            Err(problem) => return Ok(Err(problem)),
        };
        let namespace = vm.namespace().unwrap_or_default();
        let Some(found) = self.cluster.claim(&namespace, claim).await? else {
            return Ok(Err(infer::missing(family, claim)));
        };
        Ok(infer::named(found.labels(), family, claim)
            .and_then(|(name, kind)| refs::named(matcher, &name, kind.as_deref())))
    }

    /// Stores `found` for `vm`; the revision's name.
    async fn store(
        &self,
        vm: &VirtualMachine,
        found: &Found,
    ) -> kube::Result<Result<String, Problem>> {
        let revision = revision::of(vm, found).map_err(kube::Error::SerdeError)?;
        let name = revision.name_any();
        // A revision of that name holds the same: the machine, the object's UID and generation are in it.
        self.cluster
            .create_unwatched(&revision, resource::CONTROLLER_REVISIONS)
            .await?;
        Ok(Ok(name))
    }

    async fn stored(
        &self,
        vm: &VirtualMachine,
        family: Family,
        name: &str,
    ) -> kube::Result<Result<Content, Problem>> {
        let namespace = vm.namespace().unwrap_or_default();
        let found = self.cluster.read::<ControllerRevision>(&namespace, name);
        Ok(match found.await? {
            Some(revision) => revision::read(&revision, family),
            None => Err(Problem::RevisionMissing {
                family,
                name: name.to_owned(),
            }),
        })
    }
}

/// Whether what was found now goes together with `vm`, before it is stored. With an instance type
/// from before, that is seen when an instance is made.
fn goes_together(vm: &VirtualMachine, refs: &Refs, new: &[(Named, Found)]) -> Result<(), Problem> {
    if new.is_empty() || refs.of(Family::Instancetype).is_some() {
        return Ok(());
    }
    let contents: Vec<_> = new.iter().map(|(_, found)| found.content.clone()).collect();
    apply(&mut vm.clone(), &contents)
}

/// Expands the template of `vm`.
fn apply(vm: &mut VirtualMachine, contents: &[Content]) -> Result<(), Problem> {
    let matcher = refs::matcher(vm, Family::Instancetype);
    let memory_is_fallback = matcher
        .is_some_and(|matcher| matcher.infer_from_volume.is_some() && matcher.ignores_failure());
    let mut expansion = Expansion {
        memory_is_fallback,
        ..Expansion::default()
    };
    for content in contents {
        match content {
            Content::Instancetype(spec) => expansion.instancetype = Some(spec),
            Content::Preference(spec) => expansion.preference = Some(spec),
        }
    }
    vm_api::instancetype::expand(&mut vm.spec.template, expansion).map_err(Problem::fields)
}

/// Names what the instance is made with in its annotations, as KubeVirt does.
fn annotate(vm: &mut VirtualMachine, refs: &Refs) {
    let metadata = vm.spec.template.metadata.get_or_insert_default();
    let annotations = metadata.annotations.get_or_insert_default();
    for family in FAMILIES {
        let Some(reference) = refs.of(family) else {
            continue;
        };
        let kind = ObjectKind::parse(family, reference.kind.as_deref());
        if let (Some(kind), Some(name)) = (kind, &reference.name) {
            annotations.insert(kind.annotation().to_owned(), name.clone());
        }
    }
}
