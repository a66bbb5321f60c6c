//! A machine with its instance type and its preference: a template that stands for itself.
//!
//! *Expected flow*: what volumes and networks mean is written out → the instance type sets what it
//! owns, and whatever the template sets of that is a conflict → the preference fills in what is still
//! open → what it requires is checked. *Guarantees*: a template that was refused is
//! not to be used; one that was expanded names every field it has, so that one which does not work
//! is refused by its name as in any other machine. Verdicts are those of KubeVirt's admission.

mod devices;
mod guest;
mod requirements;
mod size;
mod topology;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{InstancetypeSpec, PreferenceSpec, validate};
use crate::defaults;
use crate::field::{FieldError, sorted};
use crate::v1::{Disk, VirtualMachineInstanceSpec, VirtualMachineInstanceTemplateSpec};

pub(super) use topology::spread;

/// The instance's part of a machine's paths.
const TEMPLATE: &str = "template.spec";

/// What a template is expanded with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expansion<'a> {
    /// The instance type.
    pub instancetype: Option<&'a InstancetypeSpec>,
    /// The preference.
    pub preference: Option<&'a PreferenceSpec>,
    /// The template's memory stands for a machine without the instance type, which was found by
    /// inference: it is no conflict, and not used.
    pub memory_is_fallback: bool,
}

/// Expands `template`. The errors name fields relative to the machine's spec; those within the two
/// objects begin with `instancetype.spec` and `preference.spec`.
pub fn expand(
    template: &mut VirtualMachineInstanceTemplateSpec,
    expansion: Expansion<'_>,
) -> Result<(), Vec<FieldError>> {
    let Expansion {
        instancetype,
        preference,
        memory_is_fallback,
    } = expansion;
    if instancetype.is_none() && preference.is_none() {
        return Ok(());
    }
    refuse(contents(expansion))?;
    let spec = template.spec.get_or_insert_default();
    if let Some(devices) = preference.and_then(|preference| preference.devices.as_ref()) {
        devices::attach(devices, &mut spec.domain.devices);
    }
    write_out(spec);
    if let Some(instancetype) = instancetype {
        if memory_is_fallback {
            spec.domain.memory = None;
        }
        let annotations = annotations(&mut template.metadata);
        let mut errors = size::apply(instancetype, preference, spec);
        errors = under_template(errors);
        errors.extend(size::annotate(&instancetype.annotations, annotations));
        refuse(errors)?;
    }
    let Some(preference) = preference else {
        return Ok(());
    };
    if let Some(preferred) = &preference.devices {
        devices::fill(preferred, spec);
    }
    guest::fill(preference, spec);
    if let Some(required) = &preference.requirements {
        refuse(requirements::check(
            required,
            instancetype,
            preference,
            spec,
        ))?;
    }
    let annotations = annotations(&mut template.metadata);
    for (key, value) in &preference.annotations {
        annotations
            .entry(key.clone())
            .or_insert_with(|| value.clone());
    }
    Ok(())
}

/// What is wrong with the two objects themselves, and with their being used together.
fn contents(expansion: Expansion<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(instancetype) = expansion.instancetype {
        let wrong = validate::instancetype(instancetype).into_iter();
        errors.extend(wrong.map(|error| error.under("instancetype.spec")));
    }
    if let Some(preference) = expansion.preference {
        let wrong = validate::preference(preference).into_iter();
        errors.extend(wrong.map(|error| error.under("preference.spec")));
    }
    if errors.is_empty()
        && let Some(instancetype) = expansion.instancetype
    {
        let guest = instancetype.cpu.guest;
        let indivisible = topology::arrange(guest, expansion.preference).err();
        errors.extend(indivisible.map(|error| error.under("instancetype.spec")));
    }
    errors
}

fn refuse(errors: Vec<FieldError>) -> Result<(), Vec<FieldError>> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(sorted(errors))
    }
}

fn under_template(errors: Vec<FieldError>) -> Vec<FieldError> {
    errors
        .into_iter()
        .map(|error| error.under(TEMPLATE))
        .collect()
}

fn annotations(metadata: &mut Option<ObjectMeta>) -> &mut BTreeMap<String, String> {
    metadata
        .get_or_insert_default()
        .annotations
        .get_or_insert_default()
}

/// Writes out the devices that are there without being listed, so that preferences meet them.
fn write_out(spec: &mut VirtualMachineInstanceSpec) {
    let devices = &mut spec.domain.devices;
    for volume in &spec.volumes {
        let listed = devices.disks.iter().any(|disk| disk.name == volume.name)
            || devices
                .filesystems
                .iter()
                .any(|share| share.name == volume.name);
        if !listed {
            devices.disks.push(Disk {
                name: volume.name.clone(),
                ..Disk::default()
            });
        }
    }
    defaults::pod_interface(spec);
}

#[cfg(test)]
mod tests;
