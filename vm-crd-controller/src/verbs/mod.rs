//! Verbs on a machine, done through its pod: `exec` with an argument that begins with `vm:`.
//!
//! The shim answers them (`docs/verbs.md`); the way is the API server, kubelet and containerd, so no
//! port of a node is needed, and whoever watches `exec` watches these too. [`Verbs::call`] is for one
//! answer, bounded in size and time; [`Verbs::stream`] for bytes both ways.

mod ask;
mod exec;

use std::time::Duration;

use hyper::body::Bytes;
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt};
use tokio::time::timeout;
use vm_api::contract::{MACHINE_CONTAINER, MACHINE_CONTAINER_ANNOTATION};

pub use exec::{Ending, Input, Output, PING, Piece};

/// Time within which a pod must be entered, which takes kubelet and the node's runtime.
const OPEN: Duration = Duration::from_secs(15);

/// Bytes of standard error that are kept.
const SAID: usize = 4 << 10;

/// The machine container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    namespace: String,
    pod: String,
    container: String,
}

/// Why a verb was not done.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    /// The pod can't be entered.
    #[error("cannot enter the pod {pod}: {source}")]
    Unreachable {
        /// Its name.
        pod: String,
        /// What the API server or kubelet said.
        source: Box<kube::Error>,
    },
    /// The connection broke.
    #[error("the connection to the pod {pod} broke: {reason}")]
    Broken {
        /// Its name.
        pod: String,
        /// How.
        reason: String,
    },
    /// The machine refuses, in its own words.
    #[error("{0}")]
    Refused(String),
    /// No answer came in time.
    #[error("{verb} was not done within {bound:?}")]
    Late {
        /// The verb.
        verb: String,
        /// How long was waited.
        bound: Duration,
    },
    /// The answer is too long.
    #[error("the answer to {verb} is longer than {limit} bytes")]
    TooLong {
        /// The verb.
        verb: String,
        /// How long it may be.
        limit: usize,
    },
}

impl Machine {
    /// The container `container` of the pod `namespace`/`pod`.
    pub fn new(namespace: &str, pod: &str, container: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
        }
    }

    /// The machine container of `pod`, by the annotation of the contract or its usual name.
    pub fn of(pod: &Pod) -> Self {
        let container = pod.annotations().get(MACHINE_CONTAINER_ANNOTATION);
        let container = container.map_or(MACHINE_CONTAINER, String::as_str);
        Self::new(
            &pod.namespace().unwrap_or_default(),
            &pod.name_any(),
            container,
        )
    }

    /// That the connection to it broke.
    pub(crate) fn broken(&self, reason: impl ToString) -> VerbError {
        VerbError::Broken {
            pod: self.pod.clone(),
            reason: reason.to_string(),
        }
    }
}

/// The way to machines.
#[derive(Clone)]
pub struct Verbs {
    client: Client,
}

/// A verb with bytes both ways.
pub struct Stream {
    /// Where bytes go.
    pub input: Input,
    /// Where they come from.
    pub output: Output,
}

impl Verbs {
    /// The way by `client`.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Does the verb that `words` are, the first of which begins with `vm:`, and waits for its answer
    /// of at most `limit` bytes for at most `bound`.
    pub async fn call(
        &self,
        machine: &Machine,
        words: &[&str],
        limit: usize,
        bound: Duration,
    ) -> Result<Bytes, VerbError> {
        let verb = || words.first().copied().unwrap_or_default().to_owned();
        let answer = async {
            let (_input, mut output) = exec::open(&self.client, machine, words, false).await?;
            let (mut answer, mut said) = (Vec::new(), Vec::new());
            loop {
                match output.next().await.map_err(|error| machine.broken(error))? {
                    Piece::Out(bytes) if answer.len() + bytes.len() > limit => {
                        return Err(VerbError::TooLong {
                            verb: verb(),
                            limit,
                        });
                    }
                    Piece::Out(bytes) => answer.extend_from_slice(&bytes),
                    Piece::Err(bytes) => keep(&mut said, &bytes),
                    Piece::Ended(Ending::Done) => return Ok(answer.into()),
                    Piece::Ended(ending) => return Err(refused(machine, &said, ending)),
                }
            }
        };
        let answer = timeout(bound, answer).await;
        answer.map_err(|_| VerbError::Late {
            verb: verb(),
            bound,
        })?
    }

    /// Does the verb that `words` are, with bytes both ways until one side ends it.
    pub async fn stream(&self, machine: &Machine, words: &[&str]) -> Result<Stream, VerbError> {
        let open = timeout(OPEN, exec::open(&self.client, machine, words, true)).await;
        let (input, output) = open.map_err(|_| VerbError::Late {
            verb: words.first().copied().unwrap_or_default().to_owned(),
            bound: OPEN,
        })??;
        Ok(Stream { input, output })
    }
}

/// Keeps what was said on standard error, as far as there is room.
pub fn keep(said: &mut Vec<u8>, bytes: &[u8]) {
    let room = SAID.saturating_sub(said.len()).min(bytes.len());
    said.extend_from_slice(&bytes[..room]);
}

/// Why a verb ended without having been done.
pub fn refused(machine: &Machine, said: &[u8], ending: Ending) -> VerbError {
    match (shown(said), ending) {
        (said, _) if !said.is_empty() => VerbError::Refused(said),
        (_, Ending::Failed(message)) => VerbError::Refused(message),
        _ => machine.broken("it ended early"),
    }
}

/// Words of a machine on one line: what a guest has a part in may hold anything.
pub fn shown(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let lines = said.split_whitespace().collect::<Vec<_>>().join(" ");
    lines.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn machine(annotations: serde_json::Value) -> Machine {
        let pod = json!({ "metadata": {
            "name": "p", "namespace": "n", "annotations": annotations,
        } });
        Machine::of(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn the_machine_container_is_the_annotations() {
        assert_eq!(machine(json!({})).container, "compute");
        let named = machine(json!({ "kubevirt.io/machine-container": "vm" }));
        assert_eq!(named.container, "vm");
    }

    #[test]
    fn a_refusal_is_what_the_machine_said() {
        let machine = machine(json!({}));
        let failed = || Ending::Failed("command terminated with exit code 1".into());
        let words = |said: &[u8], ending| refused(&machine, said, ending).to_string();
        assert_eq!(
            words(b"no agent\x07:\n  install it\n", failed()),
            "no agent: install it"
        );
        assert_eq!(words(b"", failed()), "command terminated with exit code 1");
        assert_eq!(
            words(b"", Ending::Cut),
            "the connection to the pod p broke: it ended early"
        );
        let mut said = Vec::new();
        for _ in 0..10 {
            keep(&mut said, &[b'x'; 1000]);
        }
        assert_eq!(said.len(), SAID);
    }
}
