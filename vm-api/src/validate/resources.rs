//! Processors, memory, and what the pod requests and is limited to.

use crate::field::{FieldError, word};
use crate::machine::{bootloader, guest_memory_bytes, topology};
use crate::quantity::Quantity;
use crate::v1::VirtualMachineInstanceSpec;
use crate::words::words;

words! {
    /// Whether a feature of the processor is there.
    CpuFeaturePolicy {
        /// It is there even where the node does not have it.
        Force = "force",
        /// It is there, or no node is found.
        Require = "require",
        /// It is there where the node has it.
        Optional = "optional",
        /// It is not there.
        Disable = "disable",
        /// It is not there, and no node that has it is used.
        Forbid = "forbid",
    }
}

pub(super) fn check(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    errors.extend(topology(spec, None).err());
    errors.extend(bootloader(spec).err());
    errors.extend(secure_boot_needs_smm(spec));
    errors.extend(machine_type(spec));
    errors.extend(amounts(spec));
    errors.extend(guest_within_limit(spec));
    errors.extend(whole_pages(spec));
    for (index, feature) in spec
        .domain
        .cpu
        .iter()
        .flat_map(|cpu| cpu.features.iter().enumerate())
    {
        let path = || format!("domain.cpu.features[{index}].policy");
        errors.extend(word::<CpuFeaturePolicy>(path, feature.policy.as_deref()).err());
    }
    errors
}

pub(super) fn memory_missing(spec: &VirtualMachineInstanceSpec) -> Option<FieldError> {
    let hugepages = spec
        .domain
        .memory
        .as_ref()
        .is_some_and(|memory| memory.hugepages.is_some());
    let given = spec
        .domain
        .memory
        .as_ref()
        .is_some_and(|memory| memory.guest.is_some())
        || spec
            .domain
            .resources
            .as_ref()
            .is_some_and(|resources| resources.amount("memory").is_some());
    if given || hugepages {
        None
    } else {
        guest_memory_bytes(spec, None).err()
    }
}

fn secure_boot_needs_smm(spec: &VirtualMachineInstanceSpec) -> Option<FieldError> {
    use crate::machine::Bootloader::Uefi;
    let Ok(Uefi {
        secure_boot: true, ..
    }) = bootloader(spec)
    else {
        return None;
    };
    let smm = spec
        .domain
        .features
        .as_ref()
        .and_then(|features| features.smm.as_ref());
    let on = smm.is_some_and(|state| state.enabled != Some(false));
    (!on).then(|| {
        let message =
            "secure boot needs domain.features.smm; switch it on, or set secureBoot: false";
        FieldError::new("domain.firmware.bootloader.efi", message)
    })
}

fn machine_type(spec: &VirtualMachineInstanceSpec) -> Option<FieldError> {
    let name = spec
        .domain
        .machine
        .as_ref()?
        .r#type
        .as_deref()
        .filter(|name| !name.is_empty())?;
    let version = |name: &str| {
        let version = name.strip_prefix("pc-q35-");
        version.is_some_and(|version| {
            !version.is_empty()
                && version
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
        })
    };
    let amd64 = matches!(spec.architecture.as_deref(), None | Some("" | "amd64"));
    (amd64 && name != "q35" && !version(name)).then(|| {
        let message = format!(
            "machine type `{name}` is not known: use q35, or a version of it such as pc-q35-7.2"
        );
        FieldError::new("domain.machine.type", message)
    })
}

/// Every amount is a quantity; processors and memory are not below zero and no request is above its limit.
fn amounts(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let malformed = |path: String, quantity: &Quantity| {
        use crate::quantity::QuantityError::Malformed;
        match quantity.millis() {
            Err(error @ Malformed(_)) => Some(FieldError::new(path, error)),
            _ => None,
        }
    };
    if let Some(guest) = spec
        .domain
        .memory
        .as_ref()
        .and_then(|memory| memory.guest.as_ref())
    {
        errors.extend(malformed("domain.memory.guest".to_owned(), guest));
    }
    let Some(resources) = &spec.domain.resources else {
        return errors;
    };
    for (kind, amounts) in [
        ("requests", &resources.requests),
        ("limits", &resources.limits),
    ] {
        for (name, quantity) in amounts {
            let path = format!("domain.resources.{kind}.{name}");
            if let ("cpu" | "memory", Err(error)) = (name.as_str(), quantity.millis()) {
                errors.push(FieldError::new(path, error));
            } else {
                errors.extend(malformed(path, quantity));
            }
        }
    }
    for name in ["cpu", "memory"] {
        if let (Some(request), Some(limit)) =
            (resources.requests.get(name), resources.limits.get(name))
            && let (Ok(asked), Ok(most)) = (request.millis(), limit.millis())
            && asked > most
        {
            let message = format!("the request {request} is above the limit {limit}");
            errors.push(FieldError::new(
                format!("domain.resources.requests.{name}"),
                message,
            ));
        }
    }
    errors
}

/// Memory in huge pages is a multiple of them; where KubeVirt names it, though it may stand elsewhere.
fn whole_pages(spec: &VirtualMachineInstanceSpec) -> Option<FieldError> {
    let hugepages = spec.domain.memory.as_ref()?.hugepages.as_ref()?;
    let size = Quantity::from(hugepages.page_size.as_deref().unwrap_or_default());
    let page = match size.bytes() {
        Ok(bytes) if bytes > 0 => bytes,
        Ok(_) => {
            let message = "a huge page has a size above zero: use 2Mi or 1Gi";
            return Some(FieldError::new("domain.memory.hugepages.pageSize", message));
        }
        Err(error) => {
            return Some(FieldError::new("domain.memory.hugepages.pageSize", error));
        }
    };
    // Without any amount, it comes from the pod.
    let guest = guest_memory_bytes(spec, None).ok()?;
    (guest == 0 || !guest.is_multiple_of(page)).then(|| {
        let message = format!(
            "the guest's memory, {guest} bytes, is no multiple of its huge pages of {size}: set \
             domain.memory.guest to one"
        );
        FieldError::new("domain.resources.requests.memory", message)
    })
}

fn guest_within_limit(spec: &VirtualMachineInstanceSpec) -> Option<FieldError> {
    let guest = spec.domain.memory.as_ref()?.guest.as_ref()?;
    let limit = spec.domain.resources.as_ref()?.limits.get("memory")?;
    let (bytes, most) = (guest.bytes().ok()?, limit.bytes().ok()?);
    (bytes > most).then(|| {
        let message =
            format!("{guest} is above the memory limit {limit}: raise the limit, or leave it out");
        FieldError::new("domain.memory.guest", message)
    })
}
