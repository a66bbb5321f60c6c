//! The cases: what happens to machines, told as a user sees it.

mod bad_input;
mod leading;
mod life;
mod strategies;

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
        life: launched_and_stopped writes_little slow_start_is_told deleted_while_running
            pod_deleted_under_a_running_machine template_changed_while_running lone_instance
            deleted_before_it_ran;
        strategies: always_runs_again rerun_on_failure once manual halted_follows_a_start_request
            running_true crash_loop crash_loop_mended;
        bad_input: unschedulable claim_missing image_missing unsupported_field
            refused_by_the_api_server name_taken complaint_of_kubelet;
    }
}

/// Cases that need controllers of their own, or change the cluster.
pub(crate) fn one_by_one() -> Vec<(&'static str, Case)> {
    cases! {
        leading: hands_over_when_it_stops takes_over_when_the_leader_dies stands_by_after_a_pause
            catches_up_after_an_outage refuses_kubevirt;
    }
}

/// All cases.
pub(crate) fn all() -> Vec<(&'static str, Case)> {
    let mut all = side_by_side();
    all.extend(one_by_one());
    all
}
