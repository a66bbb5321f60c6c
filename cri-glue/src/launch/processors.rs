//! Whether the processors that QEMU made are those that the spec asks for: QEMU itself leaves out what
//! the node cannot do, and says so only in its log.

use qemu_driver::Qmp;
use qemu_driver::machine::{Accelerator, CpuModel, CpuWord, MachineError};
use qemu_driver::qmp::QmpError;
use vm_api::machine::{self, MachineCpuFeature};
use vm_api::v1::VirtualMachineInstanceSpec;
use vm_api::validate::CpuFeaturePolicy;

/// What is to be looked after.
#[derive(Debug, Default)]
pub(super) struct Processors {
    required: Vec<(usize, CpuWord)>,
    forbidden: Vec<(usize, CpuWord)>,
    /// The model, where it is one by name, and features of it that may be missing.
    model: Option<(String, Vec<String>)>,
    accelerator: Option<Accelerator>,
}

/// Why the node's processors are not those that the spec asks for.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum ProcessorsError {
    #[error(
        "domain.cpu.features[{index}]: the guest cannot have {feature} on this node: choose another \
         node, or the policy optional"
    )]
    Missing { index: usize, feature: String },
    #[error(
        "domain.cpu.features[{index}]: this node has {feature}, which is forbidden: choose another \
         node, or the policy disable"
    )]
    Forbidden { index: usize, feature: String },
    #[error(
        "domain.cpu.model: this node cannot be a {model}: it lacks {}; choose another node, another \
         model, or host-model", missing.join(", ")
    )]
    Model { model: String, missing: Vec<String> },
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

impl Processors {
    /// What `spec` wants to be looked after on a node with this accelerator.
    pub(super) fn of(
        spec: &VirtualMachineInstanceSpec,
        model: &CpuModel,
        accelerator: Accelerator,
    ) -> Result<Self, MachineError> {
        let mut wanted = Self {
            accelerator: Some(accelerator),
            ..Self::default()
        };
        let mut may_be_missing = Vec::new();
        // What is wrong with them was refused before.
        let features = machine::cpu_features(spec).unwrap_or_default();
        for (index, MachineCpuFeature { name, policy }) in features.into_iter().enumerate() {
            let feature = CpuWord::new(name)?;
            match policy {
                CpuFeaturePolicy::Require => wanted.required.push((index, feature)),
                CpuFeaturePolicy::Forbid => wanted.forbidden.push((index, feature)),
                CpuFeaturePolicy::Force | CpuFeaturePolicy::Optional => {
                    may_be_missing.push(name.to_owned());
                }
                CpuFeaturePolicy::Disable => {}
            }
        }
        // Emulation lacks something of nearly every model, and is not chosen for its processors.
        if let (CpuModel::Named(model), Accelerator::Kvm) = (model, accelerator) {
            wanted.model = Some((model.as_str().to_owned(), may_be_missing));
        }
        Ok(wanted)
    }

    /// Asks QEMU.
    pub(super) async fn check(self, qmp: &Qmp) -> Result<(), ProcessorsError> {
        for (index, feature) in self.required {
            if !qmp.guest_has(&feature).await? {
                let feature = feature.as_str().to_owned();
                return Err(ProcessorsError::Missing { index, feature });
            }
        }
        let accelerator = self.accelerator.unwrap_or(Accelerator::Tcg);
        for (index, feature) in self.forbidden {
            if qmp.node_has(&feature, accelerator).await? {
                let feature = feature.as_str().to_owned();
                return Err(ProcessorsError::Forbidden { index, feature });
            }
        }
        if let Some((model, may_be_missing)) = self.model {
            let mut missing = qmp.missing_features().await?;
            missing.retain(|feature| !may_be_missing.contains(feature));
            if !missing.is_empty() {
                return Err(ProcessorsError::Model { model, missing });
            }
        }
        Ok(())
    }
}
