//! The states that machines and instances are in, and the strategies by which machines run.
//!
//! Each is an enum whose text is KubeVirt's. A text of the status that is not known reads as
//! `Unknown`, so that no object of a newer version stops an older reader.

use serde::{Deserialize, Serialize};

use crate::words::words;

/// Reads a word of a status leniently and gives it a schema.
macro_rules! status_word {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Ok(text.parse().unwrap_or(Self::Unknown))
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string" })
            }
        }
    };
}

words! {
    /// When a machine has a running instance.
    RunStrategy {
        /// Always: it is started again whenever it ends.
        Always = "Always",
        /// It is started again after a failure, not after a power-off.
        RerunOnFailure = "RerunOnFailure",
        /// It starts and stops on request alone.
        Manual = "Manual",
        /// It is started once and not again.
        Once = "Once",
        /// It does not run.
        Halted = "Halted",
        /// It waits for the state of a machine from elsewhere.
        WaitAsReceiver = "WaitAsReceiver",
    }
}

words! {
    /// Where in its life an instance is.
    Phase {
        /// No pod was made yet.
        Pending = "Pending",
        /// The pod waits for a node.
        Scheduling = "Scheduling",
        /// The pod has a node; the machine is prepared.
        Scheduled = "Scheduled",
        /// The machine runs.
        Running = "Running",
        /// The guest powered itself off, or was stopped.
        Succeeded = "Succeeded",
        /// The machine could not start, crashed, or was lost.
        Failed = "Failed",
        /// The node cannot be asked.
        Unknown = "Unknown",
    }
}
status_word!(Phase);

impl Phase {
    /// The instance is over for good.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

words! {
    /// State of a machine in one word, in the order in which KubeVirt looks for them.
    PrintableStatus {
        /// The machine is being deleted.
        Terminating = "Terminating",
        /// The instance is being stopped.
        Stopping = "Stopping",
        /// The instance is on its way to another node.
        Migrating = "Migrating",
        /// The guest is paused.
        Paused = "Paused",
        /// The guest runs.
        Running = "Running",
        /// A claim is missing.
        ErrorPvcNotFound = "ErrorPvcNotFound",
        /// A data volume failed.
        DataVolumeError = "DataVolumeError",
        /// No node can run it.
        ErrorUnschedulable = "ErrorUnschedulable",
        /// Data volumes are being filled.
        Provisioning = "Provisioning",
        /// A claim waits for its volume.
        WaitingForVolumeBinding = "WaitingForVolumeBinding",
        /// An image could not be pulled.
        ErrImagePull = "ErrImagePull",
        /// An image could not be pulled, and it is tried less often.
        ImagePullBackOff = "ImagePullBackOff",
        /// The instance is being started.
        Starting = "Starting",
        /// The instance fails again and again.
        CrashLoopBackOff = "CrashLoopBackOff",
        /// There is no instance, or an ended one.
        Stopped = "Stopped",
        /// The instance waits for the state of a machine from elsewhere.
        WaitingForReceiver = "WaitingForReceiver",
        /// None of these.
        Unknown = "Unknown",
    }
}
status_word!(PrintableStatus);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back() {
        for word in RunStrategy::ALL {
            assert_eq!(word.as_str().parse(), Ok(*word));
        }
        for word in Phase::ALL {
            assert_eq!(
                serde_json::from_value::<Phase>(word.as_str().into()).ok(),
                Some(*word)
            );
        }
    }

    #[test]
    fn a_word_of_a_newer_version_reads_as_unknown() {
        let status: PrintableStatus = serde_json::from_str("\"Levitating\"").unwrap();
        assert_eq!(status, PrintableStatus::Unknown);
    }

    #[test]
    fn a_wrong_strategy_is_answered_with_the_right_ones() {
        let error = "Allways".parse::<RunStrategy>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`Allways` is none of Always, RerunOnFailure, Manual, Once, Halted, WaitAsReceiver"
        );
    }
}
