//! What must be right about a machine before it gets an instance. Its template is checked when the
//! instance is: there it is told where users of either kind look.

use vm_api::v1::{RunStrategy, VirtualMachine};
use vm_api::{FieldError, support, validate};

use super::trouble::Trouble;

/// The template's part of a machine's paths.
const TEMPLATE: &str = "template.spec";

/// The strategy by which the machine runs, or what is wrong with the machine apart from its
/// template's spec.
pub(super) fn machine(vm: &VirtualMachine) -> Result<RunStrategy, Trouble> {
    let own = |errors: Vec<FieldError>| -> Vec<String> {
        errors
            .into_iter()
            .filter(|error| !error.path.starts_with(TEMPLATE) || error.path == TEMPLATE)
            .map(|error| error.under("spec").to_string())
            .collect()
    };
    let unsupported = own(support::machine(&vm.spec));
    if !unsupported.is_empty() {
        return Err(Trouble::Unsupported(unsupported));
    }
    let invalid = own(validate::machine(&vm.spec));
    if !invalid.is_empty() {
        return Err(Trouble::Invalid(invalid));
    }
    vm.spec
        .run_strategy()
        .map_err(|error| Trouble::Invalid(vec![error.under("spec").to_string()]))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(spec: Value) -> Result<RunStrategy, Trouble> {
        let vm = json!({ "metadata": { "name": "tl" }, "spec": spec });
        machine(&serde_json::from_value(vm).unwrap())
    }

    #[test]
    fn the_machine_is_checked_here_and_its_template_is_not() {
        let template = json!({ "spec": { "domain": { "devices": { "downwardMetrics": {} } } } });
        let sound = json!({ "running": true, "template": template });
        assert_eq!(check(sound), Ok(RunStrategy::Always));
        let both = json!({ "running": true, "runStrategy": "Always", "template": template });
        assert!(matches!(check(both), Err(Trouble::Invalid(_))));
        let typed =
            json!({ "running": true, "template": template, "instancetype": { "name": "small" } });
        assert_eq!(check(typed), Ok(RunStrategy::Always));
        let made = json!([{ "metadata": { "name": "a" }, "spec": {} }]);
        let made = json!({ "running": true, "template": template, "dataVolumeTemplates": made });
        let trouble = check(made).unwrap_err();
        assert_eq!(trouble.reason(), "UnsupportedField");
        assert!(
            trouble.to_string().starts_with("spec.dataVolumeTemplates"),
            "{trouble}"
        );
        let empty = json!({ "running": true, "template": {} });
        assert!(
            check(empty)
                .unwrap_err()
                .to_string()
                .starts_with("spec.template.spec: ")
        );
    }
}
