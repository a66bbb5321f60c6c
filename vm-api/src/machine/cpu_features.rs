//! Features of the processor that a spec adds to its model, or takes from it.

use crate::field::{FieldError, word};
use crate::v1::VirtualMachineInstanceSpec;
use crate::validate::CpuFeaturePolicy;

/// A feature of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineCpuFeature<'a> {
    /// Its name, of letters, digits, dots, hyphens and underscores.
    pub name: &'a str,
    /// Whether it is there, and what follows where that cannot be; required by default.
    pub policy: CpuFeaturePolicy,
}

/// Characters of a feature's name at most; the longest that QEMU knows has half of them.
const LONGEST: usize = 63;

/// The features of the processor that `spec` names.
pub fn cpu_features(
    spec: &VirtualMachineInstanceSpec,
) -> Result<Vec<MachineCpuFeature<'_>>, Vec<FieldError>> {
    let named = spec.domain.cpu.iter().flat_map(|cpu| &cpu.features);
    let (mut features, mut errors) = (Vec::new(), Vec::new());
    for (index, feature) in named.enumerate() {
        let at = |field: &str| format!("domain.cpu.features[{index}].{field}");
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let name = feature.name.as_str();
        if !(1..=LONGEST).contains(&name.len()) || !name.bytes().all(allowed) {
            let message = format!("`{name}` is not the name of a feature, such as avx2");
            errors.push(FieldError::new(at("name"), message));
        }
        match word(|| at("policy"), feature.policy.as_deref()) {
            Ok(policy) => features.push(MachineCpuFeature {
                name,
                policy: policy.unwrap_or(CpuFeaturePolicy::Require),
            }),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(features)
    } else {
        Err(errors)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_feature_is_required_unless_it_says_otherwise() {
        let spec = |features: serde_json::Value| {
            let spec = json!({ "domain": { "cpu": { "features": features } } });
            serde_json::from_value::<VirtualMachineInstanceSpec>(spec).unwrap()
        };
        let good = spec(json!([{ "name": "avx2" }, { "name": "vmx", "policy": "disable" }]));
        let policies: Vec<_> = cpu_features(&good)
            .unwrap()
            .iter()
            .map(|it| it.policy)
            .collect();
        assert_eq!(
            policies,
            [CpuFeaturePolicy::Require, CpuFeaturePolicy::Disable]
        );
        let bad = spec(json!([{ "name": "" }, { "name": "a,b" }, { "name": "a", "policy": "no" }]));
        let paths: Vec<_> = cpu_features(&bad)
            .unwrap_err()
            .into_iter()
            .map(|it| it.path)
            .collect();
        let expected = ["[0].name", "[1].name", "[2].policy"];
        assert_eq!(paths, expected.map(|it| format!("domain.cpu.features{it}")));
    }
}
