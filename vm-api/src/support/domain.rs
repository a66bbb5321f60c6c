//! What KubeVirt's admission lets pass of processors, clock, features and small devices, and no machine
//! can be made from.

use crate::field::FieldError;
use crate::machine::{
    chassis, clock, cpu_features, credentials, features, inputs, panic_devices, probes,
    serial_number, sound, video,
};
use crate::v1::VirtualMachineInstanceSpec;

pub(super) fn refused(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    errors.extend(credentials(spec).err().unwrap_or_default());
    errors.extend(cpu_features(spec).err().unwrap_or_default());
    errors.extend(clock(spec).err().unwrap_or_default());
    errors.extend(features(spec).err().unwrap_or_default());
    errors.extend(serial_number(spec).err());
    errors.extend(chassis(spec).err().unwrap_or_default());
    errors.extend(inputs(spec).err().unwrap_or_default());
    errors.extend(panic_devices(spec).err().unwrap_or_default());
    errors.extend([video(spec).err(), sound(spec).err()].into_iter().flatten());
    errors.extend(
        probes(spec)
            .into_iter()
            .filter_map(|(_, _, check)| check.err()),
    );
    errors
}
