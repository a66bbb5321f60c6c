//! Verbs on running instances that answer at once: pause, reset, reboot, freeze.
//!
//! What the machine's pod does not show (whether it is paused, above all) is asked of the machine. The
//! reconciler, which may be in another replica, is told by an annotation to ask too.

use std::time::Duration;

use hyper::StatusCode;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tracing::{info, warn};
use vm_api::v1::VirtualMachineInstance;

use super::answer::{Answer, empty};
use super::failure::{Failure, INSTANCE};
use super::objects;
use super::options::{self, Freeze, Plain};
use crate::cluster::{FIELD_MANAGER, reference};
use crate::events::{Events, Note};
use crate::verbs::{Machine, VerbError, Verbs};
use crate::vmi::ASK_ANNOTATION;

/// Bytes of a short answer: a status has the guest's interfaces in it, as many as it says.
const SHORT: usize = 1 << 20;

/// Time that a verb has.
pub(super) const BOUND: Duration = Duration::from_secs(20);

/// Begin of what the shim says where there is no agent.
const NO_AGENT: &str = "no guest agent runs in the machine";

/// A verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Pause,
    Unpause,
    Reset,
    SoftReboot,
    Freeze,
    Unfreeze,
}

/// What verbs need.
pub(super) struct Instances<'a> {
    pub(super) client: &'a Client,
    pub(super) verbs: &'a Verbs,
    pub(super) events: &'a Events,
}

impl Verb {
    /// Who is said not to run, in KubeVirt's words.
    fn who(self) -> &'static str {
        match self {
            Self::Unpause | Self::Unfreeze | Self::Reset => "VMI",
            Self::Pause | Self::SoftReboot | Self::Freeze => "VM",
        }
    }

    /// What is told about the instance when it is done: the reconciler sees no pause that is over soon.
    fn note(self) -> Option<Note> {
        match self {
            Self::Pause => Some(Note::normal("Paused", "VirtualMachineInstance paused")),
            Self::Unpause => Some(Note::normal("Unpaused", "VirtualMachineInstance unpaused")),
            Self::SoftReboot => Some(Note::normal(
                "SoftRebooted",
                "VirtualMachineInstance soft rebooted",
            )),
            Self::Reset | Self::Freeze | Self::Unfreeze => None,
        }
    }
}

impl Instances<'_> {
    /// Does `verb` on the instance `namespace`/`name`.
    pub(super) async fn change(
        &self,
        namespace: &str,
        name: &str,
        verb: Verb,
        body: &[u8],
    ) -> Result<Answer, Failure> {
        let (dry_run, thaw_after) = match verb {
            Verb::Freeze => (false, thaw_after(&options::read::<Freeze>(body)?)?),
            _ => (options::read::<Plain>(body)?.dry_run.0, None),
        };
        let instance = objects::instance(self.client, namespace, name).await?;
        objects::running(&instance, verb.who())?;
        let conflict = |why: &str| Failure::conflict(INSTANCE, name, why);
        if verb == Verb::Pause && instance.spec.liveness_probe.is_some() {
            let why = "Pausing VMIs with LivenessProbe is currently not supported";
            return Err(Failure::forbidden(INSTANCE, name, why));
        }
        let machine = objects::running_machine(self.client, &instance).await?;
        let state = match verb {
            Verb::Pause | Verb::Unpause | Verb::SoftReboot => self.state(&machine, name).await?,
            _ => String::new(),
        };
        let paused = state == "paused" || state == "prelaunch";
        match verb {
            Verb::Pause if paused => return Err(conflict("VMI is already paused")),
            Verb::Unpause if !paused => return Err(conflict("VMI is not paused")),
            Verb::SoftReboot if paused => return Err(conflict("VMI is paused")),
            _ => {}
        }
        if dry_run {
            return Ok(empty(StatusCode::OK));
        }
        let thaw_after = thaw_after.map(|seconds| seconds.to_string());
        let words: Vec<&str> = match verb {
            Verb::Pause => vec!["vm:pause"],
            Verb::Unpause => vec!["vm:resume"],
            Verb::Reset => vec!["vm:reset"],
            Verb::SoftReboot => vec!["vm:reboot"],
            Verb::Freeze => match &thaw_after {
                Some(seconds) => vec!["vm:freeze", "--thaw-after", seconds],
                None => vec!["vm:freeze"],
            },
            Verb::Unfreeze => vec!["vm:thaw"],
        };
        let done = self.verbs.call(&machine, &words, SHORT, BOUND).await;
        done.map_err(|error| failure(error, name))?;
        info!(namespace, name, ?verb, "asked for by a user");
        self.events.publish(&reference(&instance), verb.note());
        self.ask_again(&instance).await;
        Ok(empty(StatusCode::OK))
    }

    /// What the processors of `machine` do, in QEMU's word.
    async fn state(&self, machine: &Machine, name: &str) -> Result<String, Failure> {
        let words = ["vm:status", "-o", "json"];
        let answer = self.verbs.call(machine, &words, SHORT, BOUND).await;
        let answer = answer.map_err(|error| failure(error, name))?;
        let status: Value = serde_json::from_slice(&answer).map_err(Failure::internal)?;
        Ok(status["state"].as_str().unwrap_or_default().to_owned())
    }

    /// Has the reconciler ask the machine: without it, the status follows later.
    async fn ask_again(&self, instance: &VirtualMachineInstance) {
        let api: Api<VirtualMachineInstance> = Api::namespaced(
            self.client.clone(),
            &instance.namespace().unwrap_or_default(),
        );
        let patch = json!({ "metadata": {
            "uid": instance.uid(),
            "annotations": { ASK_ANNOTATION: Timestamp::now().to_string() },
        } });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let name = instance.name_any();
        if let Err(error) = api.patch(&name, &params, &Patch::Merge(patch)).await {
            warn!(%error, name, "the status shows later what was done");
        }
    }
}

fn thaw_after(options: &Freeze) -> Result<Option<u32>, Failure> {
    let Some(text) = &options.unfreeze_timeout else {
        return Ok(None);
    };
    match options::seconds(text) {
        // As in KubeVirt, no time is no limit.
        Some(0) => Ok(None),
        Some(seconds) => Ok(Some(seconds)),
        None => Err(Failure::bad_request(format!(
            "unfreezeTimeout: {text:?} is no duration such as 5m0s"
        ))),
    }
}

/// What is said when a machine did not do its verb.
pub(super) fn failure(error: VerbError, name: &str) -> Failure {
    match error {
        VerbError::Refused(said) if said.starts_with(NO_AGENT) => {
            let why = "VMI does not have guest agent connected";
            Failure::conflict(INSTANCE, name, why)
        }
        VerbError::Late { .. } => Failure::timeout(error.to_string()),
        error => Failure::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_says_is_what_the_client_reads() {
        let refused = |said: &str| failure(VerbError::Refused(said.into()), "tl").message;
        assert_eq!(
            refused("no guest agent runs in the machine: install and start it"),
            "Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io \"tl\": VMI does \
             not have guest agent connected"
        );
        assert_eq!(
            refused("the guest is frozen"),
            "Internal error occurred: the guest is frozen"
        );
    }

    #[test]
    fn a_freeze_may_have_an_end() {
        let after = |text: &str| {
            let options = Freeze {
                unfreeze_timeout: Some(text.into()),
            };
            thaw_after(&options).map_err(|failure| failure.code.as_u16())
        };
        assert_eq!(after("5m0s"), Ok(Some(300)));
        assert_eq!(after("0s"), Ok(None));
        assert_eq!(after("soon"), Err(400));
    }
}
