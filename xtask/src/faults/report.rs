//! What came of the rounds, as a table.

use std::collections::BTreeMap;
use std::time::Duration;

use super::plan::{Fault, Phase};
use super::round::Outcome;

/// Prints a line for each fault and phase.
pub(super) fn print(seed: u64, outcomes: &[Outcome]) {
    println!(
        "Seed {seed}: {} rounds in which nothing was lost or left",
        outcomes.len()
    );
    println!(
        "{:<18} {:<9} {:>6} {:>4} {:>12} {:>8}",
        "fault", "phase", "rounds", "hit", "back p50 s", "max s"
    );
    let mut rows: BTreeMap<(Fault, Phase), Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        let key = (outcome.plan.fault, outcome.plan.phase);
        rows.entry(key).or_default().push(outcome);
    }
    for ((fault, phase), outcomes) in rows {
        let hit = outcomes.iter().filter(|outcome| outcome.hit).count();
        let mut times: Vec<_> = outcomes.iter().filter_map(|it| it.recovery).collect();
        times.sort();
        let seconds = |time: Option<&Duration>| {
            time.map_or_else(
                || "-".to_owned(),
                |time| format!("{:.1}", time.as_secs_f32()),
            )
        };
        println!(
            "{:<18} {:<9} {:>6} {hit:>4} {:>12} {:>8}",
            format!("{fault:?}"),
            format!("{phase:?}"),
            outcomes.len(),
            seconds(times.get(times.len() / 2)),
            seconds(times.last()),
        );
    }
}
