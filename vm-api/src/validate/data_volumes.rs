//! Templates of data volumes: each has a name, one description of its claim, and a volume that uses
//! it.

use std::collections::HashSet;

use crate::field::FieldError;
use crate::v1::VirtualMachineSpec;

pub(super) fn check(spec: &VirtualMachineSpec) -> Vec<FieldError> {
    let volumes = spec.template.spec.iter().flat_map(|it| &it.volumes);
    let used: HashSet<_> = volumes
        .filter_map(|volume| {
            let data_volume = volume.data_volume.as_ref().map(|it| &it.name);
            let claim = volume.persistent_volume_claim.as_ref();
            data_volume.or(claim.map(|it| &it.claim_name))
        })
        .map(String::as_str)
        .collect();
    let mut errors = Vec::new();
    for (index, template) in spec.data_volume_templates.iter().enumerate() {
        let path = format!("dataVolumeTemplates[{index}]");
        let metadata = template.metadata.as_ref();
        let name = metadata.and_then(|metadata| metadata.name.as_deref());
        let name = name.unwrap_or_default();
        let error = if name.is_empty() {
            FieldError::new(format!("{path}.metadata.name"), "name the data volume")
        } else if template.spec.pvc.is_some() == template.spec.storage.is_some() {
            FieldError::new(format!("{path}.spec"), "choose one of pvc and storage")
        } else if !used.contains(name) {
            let message =
                format!("no volume of the template uses `{name}`: add it, or leave this out");
            FieldError::new(path, message)
        } else {
            continue;
        };
        errors.push(error);
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_template_is_named_described_and_used() {
        let path = |name: &str, spec: Value| {
            let spec = json!({
                "template": { "spec": { "volumes": [{ "name": "a", "dataVolume": { "name": "used" } }] } },
                "dataVolumeTemplates": [{ "metadata": { "name": name }, "spec": spec }],
            });
            let errors = check(&serde_json::from_value(spec).unwrap());
            errors
                .into_iter()
                .map(|error| error.path)
                .collect::<Vec<_>>()
        };
        let storage = json!({ "storage": {} });
        assert_eq!(path("used", storage.clone()), Vec::<String>::new());
        assert_eq!(path("unused", storage.clone()), ["dataVolumeTemplates[0]"]);
        assert_eq!(path("", storage), ["dataVolumeTemplates[0].metadata.name"]);
        assert_eq!(path("used", json!({})), ["dataVolumeTemplates[0].spec"]);
        let both = json!({ "storage": {}, "pvc": {} });
        assert_eq!(path("used", both), ["dataVolumeTemplates[0].spec"]);
    }
}
