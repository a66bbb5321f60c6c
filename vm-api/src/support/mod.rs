//! Which fields of the API work, and which are refused by name.
//!
//! The schema admits every field of KubeVirt, so that nothing is pruned; but accepted means done.
//! What works stands in one table of paths: a field that is not in it is refused, so that a new
//! field of the types cannot be forgotten.

mod amounts;
mod annotations;
#[cfg(feature = "schema")]
pub mod catalogue;
mod disks;
mod domain;
mod filesystems;
mod hints;
mod sets;
mod table;
mod types;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::field::{FieldError, sorted};
use crate::v1::{VirtualMachineInstanceSpec, VirtualMachineSpec};
use crate::validate;
pub use amounts::{MAXIMUM_MEMORY, MAXIMUM_VCPUS, MINIMUM_MEMORY};
pub use annotations::annotations;
use hints::missing;
pub use sets::{pool, replica_set};
use table::{INSTANCE, MACHINE, Working};
pub use types::{instancetype, preference};

/// Set fields of an instance that do not work, each with what to do instead. Nothing is said of one
/// whose lists are too long: that is the validation's concern.
pub fn instance(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    if !validate::crowded(spec).is_empty() {
        return Vec::new();
    }
    let mut errors = fields(&to_json(spec), INSTANCE);
    errors.extend(amounts::refused(spec));
    errors.extend(disks::refused(spec));
    // What works as nothing does not work as a directory either: once is enough.
    let directories = filesystems::refused(spec).into_iter();
    let news: Vec<_> = directories
        .filter(|error| errors.iter().all(|said| said.path != error.path))
        .collect();
    errors.extend(news);
    errors.extend(ports_of_bridges(spec));
    errors.extend(domain::refused(spec));
    sorted(errors)
}

/// A guest that has the pod's address is not behind anything that could keep ports from it.
fn ports_of_bridges(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let interfaces = spec.domain.devices.interfaces.iter().enumerate();
    let bridged = interfaces.filter(|(_, it)| it.bridge.is_some() && !it.ports.is_empty());
    let error = |index| {
        FieldError::new(
            format!("domain.devices.interfaces[{index}].ports"),
            "is not supported with bridge, where all ports are the guest's: leave it out, or use masquerade",
        )
    };
    bridged.map(|(index, _)| error(index)).collect()
}

/// Set fields of a machine that do not work, its template's among them.
pub fn machine(spec: &VirtualMachineSpec) -> Vec<FieldError> {
    let mut json = to_json(spec);
    if let Some(template) = json.get_mut("template").and_then(Value::as_object_mut) {
        template.remove("spec");
    }
    let mut errors = fields(&json, MACHINE);
    errors.extend(annotations_of(spec.template.metadata.as_ref()));
    if let Some(template) = &spec.template.spec {
        errors.extend(
            instance(template)
                .into_iter()
                .map(|error| error.under("template.spec")),
        );
    }
    sorted(errors)
}

/// Annotations of a template that do not work in what is made of it.
fn annotations_of(metadata: Option<&ObjectMeta>) -> impl Iterator<Item = FieldError> {
    let given = metadata.and_then(|metadata| metadata.annotations.as_ref());
    let refused = annotations(given).into_iter();
    refused.map(|error| error.under("template"))
}

fn to_json<T: serde::Serialize>(spec: &T) -> Value {
    // The types have only strings as keys and no infinite numbers: nothing in them can fail.
    serde_json::to_value(spec).unwrap_or_default()
}

fn fields(spec: &Value, working: &[Working]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    Walk {
        working,
        errors: &mut errors,
    }
    .children(spec, "", "");
    errors
}

/// A walk over a spec in JSON.
struct Walk<'a> {
    working: &'a [Working],
    errors: &'a mut Vec<FieldError>,
}

impl Walk<'_> {
    /// Visits what is below `value`: `path` is where it is, `pattern` the same without indices.
    fn children(&mut self, value: &Value, path: &str, pattern: &str) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let (path, pattern) = (join(path, name), join(pattern, name));
                    self.visit(value, &path, &pattern);
                }
            }
            Value::Array(items) => {
                let pattern = format!("{pattern}[]");
                for (index, value) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    if matches!(value, Value::Object(_)) {
                        self.children(value, &path, &pattern);
                    } else {
                        self.visit(value, &path, &pattern);
                    }
                }
            }
            _ => {}
        }
    }

    fn visit(&mut self, value: &Value, path: &str, pattern: &str) {
        if value.is_null() {
            return;
        }
        let leads_on = |name: &str| {
            name.strip_prefix(pattern)
                .is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        match self.working.iter().find(|field| field.covers(pattern)) {
            Some(field) => {
                if let Some(message) = field.refusal(value) {
                    self.errors.push(FieldError::new(path, message));
                } else if field.path() == pattern && value.is_object() {
                    // What lies below a field that works is not meant with it.
                    self.children(value, path, pattern);
                }
            }
            None if self.working.iter().any(|field| leads_on(field.path())) => {
                self.children(value, path, pattern);
            }
            None => self.errors.push(FieldError::new(path, missing(pattern))),
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(spec: Value) -> Vec<String> {
        let spec = serde_json::from_value(spec).unwrap();
        instance(&spec)
            .into_iter()
            .map(|error| error.path)
            .collect()
    }

    #[test]
    fn what_works_is_not_refused() {
        let spec = json!({
            "domain": {
                "cpu": { "cores": 2 },
                "memory": { "guest": "256Mi" },
                "resources": { "limits": { "memory": "300Mi", "cpu": 2 } },
                "devices": {
                    "disks": [{ "name": "root", "disk": { "bus": "virtio" }, "bootOrder": 1 }],
                    "interfaces": [{ "name": "default", "masquerade": {}, "ports": [{ "port": 80 }] }],
                },
            },
            "networks": [{ "name": "default", "pod": {} }],
            "volumes": [{ "name": "root", "containerDisk": { "image": "x" } }],
            "nodeSelector": { "example.com/disk": "fast" },
            "tolerations": [{ "key": "a", "operator": "Exists" }],
        });
        assert_eq!(paths(spec), Vec::<String>::new());
    }

    #[test]
    fn what_does_not_work_is_refused_where_it_begins() {
        let spec = json!({
            "domain": {
                "cpu": { "numa": { "guestMappingPassthrough": {} } },
                "memory": { "guest": "256Mi" },
                "resources": { "limits": { "example.com/gpu": 1 } },
                "devices": {
                    "downwardMetrics": {},
                    "disks": [{ "name": "a", "disk": {} }, { "name": "b", "disk": { "bus": "virtio" }, "changedBlockTracking": true }],
                    "interfaces": [
                        { "name": "default", "sriov": {} },
                        { "name": "other", "bridge": {}, "ports": [{ "port": 80 }] },
                    ],
                },
            },
            "volumes": [{ "name": "a", "downwardMetrics": {} }, { "name": "b", "emptyDisk": { "capacity": "1Gi" } }],
            "readinessProbe": { "guestAgentPing": {}, "tcpSocket": { "port": 22 } },
        });
        assert_eq!(
            paths(spec),
            [
                "domain.cpu.numa",
                "domain.devices.disks[1].changedBlockTracking",
                "domain.devices.downwardMetrics",
                "domain.devices.interfaces[0].sriov",
                "domain.devices.interfaces[1].ports",
                "domain.resources.limits.example.com/gpu",
                "readinessProbe",
                "volumes[0].downwardMetrics",
            ]
        );
    }

    #[test]
    fn a_volume_that_does_not_work_is_refused_once() {
        let spec = json!({
            "domain": { "devices": { "filesystems": [{ "name": "a", "virtiofs": {} }] } },
            "volumes": [{ "name": "a", "containerPath": { "path": "/etc" } }],
        });
        assert_eq!(paths(spec), ["volumes[0].containerPath"]);
    }

    #[test]
    fn the_refusal_says_what_to_do() {
        let spec =
            json!({ "domain": { "devices": { "interfaces": [{ "name": "a", "sriov": {} }] } } });
        let spec = serde_json::from_value(spec).unwrap();
        assert_eq!(
            instance(&spec)[0].to_string(),
            "domain.devices.interfaces[0].sriov: is not supported yet: use masquerade or bridge"
        );
    }

    #[test]
    fn a_machine_is_refused_with_its_template() {
        let spec = json!({
            "runStrategy": "WaitAsReceiver",
            "instancetype": { "name": "small" },
            "updateVolumesStrategy": "Replacement",
            "template": { "metadata": { "annotations": { "hooks.kubevirt.io/hookSidecars": "[]" } }, "spec": { "domain": { "devices": { "downwardMetrics": {} } } } },
        });
        let spec = serde_json::from_value(spec).unwrap();
        let paths: Vec<_> = machine(&spec).into_iter().map(|error| error.path).collect();
        assert_eq!(
            paths,
            [
                "runStrategy",
                "template.metadata.annotations.hooks.kubevirt.io/hookSidecars",
                "template.spec.domain.devices.downwardMetrics",
                "updateVolumesStrategy"
            ]
        );
    }
}
