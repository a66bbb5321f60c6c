//! Which machines of a pool come first when some are to go or to be restarted.

use std::cmp::Reverse;

use kube::ResourceExt;
use vm_api::pool::{SelectionPolicy, Selectors, SortPolicy};
use vm_api::selector::{Selector, fulfils};
use vm_api::v1::VirtualMachine;

use super::child::number;
use crate::machine::digest;

/// `machines` in the order of `policy`, those left out that it does not choose.
pub(super) fn select<'a>(
    mut machines: Vec<&'a VirtualMachine>,
    policy: Option<&SelectionPolicy>,
) -> Vec<&'a VirtualMachine> {
    let order = policy
        .and_then(|policy| policy.sort_policy.as_deref())
        .and_then(|word| word.parse().ok())
        .unwrap_or(SortPolicy::Random);
    let number = |vm: &&VirtualMachine| number(&vm.name_any()).unwrap_or_default();
    let created = |vm: &&VirtualMachine| vm.metadata.creation_timestamp.clone();
    match order {
        SortPolicy::AscendingOrder => machines.sort_by_key(number),
        SortPolicy::DescendingOrder => machines.sort_by_key(|vm| Reverse(number(vm))),
        SortPolicy::Newest => machines.sort_by_key(|vm| Reverse((created(vm), number(vm)))),
        SortPolicy::Oldest => machines.sort_by_key(|vm| (created(vm), number(vm))),
        // Any order will do: one that serves, and is the same each time.
        SortPolicy::Random => machines.sort_by_cached_key(|vm| {
            let ready = vm.status.as_ref().and_then(|status| status.ready);
            let uid = vm.uid().unwrap_or_default();
            (ready == Some(true), digest(&[&uid]))
        }),
    }
    if let Some(selectors) = policy.and_then(|policy| policy.selectors.as_ref()) {
        machines.retain(|vm| chosen(vm, selectors));
    }
    machines
}

fn chosen(vm: &VirtualMachine, selectors: &Selectors) -> bool {
    let template = &vm.spec.template;
    let labels = template
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.labels.clone())
        .unwrap_or_default();
    let by_labels = selectors.label_selector.as_ref().is_none_or(|selector| {
        Selector::read(selector, "").is_ok_and(|selector| selector.matches(&labels))
    });
    let nodes = template
        .spec
        .as_ref()
        .map(|spec| spec.node_selector.clone())
        .unwrap_or_default();
    let mut required = selectors.node_selector_requirement_matcher.iter();
    by_labels && required.all(|required| fulfils(&nodes, required))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn vm(number: usize, created: &str, ready: bool) -> VirtualMachine {
        let node = if number.is_multiple_of(2) {
            "even"
        } else {
            "odd"
        };
        serde_json::from_value(json!({
            "metadata": { "name": format!("web-{number}"), "uid": format!("u{number}"),
                "creationTimestamp": created },
            "spec": { "template": {
                "metadata": { "labels": { "kind": node } },
                "spec": { "nodeSelector": { "node": node } },
            } },
            "status": { "ready": ready },
        }))
        .unwrap()
    }

    fn order(policy: Value) -> Vec<usize> {
        let machines = [
            vm(0, "2026-01-03T00:00:00Z", true),
            vm(1, "2026-01-01T00:00:00Z", true),
            vm(10, "2026-01-02T00:00:00Z", false),
        ];
        let policy: Option<SelectionPolicy> = serde_json::from_value(policy).unwrap();
        let selected = select(machines.iter().collect(), policy.as_ref());
        let numbers = selected.iter().map(|vm| number(&vm.name_any()).unwrap());
        numbers.collect()
    }

    #[test]
    fn each_policy_has_its_order() {
        let by = |word: &str| order(json!({ "sortPolicy": word }));
        assert_eq!(by("AscendingOrder"), [0, 1, 10]);
        assert_eq!(by("DescendingOrder"), [10, 1, 0]);
        assert_eq!(by("Newest"), [0, 10, 1]);
        assert_eq!(by("Oldest"), [1, 10, 0]);
        assert_eq!(order(Value::Null)[0], 10, "what does not serve goes first");
    }

    #[test]
    fn selectors_leave_the_others_out() {
        let labels = json!({ "labelSelector": { "matchLabels": { "kind": "odd" } } });
        assert_eq!(order(json!({ "selectors": labels })), [1]);
        let required = json!([{ "key": "node", "operator": "In", "values": ["even"] }]);
        let nodes = json!({ "nodeSelectorRequirementMatcher": required });
        let policy = json!({ "sortPolicy": "AscendingOrder", "selectors": nodes });
        assert_eq!(order(policy), [0, 10]);
    }
}
