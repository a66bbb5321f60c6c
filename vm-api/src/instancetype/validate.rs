//! What a valid instance type and a valid preference are; the verdicts of KubeVirt's admission.

use super::expand::spread;
use super::{InstancetypeSpec, PreferenceSpec, PreferredCpuTopology, SpreadAcross};
use crate::field::{FieldError, sorted, word};

/// The one ratio of threads to a core.
const THREADS: u32 = 2;

/// What is wrong with the content of an instance type, paths relative to its spec.
pub fn instancetype(spec: &InstancetypeSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if spec.cpu.guest == 0 {
        let message = "a machine needs a processor: set at least 1";
        errors.push(FieldError::new("cpu.guest", message));
    }
    let memory = &spec.memory;
    let unreadable = memory.guest.bytes().err();
    errors.extend(unreadable.map(|error| FieldError::new("memory.guest", error)));
    let percent = memory.overcommit_percent.unwrap_or_default();
    if !(0..=100).contains(&percent) {
        let message = format!("{percent} is no part of the memory: set 0 to 100");
        errors.push(FieldError::new("memory.overcommitPercent", message));
    } else if percent != 0 && memory.hugepages.is_some() {
        let message = "excludes hugepages, which are all set aside: leave one of the two out";
        errors.push(FieldError::new("memory.overcommitPercent", message));
    }
    sorted(errors)
}

/// What is wrong with the content of a preference, paths relative to its spec.
pub fn preference(spec: &PreferenceSpec) -> Vec<FieldError> {
    let Some(cpu) = &spec.cpu else {
        return Vec::new();
    };
    let path = || "cpu.preferredCPUTopology".to_owned();
    let topology = match word(path, cpu.preferred_cpu_topology.as_deref()) {
        Ok(topology) => topology,
        Err(error) => return vec![error],
    };
    let spreads = matches!(
        topology,
        Some(PreferredCpuTopology::Spread | PreferredCpuTopology::PreferSpread)
    );
    if !spreads {
        return Vec::new();
    }
    let given = cpu
        .spread_options
        .as_ref()
        .and_then(|options| options.across.as_deref());
    let path = || "cpu.spreadOptions.across".to_owned();
    if let Err(error) = word::<SpreadAcross>(path, given) {
        return vec![error];
    }
    let (ratio, across) = spread(spec);
    let message = match across {
        _ if ratio == 0 => "0 is no ratio: set 2 or more, or leave it out",
        SpreadAcross::CoresThreads if ratio != THREADS => {
            "a core has two threads when processors are spread over cores and threads: set 2"
        }
        _ => return Vec::new(),
    };
    vec![FieldError::new("cpu.spreadOptions.ratio", message)]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(errors: Vec<FieldError>) -> Vec<String> {
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn an_instance_type_has_a_size() {
        let wrong = |cpu: Value, memory: Value| {
            let spec = json!({ "cpu": cpu, "memory": memory });
            paths(instancetype(&serde_json::from_value(spec).unwrap()))
        };
        let one = json!({ "guest": 1 });
        assert!(wrong(one.clone(), json!({ "guest": "1Gi" })).is_empty());
        assert_eq!(
            wrong(json!({ "guest": 0 }), json!({ "guest": "much" })),
            ["cpu.guest", "memory.guest"]
        );
        for percent in [-1, 101] {
            let memory = json!({ "guest": "1Gi", "overcommitPercent": percent });
            assert_eq!(wrong(one.clone(), memory), ["memory.overcommitPercent"]);
        }
        let memory = json!({ "guest": "1Gi", "overcommitPercent": 5, "hugepages": {} });
        assert_eq!(wrong(one, memory), ["memory.overcommitPercent"]);
    }

    #[test]
    fn a_preference_knows_how_processors_are_arranged() {
        let wrong = |cpu: Value| {
            let spec = json!({ "cpu": cpu });
            paths(preference(&serde_json::from_value(spec).unwrap()))
        };
        let spread =
            |options: Value| json!({ "preferredCPUTopology": "spread", "spreadOptions": options });
        assert!(wrong(json!({})).is_empty());
        assert!(wrong(spread(json!({}))).is_empty());
        assert_eq!(
            wrong(json!({ "preferredCPUTopology": "heap" })),
            ["cpu.preferredCPUTopology"]
        );
        assert_eq!(
            wrong(spread(json!({ "across": "Sea" }))),
            ["cpu.spreadOptions.across"]
        );
        for options in [
            json!({ "ratio": 0 }),
            json!({ "across": "CoresThreads", "ratio": 4 }),
        ] {
            assert_eq!(wrong(spread(options)), ["cpu.spreadOptions.ratio"]);
        }
        let unused =
            json!({ "preferredCPUTopology": "cores", "spreadOptions": { "across": "Sea" } });
        assert!(wrong(unused).is_empty(), "what is not used is not judged");
    }
}
