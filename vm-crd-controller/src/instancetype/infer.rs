//! Which instance type or preference the labels of a volume name: those of its claim.

use std::collections::BTreeMap;

use vm_api::instancetype::Family;
use vm_api::v1::VirtualMachine;

use super::problem::Problem;

/// The claim behind the volume `name` of `vm`.
pub(super) fn claim<'a>(
    vm: &'a VirtualMachine,
    family: Family,
    name: &str,
) -> Result<&'a str, Problem> {
    let problem = |ignorable, message| Problem::Inference {
        family,
        message,
        ignorable,
    };
    let template = vm.spec.template.spec.as_ref();
    let volumes = template.map_or(&[][..], |spec| &spec.volumes);
    let Some(volume) = volumes.iter().find(|volume| volume.name == name) else {
        let message = format!("the template has no volume `{name}`: name one of its volumes");
        return Err(problem(false, message));
    };
    if let Some(source) = &volume.persistent_volume_claim {
        return Ok(&source.claim_name);
    }
    if let Some(source) = &volume.data_volume {
        // The claim that it was made into has its name.
        return Ok(&source.name);
    }
    let message =
        format!("the volume `{name}` is no claim, whose labels would tell: name one that is");
    Err(problem(true, message))
}

/// The name that the labels of `claim` give, and the kind, if they say one.
pub(super) fn named(
    labels: &BTreeMap<String, String>,
    family: Family,
    claim: &str,
) -> Result<(String, Option<String>), Problem> {
    let Some(name) = labels.get(family.name_label()) else {
        return Err(Problem::Inference {
            family,
            message: format!("the claim {claim} has no label {}", family.name_label()),
            ignorable: true,
        });
    };
    Ok((name.clone(), labels.get(family.kind_label()).cloned()))
}

/// That `claim` does not exist; it may come.
pub(super) fn missing(family: Family, claim: &str) -> Problem {
    Problem::Inference {
        family,
        message: format!("the claim {claim} does not exist"),
        ignorable: false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_claims_tell() {
        let vm: VirtualMachine = serde_json::from_value(json!({
            "metadata": { "name": "tl" },
            "spec": { "template": { "spec": { "volumes": [
                { "name": "image", "containerDisk": { "image": "x" } },
                { "name": "claim", "persistentVolumeClaim": { "claimName": "c" } },
                { "name": "made", "dataVolume": { "name": "d" } },
            ] } } },
        }))
        .unwrap();
        let family = Family::Instancetype;
        assert_eq!(claim(&vm, family, "claim"), Ok("c"));
        assert_eq!(claim(&vm, family, "made"), Ok("d"));
        let ignorable = |name| match claim(&vm, family, name) {
            Err(Problem::Inference { ignorable, .. }) => ignorable,
            other => panic!("{other:?}"),
        };
        assert!(ignorable("image"));
        assert!(!ignorable("none"), "a mistake in the machine itself");
    }

    #[test]
    fn labels_name_a_kind_or_leave_it_open() {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let family = Family::Preference;
        let mut labels = BTreeMap::from([label(family.name_label(), "linux")]);
        assert_eq!(named(&labels, family, "c"), Ok(("linux".to_owned(), None)));
        labels.extend([label(family.kind_label(), "VirtualMachinePreference")]);
        assert_eq!(
            named(&labels, family, "c").unwrap().1.as_deref(),
            Some("VirtualMachinePreference")
        );
        assert!(named(&labels, Family::Instancetype, "c").is_err());
    }
}
