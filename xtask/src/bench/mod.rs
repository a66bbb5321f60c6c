//! `cargo xtask bench`: what a machine costs beside an ordinary pod and beside QEMU alone, measured in
//! one run, one after the other, as medians; and what many machines cost the controller, on simulated
//! nodes. Fails if a promise of `SPECIFICATION.md` is not kept.

mod exec;
mod far_end;
mod many;
mod memory;
mod moments;
mod plot;
mod pods;
mod raw;
mod report;
mod scale;
mod sizes;
mod start;
mod stop;
mod throughput;

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::cluster::{self, ClusterName, Node, apply, kubectl};
use crate::command;
use crate::footprint;
use crate::guest::{self, Guest};
use report::Report;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these parts (default: all but scale)
    #[arg(value_enum)]
    parts: Vec<Part>,
    #[command(flatten)]
    scale: scale::Args,
    /// How often each thing is measured
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// How many machines at once, one after the other
    #[arg(long, value_delimiter = ',', default_value = "1,10,30")]
    many: Vec<usize>,
    /// The cluster
    #[arg(long, default_value = "kubevirt-bench")]
    cluster: ClusterName,
    /// The cluster is there, with product and guests, and stays
    #[arg(long)]
    keep: bool,
    /// Write the figures there too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write bars of them to this directory, as SVG
    #[arg(long)]
    plots: Option<PathBuf>,
}

/// A part of the figures.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The programs' sizes
    Sizes,
    /// From kubelet's wish to the guest's words
    Start,
    /// What is not the guest's memory
    Memory,
    /// Deleting
    Stop,
    /// `kubectl exec`
    Exec,
    /// Bytes of disks and networks
    Throughput,
    /// Many machines at once
    Many,
    /// The controller with ten thousand machines, without nodes; a control plane of its own
    Scale,
}

/// Where all of it runs: the node with the newest containerd.
const NODE: Node = Node::Two;

/// The pods' namespace, as kubectl's option.
const NAMESPACE: &str = "--namespace=bench";

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut report = Report::default();
    if args.parts.contains(&Part::Scale) {
        scale::measure(&args.scale, &mut report)?;
    }
    if args.parts.is_empty() || args.parts.iter().any(|part| *part != Part::Scale) {
        on_nodes(args, &mut report)?;
    }
    report.print();
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    if let Some(directory) = &args.plots {
        plot::write(&report, directory)?;
    }
    report.check()
}

/// What is measured on nodes, on a cluster that comes and goes.
fn on_nodes(args: &Args, report: &mut Report) -> Result<()> {
    let cluster = &args.cluster;
    if args.keep {
        return measure(args, report);
    }
    cluster::down(cluster)?;
    let result = prepare(cluster).and_then(|()| measure(args, report));
    result.and(cluster::down(cluster))
}

fn prepare(cluster: &ClusterName) -> Result<()> {
    cluster::up(cluster)?;
    let mut archives = Vec::new();
    for guest in [Guest::BootSector, Guest::Tiny] {
        archives.push(guest::build(guest, guest.default_format())?.archive);
    }
    cluster::load(cluster, &archives)?;
    cluster::install(cluster)?;
    footprint::warm_up(cluster)
}

fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let cluster = &args.cluster;
    clean_up(cluster)?;
    let namespace = serde_json::json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "bench" },
    });
    apply(cluster, &namespace.to_string())?;
    let account = [
        "wait",
        "--for=create",
        "serviceaccount/default",
        "--timeout=60s",
    ];
    command::run(kubectl(cluster).args(account).arg(NAMESPACE))?;
    let wanted = |part: &&Part| args.parts.is_empty() || args.parts.contains(part);
    for part in Part::value_variants().iter().filter(wanted) {
        match part {
            Part::Sizes => sizes::measure(cluster, report)?,
            Part::Start => start::measure(cluster, args.runs, report)?,
            Part::Memory => {
                for number in [1, 10] {
                    memory::measure(cluster, number, report)?;
                }
            }
            Part::Stop => stop::measure(cluster, args.runs, report)?,
            Part::Exec => exec::measure(cluster, args.runs, report)?,
            Part::Throughput => throughput::measure(cluster, args.runs, report)?,
            Part::Many => {
                for number in &args.many {
                    many::measure(cluster, *number, report)?;
                }
            }
            // Not on nodes.
            Part::Scale => {}
        }
    }
    clean_up(cluster)
}

fn clean_up(cluster: &ClusterName) -> Result<()> {
    let delete = ["delete", "--ignore-not-found", "namespace", "bench"];
    command::run(kubectl(cluster).args(delete))
}

/// What lies in the middle; of two, the lower.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len().saturating_sub(1) / 2;
    values.get(middle).copied().unwrap_or(f64::NAN)
}
