//! What is known of KubeVirt: its kinds, its fields, and which fields its admission has been seen to
//! refuse. All of it are facts that the tests of `vm-api` hold the product against.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::verdict::{Field, Kubevirt, Verdict};

/// Where the facts are.
const FACTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../vm-api/tests");

/// A kind of KubeVirt that is not there, its versions, and why.
struct Absent {
    group: &'static str,
    kind: &'static str,
    versions: &'static [&'static str],
    why: &'static str,
}

const NO_MIGRATION: &str =
    "machines do not move between nodes: they are shut down and start elsewhere";
const NO_SNAPSHOTS: &str = "use the storage's own VolumeSnapshots of claims";

const fn absent(
    group: &'static str,
    kind: &'static str,
    versions: &'static [&'static str],
    why: &'static str,
) -> Absent {
    Absent {
        group,
        kind,
        versions,
        why,
    }
}

/// KubeVirt's kinds that are not there.
const ABSENT: &[Absent] = &[
    absent(
        "kubevirt.io",
        "KubeVirt",
        &["v1", "v1alpha3"],
        "configure the nodes by /etc/kubevirt/config.toml and the controller by its arguments",
    ),
    absent(
        "kubevirt.io",
        "VirtualMachineInstanceMigration",
        &["v1", "v1alpha3"],
        NO_MIGRATION,
    ),
    absent(
        "kubevirt.io",
        "VirtualMachineInstancePreset",
        &["v1", "v1alpha3"],
        "use instance types and preferences",
    ),
    absent(
        "migrations.kubevirt.io",
        "MigrationPolicy",
        &["v1alpha1"],
        NO_MIGRATION,
    ),
    absent(
        "plugin.kubevirt.io",
        "Plugin",
        &["v1alpha1"],
        "there is no libvirt whose domain a plugin could change",
    ),
    absent(
        "backup.kubevirt.io",
        "VirtualMachineBackup",
        &["v1alpha1"],
        NO_SNAPSHOTS,
    ),
    absent(
        "backup.kubevirt.io",
        "VirtualMachineBackupTracker",
        &["v1alpha1"],
        NO_SNAPSHOTS,
    ),
    absent(
        "clone.kubevirt.io",
        "VirtualMachineClone",
        &["v1alpha1", "v1beta1"],
        "make a claim from the claim (dataSource), and a machine of it",
    ),
    absent(
        "export.kubevirt.io",
        "VirtualMachineExport",
        &["v1beta1", "v1"],
        "mount the claim of the halted machine in a pod and copy the disk",
    ),
    absent(
        "snapshot.kubevirt.io",
        "VirtualMachineSnapshot",
        &["v1alpha1", "v1beta1"],
        NO_SNAPSHOTS,
    ),
    absent(
        "snapshot.kubevirt.io",
        "VirtualMachineSnapshotContent",
        &["v1alpha1", "v1beta1"],
        NO_SNAPSHOTS,
    ),
    absent(
        "snapshot.kubevirt.io",
        "VirtualMachineRestore",
        &["v1alpha1", "v1beta1"],
        NO_SNAPSHOTS,
    ),
];

/// Kinds that are other products', installed beside KubeVirt: group, the kind's beginning, the
/// product.
const BESIDE: &[(&str, &str, &str)] = &[
    (
        "cdi.kubevirt.io",
        "",
        "CDI, the Containerized Data Importer",
    ),
    (
        "migrations.kubevirt.io",
        "MultiNamespaceVirtualMachineStorageMigration",
        "KubeVirt's migration controller",
    ),
    (
        "hostpathprovisioner.kubevirt.io",
        "",
        "the hostpath provisioner",
    ),
    (
        "template.kubevirt.io",
        "",
        "KubeVirt's templates for machines",
    ),
    ("k8s.cni.cncf.io", "", "Multus"),
];

/// Fields that KubeVirt's admission refuses by its source, where no answer of it was recorded: the
/// field without indices, a part of what is said here, and what is said there.
const READ: &[(&str, &str, &str)] = &[
    (
        "spec.domain.memory.guest",
        "no memory is given",
        "no machine starts for which no memory is requested",
    ),
    (
        "spec.dataVolumeTemplates[]",
        "",
        "a template of a data volume must be used by a volume",
    ),
    (
        "spec",
        "conflicts with the instance type",
        "when applied, and so do we, if the instance type is there by then",
    ),
];

/// What is known.
pub(super) struct Known {
    /// Kind and path of every field.
    fields: BTreeSet<(String, String)>,
    /// Fields that admission has refused, without indices, relative to the instance's object.
    refused: BTreeSet<String>,
}

impl Known {
    /// Reads the facts.
    pub(super) fn read() -> Result<Self> {
        let file = |name: &str| {
            let path = Path::new(FACTS).join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let fields = file("fields.tsv")?;
        let fields = fields.lines().filter_map(|line| {
            let mut columns = line.split('\t');
            Some((columns.next()?.to_owned(), columns.next()?.to_owned()))
        });
        let mut refused = BTreeSet::new();
        for line in file("admission.jsonl")?.lines() {
            let case: Value =
                serde_json::from_str(line).context("read a case of admission.jsonl")?;
            let named = case["fields"].as_array().into_iter().flatten();
            refused.extend(named.filter_map(Value::as_str).map(without_indices));
        }
        Ok(Self {
            fields: fields.collect(),
            refused,
        })
    }

    /// Whether KubeVirt has the field at `path` of `kind`, relative to its object.
    pub(super) fn has_field(&self, kind: &str, path: &str) -> bool {
        let (kind, path) = owner(kind, path);
        let path = format!(".{}", without_indices(&path));
        self.fields.iter().any(|(k, field)| {
            *k == kind
                && field
                    .strip_prefix(&path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[', '{']))
        })
    }

    /// What KubeVirt says to fields that are refused here by the rules of its admission.
    pub(super) fn admission(&self, kind: &str, fields: &[Field]) -> Kubevirt {
        let read = |field: &Field| {
            let path = without_indices(&owner(kind, &field.path).1);
            let meant = |(pattern, said, _): &&(&str, &str, &str)| {
                field.message.contains(said)
                    && (path == *pattern || *pattern == "spec" && path.starts_with("spec."))
            };
            READ.iter().find(meant)
        };
        if let Some((_, _, because)) = fields.iter().find_map(read) {
            return Kubevirt::Refuses((*because).to_owned());
        }
        let seen = fields.iter().any(|field| {
            let (_, path) = owner(kind, &field.path);
            let spec = path.strip_prefix("spec.").unwrap_or(&path);
            self.refused
                .contains(&without_indices(&vm_api::validate::spelled(spec)))
        });
        if seen {
            Kubevirt::Refuses("its admission has been seen to refuse this field".to_owned())
        } else {
            Kubevirt::Unknown
        }
    }
}

/// The kind in whose list a field stands, and its path there: templates have the fields of what they
/// are templates of.
fn owner(kind: &str, path: &str) -> (String, String) {
    const TEMPLATES: [(&str, &str); 2] = [
        ("spec.virtualMachineTemplate.spec", "VirtualMachine"),
        ("spec.template.spec", "VirtualMachineInstance"),
    ];
    let mut kind = kind.replace("Cluster", "");
    let mut path = path.to_owned();
    for (template, of) in TEMPLATES {
        if let Some(rest) = path.strip_prefix(template) {
            (kind, path) = (of.to_owned(), format!("spec{rest}"));
        }
    }
    (kind, path)
}

/// A field's path as it stands in what a template makes, without indices.
pub(super) fn short(path: &str) -> String {
    let path = without_indices(&owner("", path).1);
    match path.strip_prefix("spec.template.metadata.") {
        Some(rest) => format!("metadata.{rest}"),
        None => path,
    }
}

/// The path with `[]` in place of each index.
fn without_indices(path: &str) -> String {
    let mut text = String::new();
    for part in path.split_inclusive('[') {
        text.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    text
}

/// The product that a kind is of, if it is installed beside KubeVirt.
pub(super) fn beside(group: &str, kind: &str) -> Option<&'static str> {
    let found = BESIDE
        .iter()
        .find(|(g, begin, _)| *g == group && kind.starts_with(begin));
    found.map(|(_, _, product)| *product)
}

/// What becomes of an object whose kind is not served here.
pub(super) fn not_served(api_version: &str, kind: &str) -> Verdict {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if let Some(product) = beside(group, kind) {
        let what = vec![format!("{product}: another product, whose kind {kind} is")];
        return Verdict::Needs { what };
    }
    let own = ABSENT
        .iter()
        .find(|it| (it.group, it.kind) == (group, kind));
    match own {
        Some(it) if it.versions.contains(&version) => Verdict::not_supported(kind, it.why),
        _ => Verdict::refused(
            format!("there is no kind {kind} of {api_version}"),
            Kubevirt::Refuses("it has no such kind either".to_owned()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_templates_too() {
        let known = Known::read().unwrap();
        for (kind, path, is_there) in [
            (
                "VirtualMachineInstance",
                "spec.domain.devices.disks[3].name",
                true,
            ),
            ("VirtualMachineInstance", "spec.domain.devices.disk", false),
            (
                "VirtualMachine",
                "spec.template.spec.domain.cpu.cores",
                true,
            ),
            ("VirtualMachine", "spec.template.spec.domian", false),
            (
                "VirtualMachinePool",
                "spec.virtualMachineTemplate.spec.runStrategy",
                true,
            ),
            (
                "VirtualMachinePool",
                "spec.virtualMachineTemplate.spec.template.spec.networks[0].pod",
                true,
            ),
            (
                "VirtualMachineClusterPreference",
                "spec.devices.preferredDiskBus",
                true,
            ),
        ] {
            assert_eq!(known.has_field(kind, path), is_there, "{kind} {path}");
        }
    }

    #[test]
    fn a_field_that_admission_refused_is_known() {
        let known = Known::read().unwrap();
        let says = |kind, path: &str| {
            let path = path.to_owned();
            let message = String::new();
            known.admission(kind, &[Field { path, message }])
        };
        let refused = "spec.template.spec.domain.devices.disks[0].cache";
        assert!(matches!(
            says("VirtualMachine", refused),
            Kubevirt::Refuses(_)
        ));
        assert_eq!(
            says("VirtualMachine", "spec.template.spec.hostname"),
            Kubevirt::Unknown
        );
        let unused = says("VirtualMachine", "spec.dataVolumeTemplates[1]");
        assert!(matches!(unused, Kubevirt::Refuses(_)));
    }

    #[test]
    fn kinds_that_are_not_served_are_told_apart() {
        let class = |version, kind| not_served(version, kind).class();
        use super::super::verdict::Class::{Needs, NotSupported, Refused};
        assert_eq!(class("kubevirt.io/v1", "KubeVirt"), NotSupported);
        assert_eq!(class("kubevirt.io/v1", "Kubevirt"), Refused);
        assert_eq!(class("kubevirt.io/v1alpha1", "VirtualMachine"), Refused);
        assert_eq!(class("cdi.kubevirt.io/v1beta1", "DataVolume"), Needs);
    }
}
