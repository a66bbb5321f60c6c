//! The kinds that keep so many of something: their selectors match their templates, whose own
//! mistakes are named too.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{instance, machine};
use crate::field::{FieldError, sorted, word};
use crate::pool::{SelectionPolicy, SortPolicy, VirtualMachinePoolSpec};
use crate::selector::{NODE_OPERATORS, Selector};
use crate::v1::VirtualMachineInstanceReplicaSetSpec;

/// What is wrong with a replica set, paths relative to its spec.
pub fn replica_set(spec: &VirtualMachineInstanceReplicaSetSpec) -> Vec<FieldError> {
    let mut errors = selector(&spec.selector, spec.template.metadata.as_ref());
    match &spec.template.spec {
        Some(template) => {
            let wrong = instance(template).into_iter();
            errors.extend(wrong.map(|error| error.under("template.spec")));
        }
        None => errors.push(FieldError::new("template.spec", "a replica set needs it")),
    }
    sorted(errors)
}

/// What is wrong with a pool, paths relative to its spec.
pub fn pool(spec: &VirtualMachinePoolSpec) -> Vec<FieldError> {
    let template = &spec.virtual_machine_template;
    let mut errors = selector(&spec.selector, template.metadata.as_ref());
    match &template.spec {
        Some(template) => {
            let wrong = machine(template).into_iter();
            errors.extend(wrong.map(|error| error.under("virtualMachineTemplate.spec")));
        }
        None => {
            let path = "virtualMachineTemplate.spec";
            errors.push(FieldError::new(path, "a pool needs it"));
        }
    }
    errors.extend(spec.max_unavailable(0).err());
    errors.extend(spec.failing_for().err());
    let strategies = [
        (
            "scaleInStrategy",
            spec.scale_in_strategy
                .as_ref()
                .and_then(|strategy| strategy.proactive.as_ref())
                .and_then(|proactive| proactive.selection_policy.as_ref()),
        ),
        (
            "updateStrategy",
            spec.update_strategy
                .as_ref()
                .and_then(|strategy| strategy.proactive.as_ref())
                .and_then(|proactive| proactive.selection_policy.as_ref()),
        ),
    ];
    for (strategy, policy) in strategies {
        if let Some(policy) = policy {
            errors.extend(selection(
                policy,
                &format!("{strategy}.proactive.selectionPolicy"),
            ));
        }
    }
    sorted(errors)
}

/// A selector that selects nothing of its own template would make replicas without end.
fn selector(selector: &LabelSelector, template: Option<&ObjectMeta>) -> Vec<FieldError> {
    let labels = template.and_then(|metadata| metadata.labels.as_ref());
    let none = BTreeMap::new();
    let error = match Selector::read(selector, "selector") {
        Err(error) => error,
        Ok(selector) if selector.is_empty() => FieldError::new(
            "selector",
            "it selects nothing: name labels of the template",
        ),
        Ok(selector) if !selector.matches(labels.unwrap_or(&none)) => FieldError::new(
            "selector",
            "it does not match the labels of the template: give both the same labels",
        ),
        Ok(_) => return Vec::new(),
    };
    vec![error]
}

fn selection(policy: &SelectionPolicy, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let sort = || format!("{path}.sortPolicy");
    errors.extend(word::<SortPolicy>(sort, policy.sort_policy.as_deref()).err());
    let Some(selectors) = &policy.selectors else {
        return errors;
    };
    if let Some(labels) = &selectors.label_selector {
        let path = format!("{path}.selectors.labelSelector");
        errors.extend(Selector::read(labels, &path).err());
    }
    let required = selectors.node_selector_requirement_matcher.iter();
    for (index, required) in required.enumerate() {
        if !NODE_OPERATORS.contains(&required.operator.as_str()) {
            let path = format!("{path}.selectors.nodeSelectorRequirementMatcher[{index}].operator");
            let message = format!("use {}", NODE_OPERATORS.join(", "));
            errors.push(FieldError::new(path, message));
        }
    }
    errors
}

impl VirtualMachinePoolSpec {
    /// How many of `replicas` machines may be away at a time: one at least.
    ///
    /// # Errors
    ///
    /// If it is neither a number nor a percentage.
    pub fn max_unavailable(&self, replicas: usize) -> Result<usize, FieldError> {
        let wrong = |text: &dyn std::fmt::Display| {
            let message = format!("`{text}` is neither a number nor a percentage, such as 25%");
            FieldError::new("maxUnavailable", message)
        };
        let count = match &self.max_unavailable {
            None => replicas,
            Some(IntOrString::Int(count)) => usize::try_from(*count).map_err(|_| wrong(count))?,
            Some(IntOrString::String(text)) => {
                let digits = text.strip_suffix('%').unwrap_or(text);
                let percent: usize = digits.parse().map_err(|_| wrong(text))?;
                replicas.saturating_mul(percent) / 100
            }
        };
        Ok(count.max(1))
    }

    /// Seconds for which a machine fails to start before it is replaced.
    ///
    /// # Errors
    ///
    /// If the duration cannot be read.
    pub fn failing_for(&self) -> Result<Option<u64>, FieldError> {
        let Some(healing) = &self.autohealing else {
            return Ok(None);
        };
        let Some(text) = &healing.min_failing_to_start_duration else {
            return Ok(Some(FAILING_FOR));
        };
        seconds(text).map(Some).ok_or_else(|| {
            let message = format!("`{text}` is no duration: write it as 5m0s or 90s");
            FieldError::new("autohealing.minFailingToStartDuration", message)
        })
    }
}

/// Seconds for which a machine fails to start before it is replaced, where a pool does not say;
/// KubeVirt's.
const FAILING_FOR: u64 = 300;

/// Whole seconds of a duration as Kubernetes writes it: hours, minutes, seconds and parts of them.
fn seconds(text: &str) -> Option<u64> {
    let mut millis = 0_u64;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let factor = match &rest[..unit] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        millis = millis.checked_add(count.checked_mul(factor)?)?;
        rest = &rest[unit..];
    }
    Some(millis / 1000)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(errors: Vec<FieldError>) -> Vec<String> {
        errors.into_iter().map(|error| error.path).collect()
    }

    fn whole_pool(more: Value) -> VirtualMachinePoolSpec {
        let mut spec = json!({
            "selector": { "matchLabels": { "a": "b" } },
            "virtualMachineTemplate": {
                "metadata": { "labels": { "a": "b" } },
                "spec": { "runStrategy": "Always",
                    "template": { "spec": { "domain": { "memory": { "guest": "64Mi" } } } } },
            },
        });
        let fields = spec.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_selector_matches_its_template() {
        let wrong = |selector: Value| {
            let set = json!({ "selector": selector, "template": {
                "metadata": { "labels": { "a": "b" } },
                "spec": { "domain": { "memory": { "guest": "64Mi" } } },
            } });
            paths(replica_set(&serde_json::from_value(set).unwrap()))
        };
        assert!(wrong(json!({ "matchLabels": { "a": "b" } })).is_empty());
        assert_eq!(wrong(json!({})), ["selector"]);
        assert_eq!(wrong(json!({ "matchLabels": { "a": "c" } })), ["selector"]);
        let empty = json!({ "selector": { "matchLabels": { "a": "b" } }, "template": {} });
        assert_eq!(
            paths(replica_set(&serde_json::from_value(empty).unwrap())),
            ["selector", "template.spec"]
        );
    }

    #[test]
    fn a_pool_is_judged_with_its_template_and_its_strategies() {
        assert!(pool(&whole_pool(json!({}))).is_empty());
        let wrong = whole_pool(json!({
            "maxUnavailable": "some", "autohealing": { "minFailingToStartDuration": "long" },
            "scaleInStrategy": { "proactive": { "selectionPolicy": { "sortPolicy": "Best" } } },
            "updateStrategy": { "proactive": { "selectionPolicy": { "selectors": {
                "nodeSelectorRequirementMatcher": [{ "key": "a", "operator": "Near" }],
            } } } },
        }));
        assert_eq!(
            paths(pool(&wrong)),
            [
                "autohealing.minFailingToStartDuration",
                "maxUnavailable",
                "scaleInStrategy.proactive.selectionPolicy.sortPolicy",
                "updateStrategy.proactive.selectionPolicy.selectors.nodeSelectorRequirementMatcher[0].operator",
            ]
        );
        let mut strategies = whole_pool(json!({}));
        let template = strategies.virtual_machine_template.spec.as_mut().unwrap();
        template.run_strategy = None;
        assert_eq!(
            paths(pool(&strategies)),
            ["virtualMachineTemplate.spec.running"]
        );
    }

    #[test]
    fn so_many_may_be_away() {
        for (given, replicas, expected) in [
            (Value::Null, 4, 4),
            (json!(2), 4, 2),
            (json!("50%"), 5, 2),
            (json!("10%"), 4, 1),
            (json!(0), 4, 1),
            (Value::Null, 0, 1),
        ] {
            let spec = whole_pool(json!({ "maxUnavailable": given }));
            assert_eq!(spec.max_unavailable(replicas), Ok(expected), "{given}");
        }
    }

    #[test]
    fn durations_are_read_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("5m0s", Some(300)),
            ("1h30m", Some(5400)),
            ("90s", Some(90)),
            ("1500ms", Some(1)),
            ("", None),
            ("5", None),
            ("m", None),
            ("1d", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
