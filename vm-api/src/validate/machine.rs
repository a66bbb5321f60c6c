//! A VirtualMachine: when it runs, and its template.

use super::{data_volumes, matchers, template};
use crate::field::{FieldError, sorted};
use crate::instancetype::Matcher;
use crate::v1::{RunStrategy, VirtualMachineSpec};

impl VirtualMachineSpec {
    /// When the machine runs, whether it is said by `runStrategy` or by the older `running`.
    pub fn run_strategy(&self) -> Result<RunStrategy, FieldError> {
        match (self.running, self.run_strategy.as_deref()) {
            (Some(true), None) => Ok(RunStrategy::Always),
            (Some(false), None) => Ok(RunStrategy::Halted),
            (None, Some(text)) => text
                .parse()
                .map_err(|error| FieldError::new("runStrategy", error)),
            (Some(_), Some(_)) => Err(FieldError::new(
                "running",
                "it excludes runStrategy: set runStrategy alone",
            )),
            (None, None) => Err(FieldError::new(
                "running",
                "neither it nor runStrategy is set: set runStrategy",
            )),
        }
    }
}

/// What is wrong with a machine, paths relative to its spec.
pub fn machine(spec: &VirtualMachineSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match spec.run_strategy() {
        Ok(RunStrategy::WaitAsReceiver) => {
            let message = "WaitAsReceiver is not offered: machines do not move between clusters";
            errors.push(FieldError::new("runStrategy", message));
        }
        Ok(_) => {}
        Err(error) => errors.push(error),
    }
    errors.extend(data_volumes::check(spec));
    let instancetype = spec.instancetype.as_ref().map(Matcher::from);
    let preference = spec.preference.as_ref().map(Matcher::from);
    for matcher in [instancetype, preference].into_iter().flatten() {
        errors.extend(matchers::check(&matcher));
    }
    match &spec.template.spec {
        // Its memory may be missing, as in KubeVirt: an instance type or a preference gives it, or
        // the instance is refused.
        Some(spec) => errors.extend(
            template(spec)
                .into_iter()
                .map(|error| error.under("template.spec")),
        ),
        None => errors.push(FieldError::new("template.spec", "a machine needs it")),
    }
    sorted(errors)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(spec: serde_json::Value) -> VirtualMachineSpec {
        let mut whole =
            json!({ "template": { "spec": { "domain": { "memory": { "guest": "64Mi" } } } } });
        whole
            .as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn both_ways_to_say_when_it_runs_are_read() {
        for (spec, strategy) in [
            (json!({ "running": true }), RunStrategy::Always),
            (json!({ "running": false }), RunStrategy::Halted),
            (json!({ "runStrategy": "Manual" }), RunStrategy::Manual),
        ] {
            let spec = read(spec);
            assert_eq!(spec.run_strategy(), Ok(strategy));
            assert_eq!(machine(&spec), []);
        }
    }

    #[test]
    fn exactly_one_of_the_two_is_set() {
        for (spec, path) in [
            (json!({}), "running"),
            (
                json!({ "running": true, "runStrategy": "Always" }),
                "running",
            ),
            (json!({ "runStrategy": "" }), "runStrategy"),
            (json!({ "runStrategy": "Sometimes" }), "runStrategy"),
            (json!({ "runStrategy": "WaitAsReceiver" }), "runStrategy"),
        ] {
            assert_eq!(machine(&read(spec))[0].path, path);
        }
    }

    #[test]
    fn errors_of_the_template_say_where_it_is() {
        let probe = json!({ "livenessProbe": {} });
        let spec = read(json!({ "running": true, "template": { "spec": probe } }));
        assert_eq!(machine(&spec)[0].path, "template.spec.livenessProbe");
    }
}
