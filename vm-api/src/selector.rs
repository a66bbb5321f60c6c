//! Selectors of labels, read once: which objects a set calls its own, and which it chooses first.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::NodeSelectorRequirement;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube_core::SelectorExt;

use crate::field::FieldError;

/// A selector of labels that can be matched.
#[derive(Clone, Debug)]
pub struct Selector(kube_core::Selector);

impl Selector {
    /// Reads the selector at `path`.
    ///
    /// # Errors
    ///
    /// If it has an operator that there is not, or values that do not go with one.
    pub fn read(selector: &LabelSelector, path: &str) -> Result<Self, FieldError> {
        kube_core::Selector::try_from(selector.clone())
            .map(Self)
            .map_err(|error| FieldError::new(path, error))
    }

    /// Whether it says nothing, so that it would match everything.
    pub fn is_empty(&self) -> bool {
        self.0.selects_all()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.matches(labels)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether `labels` fulfil what is required of a node; numbers are compared as such.
pub fn fulfils(labels: &BTreeMap<String, String>, required: &NodeSelectorRequirement) -> bool {
    let label = labels.get(&required.key);
    let values = required.values.as_deref().unwrap_or_default();
    let number = |text: &String| text.parse::<i64>().ok();
    let numbers = || Some((number(label?)?, number(values.first()?)?));
    match required.operator.as_str() {
        "In" => label.is_some_and(|label| values.contains(label)),
        "NotIn" => label.is_none_or(|label| !values.contains(label)),
        "Exists" => label.is_some(),
        "DoesNotExist" => label.is_none(),
        "Gt" => numbers().is_some_and(|(label, bound)| label > bound),
        "Lt" => numbers().is_some_and(|(label, bound)| label < bound),
        _ => false,
    }
}

/// The operators that [`fulfils`] knows.
pub const NODE_OPERATORS: [&str; 6] = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels() -> BTreeMap<String, String> {
        [("app", "web"), ("cores", "8")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn a_selector_is_a_text_and_a_match() {
        let selector = json!({ "matchLabels": { "app": "web" },
            "matchExpressions": [{ "key": "cores", "operator": "In", "values": ["8", "4"] }] });
        let selector = Selector::read(&serde_json::from_value(selector).unwrap(), "selector");
        let selector = selector.unwrap();
        assert_eq!(selector.to_string(), "app=web,cores in (4,8)");
        assert!(selector.matches(&labels()));
        assert!(!selector.matches(&BTreeMap::new()));
        let wrong = json!({ "matchExpressions": [{ "key": "a", "operator": "Near" }] });
        let wrong = Selector::read(&serde_json::from_value(wrong).unwrap(), "selector");
        assert_eq!(wrong.unwrap_err().path, "selector");
    }

    #[test]
    fn requirements_of_nodes_know_numbers() {
        for (operator, values, expected) in [
            ("In", json!(["8"]), true),
            ("NotIn", json!(["8"]), false),
            ("Exists", json!([]), true),
            ("DoesNotExist", json!([]), false),
            ("Gt", json!(["7"]), true),
            ("Lt", json!(["8"]), false),
            ("Lt", json!(["many"]), false),
            ("Near", json!(["8"]), false),
        ] {
            let required = json!({ "key": "cores", "operator": operator, "values": values });
            let required = serde_json::from_value(required).unwrap();
            assert_eq!(fulfils(&labels(), &required), expected, "{required:?}");
        }
    }
}
