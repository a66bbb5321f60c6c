//! The cases: what happens to machines, told as a user sees it.

mod admission;
mod asked;
mod bad_input;
mod faults;
mod instancetypes;
mod leading;
mod life;
mod pools;
mod replica_sets;
mod resize;
mod seen;
mod strategies;
mod subresources;
mod timelines;

use std::pin::Pin;
use std::sync::Arc;

use anyhow::Result;

use crate::bench::Bench;

/// A case; it gets the bench and its own name.
pub(crate) type Case = fn(Arc<Bench>, String) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Lists cases of a module by their names.
macro_rules! cases {
    ($($module:ident: $($case:ident)+;)+) => {
        vec![$($((
            concat!(stringify!($module), "::", stringify!($case)),
            (|bench, name| Box::pin($module::$case(bench, name))) as Case,
        ),)+)+]
    };
}

/// Cases that share one controller.
pub(crate) fn side_by_side() -> Vec<(&'static str, Case)> {
    cases! {
        life: launched_and_stopped writes_little stops_with_few_writes slow_start_is_told deleted_while_running
            pod_deleted_under_a_running_machine template_changed_while_running lone_instance
            deleted_before_it_ran;
        strategies: always_runs_again rerun_on_failure once manual halted_follows_a_start_request
            running_true crash_loop crash_loop_mended;
        bad_input: unschedulable claim_missing image_missing unsupported_field
            no_image_volumes refused_by_the_api_server name_taken pod_name_taken state_of_a_predecessor complaint_of_kubelet;
        instancetypes: keeps_its_size a_successor_stores_its_own conflict_names_the_fields missing_type_is_waited_for
            inferred_from_a_claim another_type_wants_a_restart a_published_set
            unsupported_field_of_a_type;
        replica_sets: scaled_up_and_down paused adopts_and_releases an_ended_guest_is_replaced
            refused_by_name quota;
        pools: scaled_up_and_down updated_one_by_one updated_when_it_restarts numbered_references
            paused_and_released refused_by_name heals;
        subresources: discovered starts_and_stops starts_paused restarts stops_by_force wrong_states leaves_a_foreign_instance
            refused_by_name who_may_not expanded graphed dry_runs not_by_the_front_door
            the_policy_keeps_exec_to_verbs;
    }
}

/// Cases whose machines are asked; they share a controller that can.
pub(crate) fn with_fake_machines() -> Vec<(&'static str, Case)> {
    cases! {
        asked: agent_tells paused_behind_the_controllers_back disk_fails nothing_new_is_not_written
            asked_until_the_agent_answers;
        resize: grows_live does_not_grow refused_by_quota template_fields only_pods_of_machines;
        timelines: notices_differences halted_start_pause_restart_stop always_powered_off
            rerun_on_failure_powered_off once_powered_off manual_powered_off manual_wrong_verbs
            halted_start_paused unschedulable claim_missing image_missing always_killed
            rerun_on_failure_killed once_killed always_patched_to_halted deleted_while_running
            template_changed pod_deleted;
    }
}

/// Cases that need controllers of their own, or change the cluster.
pub(crate) fn one_by_one() -> Vec<(&'static str, Case)> {
    cases! {
        subresources: two_replicas_serve_while_one_leads certificates_are_made_anew;
        seen: metrics_follow_a_machine traces_who_asks keeps_the_product;
        leading: hands_over_when_it_stops takes_over_when_the_leader_dies stands_by_after_a_pause
            catches_up_after_an_outage;
        faults: killed_before_each_write killed_after_each_write two_leaders conflicting_writers
            clock_jumps api_server_gone watch_history_lost;
        admission: as_kubevirt_judges a_refusal_names_its_fields what_does_not_work_is_a_warning
            a_machine_goes_together_with_its_type an_instance_stays_as_it_is nothing_stops_without_the_webhooks replicas_and_types;
        // Afterwards no controller runs in this cluster.
        leading: refuses_kubevirt;
    }
}

/// All cases.
pub(crate) fn all() -> Vec<(&'static str, Case)> {
    let mut all = side_by_side();
    all.extend(with_fake_machines());
    all.extend(one_by_one());
    all
}
