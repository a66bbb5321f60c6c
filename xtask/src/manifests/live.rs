//! Runs manifests on a cluster as a user would: created in a namespace of their own, with what they
//! refer to, started if they are halted, looked at until they run or say why they do not.
//!
//! *Assumptions*: the product is installed, and the nodes have the guest's image. *Guarantees*: what
//! was created is deleted, namespaces and objects of the cluster alike.

use std::io::Write;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::document::{Content, Document};
use super::library::Library;
use super::observe::{self, Seen};
use super::verdict::Verdict;
use super::{applied, shrink};
use crate::cluster::{ClusterName, kubectl};
use crate::command;

/// How long a manifest may take to run or to say why it does not. Emulated guests count as running
/// within seconds.
const PATIENCE: Duration = Duration::from_secs(150);

/// How long something must be said before it counts: a claim that binds, a node that gets room.
const STABLE: Duration = Duration::from_secs(15);

/// How often to look.
const LOOK: Duration = Duration::from_millis(500);

/// What KubeVirt's feature gate HostDisk is there is a label of the namespace here.
const HOST_DISKS: &str = "kubevirt.io/host-disks=allowed";

/// The label of all namespaces that are made here.
const OURS: &str = "kubevirt.io/manifests=true";

/// How long the last machines may take to go: those of which a minute of grace is asked take it.
const LEAVE: &str = "--timeout=300s";

/// Deletes what an earlier run left, or what this one has not seen go.
pub(super) fn tidy(cluster: &ClusterName) -> Result<()> {
    let delete = ["delete", "namespaces", "--selector", OURS, LEAVE];
    command::run(kubectl(cluster).args(delete))
}

/// Runs manifests on a cluster.
pub(super) struct Runner<'a> {
    pub(super) cluster: &'a ClusterName,
    pub(super) library: &'a Library,
    /// Try again with less processors and memory what no node has room for.
    pub(super) shrink: bool,
    /// Held by whoever makes objects of the cluster: they have no namespace of their own.
    pub(super) of_cluster: Mutex<()>,
}

/// How a `kubectl` ended.
pub(super) struct Said {
    pub(super) is_done: bool,
    pub(super) text: String,
}

impl Runner<'_> {
    /// What becomes of the document at `index`, of which `expected` was said without a cluster.
    pub(super) fn run(&self, index: usize, expected: &Verdict) -> Verdict {
        let seen = self.once(index, expected, false);
        // The same, told by fields.
        if seen.class() == expected.class() {
            return expected.clone();
        }
        if let (Verdict::Unschedulable { why }, true) = (&seen, self.shrink)
            && let Verdict::Runs { .. } = self.once(index, expected, true)
        {
            let why = format!("{why}. With {} it runs", shrink::SIZE);
            return Verdict::Unschedulable { why };
        }
        seen
    }

    fn once(&self, index: usize, expected: &Verdict, small: bool) -> Verdict {
        let documents = &self.library.documents;
        let companions = self.library.companions(index).documents;
        let is_of_cluster = |at: &usize| is_of_cluster(&documents[*at]);
        let _alone = companions
            .iter()
            .chain([&index])
            .any(is_of_cluster)
            .then(|| self.of_cluster.lock());
        let space = Space::new(self.cluster, index);
        let space = match space {
            Ok(space) => space,
            Err(error) => {
                let why = format!("no namespace could be made: {error:#}");
                return Verdict::Failed { why };
            }
        };
        // Those that others refer to first.
        for at in companions.iter().rev() {
            let said = match space.create(&documents[*at], small) {
                Ok(said) => said,
                Err(error) => return failed(&error),
            };
            // What the machine lacks then, its condition says.
            if !said.is_done && matches!(expected, Verdict::Works) {
                let name = format!("{} {}", documents[*at].kind(), documents[*at].name());
                let why = format!("the {name} that goes with it was refused: {}", said.text);
                return Verdict::Failed { why };
            }
        }
        self.subject(&space, &documents[index], expected, small)
            .unwrap_or_else(|error| failed(&error))
    }

    fn subject(
        &self,
        space: &Space<'_>,
        document: &Document,
        expected: &Verdict,
        small: bool,
    ) -> Result<Verdict> {
        let said = space.create(document, small)?;
        if let Some(verdict) = applied::verdict(&said, expected) {
            return Ok(verdict);
        }
        let kind = document.kind();
        if kind.ends_with("Instancetype") || kind.ends_with("Preference") {
            return space.expand(document);
        }
        space.watch(document, expected)
    }
}

fn failed(error: &anyhow::Error) -> Verdict {
    Verdict::Failed {
        why: format!("{error:#}"),
    }
}

/// Whether a document has no namespace.
fn is_of_cluster(document: &Document) -> bool {
    let kind = document.kind();
    kind.contains("Cluster")
        || matches!(
            kind,
            "PriorityClass" | "PersistentVolume" | "StorageClass" | "Namespace"
        )
}

/// A namespace that lives as long as the value, with objects of the cluster that live as long.
struct Space<'a> {
    cluster: &'a ClusterName,
    name: String,
    of_cluster: Mutex<Vec<String>>,
}

impl<'a> Space<'a> {
    fn new(cluster: &'a ClusterName, index: usize) -> Result<Self> {
        let space = Self {
            cluster,
            name: format!("manifest-{index}-{:x}", fastrand::u32(..)),
            of_cluster: Mutex::default(),
        };
        space.must(&["create", "namespace", &space.name])?;
        space.must(&["label", "namespace", &space.name, HOST_DISKS, OURS])?;
        // Pods are refused until it is there.
        let begin = Instant::now();
        while !space
            .try_to(&["get", "serviceaccount", "default"], None)?
            .is_done
            && begin.elapsed() < PATIENCE
        {
            std::thread::sleep(LOOK);
        }
        Ok(space)
    }

    /// Runs `kubectl` in the namespace.
    fn try_to(&self, arguments: &[&str], input: Option<&str>) -> Result<Said> {
        let mut child = kubectl(self.cluster)
            .arg("--namespace")
            .arg(&self.name)
            .args(arguments)
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run kubectl")?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // A command that ends early leaves the rest unread.
            _ = stdin.write_all(input.as_bytes());
        }
        let done = child.wait_with_output().context("wait for kubectl")?;
        let is_done = done.status.success();
        let text = if is_done { done.stdout } else { done.stderr };
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        Ok(Said { is_done, text })
    }

    fn must(&self, arguments: &[&str]) -> Result<String> {
        let said = self.try_to(arguments, None)?;
        anyhow::ensure!(
            said.is_done,
            "kubectl {}: {}",
            arguments.join(" "),
            said.text
        );
        Ok(said.text)
    }

    /// Creates a document's object, with no change but its namespace; an unreadable one is given as it
    /// is.
    fn create(&self, document: &Document, small: bool) -> Result<Said> {
        let text = match &document.content {
            Content::Unreadable { text, .. } => text.clone(),
            Content::Object(object) => {
                let mut object = object.clone();
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("namespace");
                }
                if small {
                    shrink::shrink(&mut object);
                }
                object.to_string()
            }
        };
        let said = self.try_to(&["create", "--filename=-", "--output=name"], Some(&text))?;
        if said.is_done && is_of_cluster(document) {
            let mut made = self.of_cluster.lock().unwrap_or_else(|it| it.into_inner());
            made.push(said.text.clone());
        }
        Ok(said)
    }

    /// The objects of these kinds.
    fn list(&self, kinds: &str) -> Result<Vec<Value>> {
        let text = self.must(&["get", kinds, "--output=json"])?;
        let mut list: Value = serde_json::from_str(&text).context("read kubectl's JSON")?;
        let items = list["items"].as_array_mut().map(std::mem::take);
        Ok(items.unwrap_or_default())
    }

    /// What the machines of the namespace come to.
    fn watch(&self, document: &Document, expected: &Verdict) -> Result<Verdict> {
        let begin = Instant::now();
        let mut was_started = false;
        let mut first: Option<(Verdict, Instant)> = None;
        loop {
            let objects = self.list("vm,vmi,vmirs,vmpool")?;
            match observe::seen(&objects) {
                Seen::Runs(how) => {
                    let how = if was_started {
                        format!("Stopped, as it asks for; started: {how}")
                    } else {
                        how
                    };
                    return Ok(Verdict::Runs { seen: how });
                }
                Seen::Stopped if !was_started && document.kind() == "VirtualMachine" => {
                    was_started = true;
                    if let Some(refusal) = self.start(&objects)? {
                        return Ok(Verdict::Failed { why: refusal });
                    }
                }
                Seen::Tells(verdict) => match &first {
                    Some((before, since)) if before.class() == verdict.class() => {
                        if since.elapsed() > STABLE {
                            return Ok(verdict);
                        }
                    }
                    _ => first = Some((verdict, Instant::now())),
                },
                Seen::Stopped | Seen::Nothing => first = None,
            }
            if begin.elapsed() > PATIENCE {
                let warnings = self.warnings()?;
                return Ok(observe::at_last(&objects, &warnings, expected));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Starts the machines; the refusal, if there is one.
    fn start(&self, objects: &[Value]) -> Result<Option<String>> {
        for machine in objects.iter().filter(|it| it["kind"] == "VirtualMachine") {
            let name = machine["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!(
                "/apis/subresources.kubevirt.io/v1/namespaces/{}/virtualmachines/{name}/start",
                self.name
            );
            let said = self.try_to(&["replace", "--raw", &path, "--filename=-"], Some("{}"))?;
            if !said.is_done {
                return Ok(Some(format!("start was refused: {}", said.text)));
            }
        }
        Ok(None)
    }

    /// Messages of the warnings of the namespace, oldest first.
    fn warnings(&self) -> Result<Vec<String>> {
        let sorted = "--sort-by=.metadata.creationTimestamp";
        let only = "--field-selector=type=Warning";
        let text = self.must(&["get", "events", only, sorted, "--output=json"])?;
        let list: Value = serde_json::from_str(&text).context("read kubectl's JSON")?;
        let items = list["items"].as_array().into_iter().flatten();
        let messages = items.filter_map(|event| event["message"].as_str());
        Ok(messages.map(str::to_owned).collect())
    }

    /// What a plain machine becomes with an instance type or a preference, asked of the API.
    fn expand(&self, document: &Document) -> Result<Verdict> {
        let field = if document.kind().ends_with("Preference") {
            "preference"
        } else {
            "instancetype"
        };
        let mut machine = json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "metadata": { "name": "plain" },
            "spec": { "runStrategy": "Halted", "template": { "spec": {
                "domain": { "devices": {} },
                "volumes": [{ "name": "root", "containerDisk": { "image": super::image::GUEST } }],
            } } },
        });
        let matcher = json!({ "name": document.name(), "kind": document.kind() });
        machine["spec"][field] = matcher;
        let input = machine.to_string();
        let said = self.try_to(&["create", "--filename=-"], Some(&input))?;
        if !said.is_done {
            let why = format!("a plain machine with it was refused: {}", said.text);
            return Ok(Verdict::Failed { why });
        }
        let path = format!(
            "/apis/subresources.kubevirt.io/v1/namespaces/{}/virtualmachines/plain/expand-spec",
            self.name
        );
        let said = self.try_to(&["get", "--raw", &path], None)?;
        let seen = "applied, and a plain machine expands with it".to_owned();
        Ok(match said.is_done {
            true => Verdict::Runs { seen },
            false => observe::not_expanded(&said.text),
        })
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        // What cannot be deleted shows in the cluster; the verdict stands.
        let made =
            std::mem::take(&mut *self.of_cluster.lock().unwrap_or_else(|it| it.into_inner()));
        let namespace = format!("namespace/{}", self.name);
        for object in made.iter().chain([&namespace]) {
            if let Err(error) = self.must(&["delete", object, "--wait=false"]) {
                eprintln!("{error:#}");
            }
        }
    }
}
