//! KubeVirt's presets: what they would have filled in.

use serde_json::Value;

/// Whether a preset would give memory to an instance that has none of its own.
pub(super) fn gives_memory(preset: Option<&Value>, instance: Option<&Value>) -> bool {
    let (Some(preset), Some(instance)) = (preset, instance) else {
        return false;
    };
    let domain = &preset["spec"]["domain"];
    let memory = [
        &domain["memory"]["guest"],
        &domain["resources"]["requests"]["memory"],
    ];
    memory.iter().any(|memory| !memory.is_null())
        && selects(&preset["spec"]["selector"], &instance["metadata"]["labels"])
}

/// Whether a selector means these labels. One that uses more than equality and `In` means none.
fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_object();
    let mut equal = equal.into_iter().flatten();
    let listed = selector["matchExpressions"].as_array();
    let mut listed = listed.into_iter().flatten();
    equal.all(|(key, value)| labels.get(key) == Some(value))
        && listed.all(|rule| {
            let key = rule["key"].as_str().unwrap_or_default();
            let values = rule["values"].as_array().cloned().unwrap_or_default();
            rule["operator"] == "In" && labels.get(key).is_some_and(|it| values.contains(it))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_preset_gives_to_whom_it_selects() {
        let preset = |selector: Value| {
            let memory = json!({ "requests": { "memory": "64M" } });
            json!({ "spec": { "selector": selector, "domain": { "resources": memory } } })
        };
        let instance = json!({ "metadata": { "labels": { "size": "small" } } });
        let gives = |preset: &Value| gives_memory(Some(preset), Some(&instance));
        assert!(gives(&preset(
            json!({ "matchLabels": { "size": "small" } })
        )));
        assert!(!gives(&preset(
            json!({ "matchLabels": { "size": "large" } })
        )));
        let rule = |operator: &str| json!({ "matchExpressions": [{ "key": "size", "operator": operator, "values": ["small"] }] });
        assert!(gives(&preset(rule("In"))));
        assert!(!gives(&preset(rule("NotIn"))));
        let cores = json!({ "spec": { "selector": {}, "domain": { "cpu": { "cores": 12 } } } });
        assert!(!gives(&cores));
    }
}
