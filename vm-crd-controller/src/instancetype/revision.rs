//! The ControllerRevision that holds an instance type or a preference as it was when a machine first
//! met it, so that a later change of it does not change the machine. Names, labels and content are
//! those of KubeVirt.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::ResourceExt;
use serde_json::{Value, json};
use vm_api::instancetype::{API_VERSION, Family, VERSION};
use vm_api::v1::VirtualMachine;

use super::found::{Content, Found};
use super::problem::Problem;
use crate::machine::digest;
use crate::owner;
use crate::render::label_value;

/// Prefix of the labels that say what is held.
const LABELS: &str = "instancetype.kubevirt.io";

/// Longest name of an object.
const NAME_LIMIT: usize = 253;

/// The revision of `found` for `vm`.
pub(super) fn of(vm: &VirtualMachine, found: &Found) -> serde_json::Result<ControllerRevision> {
    let metadata = &found.metadata;
    let generation = metadata.generation.unwrap_or_default();
    let name = metadata.name.clone().unwrap_or_default();
    let uid = metadata.uid.clone().unwrap_or_default();
    let labels = [
        ("object-generation", generation.to_string()),
        ("object-kind", found.kind.name().to_owned()),
        ("object-name", label_value(&name)),
        ("object-uid", uid.clone()),
        ("object-version", VERSION.to_owned()),
    ];
    let spec = match &found.content {
        Content::Instancetype(spec) => serde_json::to_value(spec)?,
        Content::Preference(spec) => serde_json::to_value(spec)?,
    };
    // What the object is apart from its content: who else uses it is of no concern here.
    let kept = ObjectMeta {
        name: Some(name.clone()),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        generation: metadata.generation,
        resource_version: metadata.resource_version.clone(),
        creation_timestamp: metadata.creation_timestamp.clone(),
        ..ObjectMeta::default()
    };
    let data = json!({
        "apiVersion": API_VERSION,
        "kind": found.kind.name(),
        "metadata": kept,
        "spec": spec,
    });
    let labels = labels
        .into_iter()
        .map(|(key, value)| (format!("{LABELS}/{key}"), value));
    Ok(ControllerRevision {
        metadata: ObjectMeta {
            name: Some(self::name(vm, &name, &uid, generation)),
            namespace: vm.namespace(),
            labels: Some(labels.collect()),
            owner_references: Some(vec![owner::reference(vm)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: 0,
    })
}

/// The name of a revision: it says of which machine and of which state of which object it is. An
/// earlier machine of the name has revisions of other names, which may be about to go.
fn name(vm: &VirtualMachine, object: &str, uid: &str, generation: i64) -> String {
    let (vm, id) = (vm.name_any(), vm.uid().unwrap_or_default());
    let end = format!("{VERSION}-{uid}-{generation}");
    let whole = format!("{vm}-{object}-{:08x}-{end}", digest(&[&id]) >> 32);
    if whole.len() <= NAME_LIMIT {
        return whole;
    }
    // Both names may be as long as a name can be: then a digest stands for them.
    let end = format!("-{:016x}-{end}", digest(&[&vm, object, &id]));
    let stem = &vm[..vm.len().min(NAME_LIMIT.saturating_sub(end.len()))];
    format!("{}{end}", stem.trim_end_matches(['-', '.']))
}

/// What `revision` holds for a machine's matcher of `family`.
pub(super) fn read(revision: &ControllerRevision, family: Family) -> Result<Content, Problem> {
    let unreadable = |message: String| Problem::Unreadable {
        family,
        what: format!("the ControllerRevision {}", revision.name_any()),
        message,
    };
    let data = revision.data.as_ref().map_or(&Value::Null, |data| &data.0);
    let text = |name: &str| data[name].as_str().unwrap_or_default();
    if text("apiVersion") != API_VERSION {
        return Err(unreadable(format!(
            "it holds an object of `{}`, not of {API_VERSION}: set spec.{} anew without revisionName",
            text("apiVersion"),
            family.field()
        )));
    }
    let kind = vm_api::instancetype::ObjectKind::parse(family, Some(text("kind")));
    if kind.is_none() || text("kind").is_empty() {
        return Err(unreadable(format!(
            "it holds a `{}`, which is no {}",
            text("kind"),
            family.noun()
        )));
    }
    let spec = data["spec"].clone();
    match family {
        Family::Instancetype => serde_json::from_value(spec)
            .map(Box::new)
            .map(Content::Instancetype),
        Family::Preference => serde_json::from_value(spec)
            .map(Box::new)
            .map(Content::Preference),
    }
    .map_err(|error| unreadable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use vm_api::instancetype::{ObjectKind, Scope};

    use super::*;

    fn found() -> Found {
        let metadata = json!({
            "name": "small", "uid": "u-1", "generation": 3, "resourceVersion": "9",
            "labels": { "a": "b" }, "annotations": { "c": "d" },
        });
        let spec = json!({ "cpu": { "guest": 2 }, "memory": { "guest": "1Gi" } });
        Found {
            kind: ObjectKind {
                family: Family::Instancetype,
                scope: Scope::Cluster,
            },
            metadata: serde_json::from_value(metadata).unwrap(),
            content: Content::Instancetype(serde_json::from_value(spec).unwrap()),
        }
    }

    fn vm(name: &str) -> VirtualMachine {
        let mut vm = VirtualMachine::new(name, Default::default());
        vm.metadata.namespace = Some("default".to_owned());
        vm.metadata.uid = Some("vm-uid".to_owned());
        vm
    }

    #[test]
    fn a_revision_holds_what_was_found() {
        let revision = of(&vm("tl"), &found()).unwrap();
        let name = revision.name_any();
        assert!(name.starts_with("tl-small-"), "{name}");
        assert!(name.ends_with("-v1beta1-u-1-3"), "{name}");
        let mut successor = vm("tl");
        successor.metadata.uid = Some("another".to_owned());
        assert_ne!(of(&successor, &found()).unwrap().name_any(), name);
        let labels = revision.labels();
        for (key, value) in [
            ("object-generation", "3"),
            ("object-kind", "VirtualMachineClusterInstancetype"),
            ("object-name", "small"),
            ("object-uid", "u-1"),
            ("object-version", "v1beta1"),
        ] {
            let found = labels.get(&format!("{LABELS}/{key}"));
            assert_eq!(found.map(String::as_str), Some(value), "{key}");
        }
        assert_eq!(revision.owner_references()[0].uid, "vm-uid");
        let data = &revision.data.as_ref().unwrap().0;
        assert!(data["metadata"].get("labels").is_none(), "{data}");
        assert_eq!(read(&revision, Family::Instancetype), Ok(found().content));
        let other = read(&revision, Family::Preference).unwrap_err();
        assert!(other.to_string().contains("no preference"), "{other}");
    }

    #[test]
    fn names_fit_and_stay_apart() {
        let (long, longer) = ("v".repeat(253), "w".repeat(253));
        let names = [&long, &longer].map(|object| name(&vm(&long), object, "u-1", 3));
        assert!(names.iter().all(|name| name.len() <= NAME_LIMIT));
        assert_ne!(names[0], names[1]);
        assert!(names[0].ends_with("-v1beta1-u-1-3"), "{}", names[0]);
    }

    #[test]
    fn an_older_form_is_refused_with_what_to_do() {
        let mut revision = of(&vm("tl"), &found()).unwrap();
        let data = &mut revision.data.as_mut().unwrap().0;
        data["apiVersion"] = "instancetype.kubevirt.io/v1alpha1".into();
        let refused = read(&revision, Family::Instancetype).unwrap_err();
        assert!(
            refused.to_string().ends_with("without revisionName"),
            "{refused}"
        );
    }
}
