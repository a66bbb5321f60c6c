//! Claims to devices that the cluster allocates, and the devices that come by them.

use std::collections::HashSet;

use crate::field::FieldError;
use crate::v1::VirtualMachineInstanceSpec;

pub(super) fn check(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = claims(spec);
    let devices = &spec.domain.devices;
    let gpus = devices.gpus.iter().enumerate();
    let gpus = gpus.map(|(index, it)| ("gpus", index, &it.claim_name, &it.request_name));
    let others = devices.host_devices.iter().enumerate();
    let others = others.map(|(index, it)| ("hostDevices", index, &it.claim_name, &it.request_name));
    for (list, index, claim, request) in gpus.chain(others) {
        let is_set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        if is_set(claim) && !is_set(request) {
            let path = format!("domain.devices.{list}[{index}].requestName");
            let message = "a device of a claim is one of its requests: name it";
            errors.push(FieldError::new(path, message));
        }
    }
    errors
}

fn claims(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    for (index, claim) in spec.resource_claims.iter().enumerate() {
        let path = format!("resourceClaims[{index}]");
        let name = format!("{path}.name");
        if claim.name.is_empty() {
            errors.push(FieldError::new(name, "a claim needs a name"));
        } else if !seen.insert(&claim.name) {
            let message = format!("another claim is called `{}` too", claim.name);
            errors.push(FieldError::new(name, message));
        }
        let sources = [
            ("resourceClaimName", &claim.resource_claim_name),
            (
                "resourceClaimTemplateName",
                &claim.resource_claim_template_name,
            ),
        ];
        if sources.iter().filter(|(_, name)| name.is_some()).count() != 1 {
            let message = "choose one of resourceClaimName and resourceClaimTemplateName";
            errors.push(FieldError::new(&path, message));
        }
        for (field, name) in sources {
            if name.as_deref() == Some("") {
                errors.push(FieldError::new(format!("{path}.{field}"), "it is empty"));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(spec: Value) -> Vec<String> {
        let errors = check(&serde_json::from_value(spec).unwrap());
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn a_claim_has_a_name_and_one_source() {
        let claims = json!([
            { "name": "a", "resourceClaimName": "x" },
            { "name": "a", "resourceClaimTemplateName": "" },
            { "name": "" },
        ]);
        assert_eq!(
            paths(json!({ "resourceClaims": claims })),
            [
                "resourceClaims[1].name",
                "resourceClaims[1].resourceClaimTemplateName",
                "resourceClaims[2].name",
                "resourceClaims[2]",
            ]
        );
    }

    #[test]
    fn a_device_of_a_claim_is_one_of_its_requests() {
        let gpus = json!([{ "name": "g", "claimName": "a" }]);
        let hosts = json!([{ "name": "h", "claimName": "a", "requestName": "r" }]);
        let devices = json!({ "gpus": gpus, "hostDevices": hosts });
        assert_eq!(
            paths(json!({ "domain": { "devices": devices } })),
            ["domain.devices.gpus[0].requestName"]
        );
    }
}
