//! The paths of fields as KubeVirt's rejections spell them.
//!
//! Some of its paths are not those of the field that is meant. Clients get what they would get from
//! KubeVirt; the sentence beside it names the field itself.

/// Fields, and how KubeVirt spells them; `[]` stands for any item of a list.
const SPELLINGS: &[(&str, &str)] = &[
    (
        "domain.devices.disks[].disk.pciAddress",
        "domain.devices.disks.domain.devices.disks.disk[].pciAddress",
    ),
    (
        "domain.devices.disks[].io",
        "domain.devices.disks.domain.devices.disks[].io",
    ),
    (
        "domain.devices.disks[].lun.reservation",
        "domain.devices.disks.luns.reservation",
    ),
    (
        "domain.devices.interfaces[].dhcpOptions.privateOptions[].option",
        "",
    ),
    (
        "domain.devices.interfaces[].portRanges",
        "domain.devices.interfaces[].name",
    ),
    ("domain.devices.sound.model", "Sound"),
    ("domain.devices.sound.name", "Sound"),
    ("domain.firmware.acpi.msdmNameRef", "acpi.msdmNameRef"),
    ("domain.firmware.acpi.slicNameRef", "acpi.slicNameRef"),
    ("domain.firmware.bootloader.efi", "domain"),
    ("domain.launchSecurity", "launchSecurity"),
    ("volumes[].dataVolume.name", "volumes[].name"),
    ("dataVolumeTemplates[]", "dataVolumeTemplate[]"),
    (
        "dataVolumeTemplates[].metadata.name",
        "dataVolumeTemplate[].name",
    ),
    (
        "dataVolumeTemplates[].spec",
        "dataVolumeTemplate[].PVC.Storage",
    ),
];

/// Where an instance's spec is in a machine's.
const TEMPLATE: &str = "template.spec.";

/// The path of a field, relative to the object's spec, from the object's root in KubeVirt's spelling.
pub fn spelled(path: &str) -> String {
    let (root, path) = match path.strip_prefix(TEMPLATE) {
        Some(path) => ("spec.template.spec", path),
        None => ("spec", path),
    };
    let (pattern, indices) = without_indices(path);
    let spelling = SPELLINGS.iter().find(|(field, _)| *field == pattern);
    let path = match spelling {
        Some((_, spelling)) => with_indices(spelling, &indices),
        None => path.to_owned(),
    };
    if path.is_empty() {
        root.to_owned()
    } else {
        format!("{root}.{path}")
    }
}

fn without_indices(path: &str) -> (String, Vec<&str>) {
    let mut pattern = String::new();
    let mut indices = Vec::new();
    for (number, part) in path.split('[').enumerate() {
        match part.split_once(']') {
            Some((index, rest)) if number > 0 => {
                indices.push(index);
                pattern.push_str("[]");
                pattern.push_str(rest);
            }
            _ => pattern.push_str(part),
        }
    }
    (pattern, indices)
}

fn with_indices(pattern: &str, indices: &[&str]) -> String {
    let mut indices = indices.iter();
    let mut parts = pattern.split("[]");
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let index = indices.next().copied().unwrap_or_default();
        path.push_str(&format!("[{index}]{part}"));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_spelled_as_kubevirt_does() {
        for (path, expected) in [
            ("domain.cpu", "spec.domain.cpu"),
            (
                "domain.devices.disks[3].name",
                "spec.domain.devices.disks[3].name",
            ),
            (
                "domain.devices.disks[3].io",
                "spec.domain.devices.disks.domain.devices.disks[3].io",
            ),
            (
                "domain.devices.interfaces[1].dhcpOptions.privateOptions[2].option",
                "spec",
            ),
            (
                "template.spec.domain.devices.sound.model",
                "spec.template.spec.Sound",
            ),
            (
                "dataVolumeTemplates[7].metadata.name",
                "spec.dataVolumeTemplate[7].name",
            ),
            ("runStrategy", "spec.runStrategy"),
            ("", "spec"),
            ("a[b", "spec.a[b"),
        ] {
            assert_eq!(spelled(path), expected);
        }
    }
}
