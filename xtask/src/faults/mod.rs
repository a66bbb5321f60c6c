//! `cargo xtask faults`: rounds of a machine and a fault, on both nodes of a cluster. After each the
//! machine is where it must be, its neighbour has seen nothing, no disk had two writers, and the node
//! holds what it held before.

mod holdings;
mod inflict;
mod machine;
mod plan;
mod report;
mod round;
mod soak;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::cluster::{self, ClusterName, Node, apply, kubectl};
use crate::command;
use crate::footprint;
use crate::guest::{self, Guest};
use crate::progress::Step;
use plan::Plan;
use round::Stage;
pub(crate) use soak::{Args as SoakArgs, run as soak};

/// Arguments of `cargo xtask faults`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What the rounds are drawn from (default: the time)
    #[arg(long)]
    seed: Option<u64>,
    /// How many rounds
    #[arg(long, default_value_t = 50)]
    rounds: u64,
    /// The number of the first round: `--seed S --first N --rounds 1` repeats one
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// The cluster
    #[arg(long, default_value = "kubevirt-faults")]
    cluster: ClusterName,
    /// The cluster is there, with product and guests, and stays
    #[arg(long)]
    keep: bool,
}

/// Rounds that are always the same.
pub(crate) struct Rounds {
    pub(crate) seed: u64,
    pub(crate) rounds: u64,
}

/// Those behind the end-to-end cases.
pub(crate) const SUITE: Rounds = Rounds {
    seed: 46,
    rounds: 20,
};

/// The machines' namespace, as kubectl's option.
const NAMESPACE: &str = "--namespace=faults";

pub(crate) fn run(args: &Args) -> Result<()> {
    let seed = args.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs())
    });
    if args.keep {
        return rounds(&args.cluster, seed, args.first, args.rounds);
    }
    cluster::down(&args.cluster)?;
    let result =
        prepare(&args.cluster).and_then(|()| rounds(&args.cluster, seed, args.first, args.rounds));
    result.and(cluster::down(&args.cluster))
}

fn prepare(cluster: &ClusterName) -> Result<()> {
    cluster::up(cluster)?;
    let guest = Guest::BootSector;
    let archive = guest::build(guest, guest.default_format())?.archive;
    cluster::load(cluster, &[archive])?;
    cluster::install(cluster)?;
    footprint::warm_up(cluster)
}

/// Plays the rounds from `first` on, the nodes side by side, and prints what came of them.
///
/// # Errors
/// With the round in which something was lost or left.
pub(crate) fn rounds(cluster: &ClusterName, seed: u64, first: u64, count: u64) -> Result<()> {
    set_up(cluster)?;
    let step = Step::begin(format!("Playing {count} rounds of seed {seed}"));
    step.total(count);
    let failed = AtomicBool::new(false);
    let outcomes = Mutex::new(Vec::new());
    let play = |node: Node| -> Result<()> {
        let mut stage = Stage::new(cluster, node)?;
        let plans = (first..first + count).map(|number| Plan::new(seed, number));
        for plan in plans.filter(|plan| plan.node == node) {
            if failed.load(Ordering::Relaxed) {
                break;
            }
            let outcome = stage.play(plan).with_context(|| {
                let again = format!("--seed {seed} --first {} --rounds 1", plan.number);
                format!("{plan:?} (again: cargo xtask faults {again})")
            })?;
            step.say(&outcome.to_string());
            step.part(node.name());
            let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            outcomes.push(outcome);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        for node in Node::ALL {
            let (play, failed, step) = (&play, &failed, &step);
            scope.spawn(move || {
                if let Err(error) = play(node) {
                    failed.store(true, Ordering::Relaxed);
                    step.say(&format!("{}: {error:#}", node.name()));
                }
            });
        }
    });
    let outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    report::print(seed, &outcomes);
    if failed.into_inner() {
        bail!("something was lost or left, see above");
    }
    step.done();
    clean_up(cluster)
}

/// Makes what the machines need, and removes what a run that failed has left to be looked at.
fn set_up(cluster: &ClusterName) -> Result<()> {
    clean_up(cluster)?;
    let namespace = serde_json::json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "faults" },
    });
    apply(cluster, &namespace.to_string())?;
    for node in Node::ALL {
        let make = format!("mkdir -p -m 777 {}", machine::DIRECTORY);
        command::run(cluster::on_node(cluster, node)?.args(["sh", "-c", &make]))?;
        apply(cluster, &machine::claim(node).to_string())?;
    }
    wait_for_account(cluster)
}

/// Pods are refused until their namespace has its service account.
fn wait_for_account(cluster: &ClusterName) -> Result<()> {
    let wait = [
        "wait",
        "--for=create",
        "serviceaccount/default",
        "--timeout=60s",
    ];
    command::run(kubectl(cluster).args(wait).arg(NAMESPACE))
}

fn clean_up(cluster: &ClusterName) -> Result<()> {
    command::run(kubectl(cluster).args([
        "delete",
        "--ignore-not-found",
        "--timeout=180s",
        "namespace",
        "faults",
    ]))?;
    for node in Node::ALL {
        let volume = format!("faults-{}", node.name());
        command::run(kubectl(cluster).args(["delete", "--ignore-not-found", "pv", &volume]))?;
        let remove = ["rm", "-rf", machine::DIRECTORY];
        command::run(cluster::on_node(cluster, node)?.args(remove))?;
    }
    Ok(())
}
