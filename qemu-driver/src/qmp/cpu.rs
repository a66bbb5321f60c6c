//! What the processors of a running machine have, and what they could have: QEMU takes any wish, and
//! leaves out what the node cannot do.

use qapi::qmp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Qmp, QmpError};
use crate::machine::{Accelerator, CpuWord};

/// The command `query-cpu-model-expansion`, its answer as far as it is read.
#[derive(Serialize)]
struct Expand {
    #[serde(rename = "type")]
    kind: &'static str,
    model: Value,
}

#[derive(Deserialize)]
struct Expanded {
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    props: Map<String, Value>,
}

impl qapi::Command for Expand {
    type Ok = Expanded;
    const NAME: &'static str = "query-cpu-model-expansion";
    const ALLOW_OOB: bool = false;
}

/// QEMU's name of the property that stands for `feature`: libvirt's words, which KubeVirt's are, differ
/// from it in some (libvirt, `src/qemu/qemu_capabilities.c`).
fn property(feature: &CpuWord) -> String {
    match feature.as_str() {
        "pclmuldq" => "pclmulqdq".to_owned(),
        word => word.replace('_', "-"),
    }
}

impl Qmp {
    /// Whether the guest's processors have `feature`; QEMU refuses for one that it does not know.
    pub async fn guest_has(&self, feature: &CpuWord) -> Result<bool, QmpError> {
        let answer = self.ask_cpu(&property(feature)).await?;
        Ok(answer.as_bool().unwrap_or(false))
    }

    /// Features of the machine's processor model that the node cannot give its guest.
    pub async fn missing_features(&self) -> Result<Vec<String>, QmpError> {
        let answer = self.ask_cpu("unavailable-features").await?;
        let words = answer.as_array().into_iter().flatten();
        Ok(words
            .filter_map(|word| Some(word.as_str()?.to_owned()))
            .collect())
    }

    /// Whether a guest of this node could have `feature`.
    pub async fn node_has(
        &self,
        feature: &CpuWord,
        accelerator: Accelerator,
    ) -> Result<bool, QmpError> {
        let model = match accelerator {
            Accelerator::Kvm => "host",
            Accelerator::Tcg => "max",
        };
        let command = Expand {
            kind: "full",
            model: json!({ "name": model }),
        };
        let Model { props } = self.connection.execute(&command).await?.model;
        let had = props.get(&property(feature)).and_then(Value::as_bool);
        Ok(had.unwrap_or(false))
    }

    /// A property of the first vCPU; the others have the same.
    async fn ask_cpu(&self, property: &str) -> Result<Value, QmpError> {
        let cpus = self.execute(&qmp::query_cpus_fast {}).await?;
        let path = cpus.into_iter().find_map(|cpu| match cpu {
            qmp::CpuInfoFast::x86_64(cpu) => Some(cpu.qom_path),
            _ => None,
        });
        let command = qmp::qom_get {
            path: path.unwrap_or_default(),
            property: property.to_owned(),
        };
        self.execute(&command).await
    }
}
