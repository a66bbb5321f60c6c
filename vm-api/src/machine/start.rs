//! How a machine starts.

use crate::v1::VirtualMachineInstanceSpec;
use crate::validate::StartStrategy;

/// Whether the machine is left paused when it starts, until somebody lets it run.
pub fn starts_paused(spec: &VirtualMachineInstanceSpec) -> bool {
    spec.start_strategy.as_deref() == Some(StartStrategy::Paused.as_str())
}
