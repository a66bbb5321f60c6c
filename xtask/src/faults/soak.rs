//! `cargo xtask soak`: machines made and deleted by the hundred, then many at once. What runs for long
//! holds no more afterwards than it did early on: the daemons, and the shim of a machine that looks on
//! and is asked about itself all the while.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::holdings::Holdings;
use super::machine::Machine;
use super::plan::Workload;
use super::round::{gone, runs};
use super::{NAMESPACE, clean_up, prepare, set_up};
use crate::cluster::{self, ClusterName, Node, kubectl};
use crate::command;
use crate::progress::Step;

/// Arguments of `cargo xtask soak`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many machines are made and deleted one after the other, half of them on each node
    #[arg(long, default_value_t = 200)]
    rounds: usize,
    /// How many machines then run at once, half of them on each node
    #[arg(long, default_value_t = 40)]
    at_once: usize,
    /// The cluster
    #[arg(long, default_value = "kubevirt-soak")]
    cluster: ClusterName,
    /// The cluster is there, with product and guests, and stays
    #[arg(long)]
    keep: bool,
}

const WORKLOADS: [Workload; 3] = [Workload::Plain, Workload::Disk, Workload::Directory];

/// Prints `name descriptors KiB` of the daemons and of the shim of the pod with the UID `$1`.
const USAGE: &str = r#"
usage() { echo "$1 $(ls /proc/$2/fd | wc -l) $(awk '/^VmRSS/ { print $2 }' /proc/$2/status)"; }
usage containerd $(pidof -s containerd)
usage kubelet $(pidof -s kubelet)
for config in $(grep -l "$1" /run/containerd/io.containerd.runtime.v2.task/k8s.io/*/config.json); do
  id=${config%/config.json}
  pid=$(pgrep -f "^[^ ]*containerd-shim-kubevirt-v1 .*-id ${id##*/}") && usage shim $pid
done
true
"#;

/// How much more than early on a process may hold, in descriptors and in KiB. The daemons' memory comes
/// and goes with their collector of garbage.
const DESCRIPTORS: u64 = 8;
const SHIM_KIB: u64 = 512;
const DAEMON_KIB: u64 = 48 << 10;

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Usage {
    descriptors: u64,
    kib: u64,
}

/// What each process of a node holds.
type Usages = BTreeMap<String, Usage>;

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.keep {
        return soak(args);
    }
    cluster::down(&args.cluster)?;
    let result = prepare(&args.cluster).and_then(|()| soak(args));
    result.and(cluster::down(&args.cluster))
}

fn soak(args: &Args) -> Result<()> {
    let cluster = &args.cluster;
    set_up(cluster)?;
    let step = Step::begin(format!(
        "Making and deleting {} machines, then {} at once",
        args.rounds, args.at_once
    ));
    step.total(args.rounds as u64);
    let soaked = std::thread::scope(|scope| {
        let step = &step;
        let nodes = Node::ALL.map(|node| scope.spawn(move || of_node(args, node, step)));
        let all = nodes.map(|node| node.join().unwrap_or_else(|_| bail!("a thread panicked")));
        all.into_iter().collect::<Result<Vec<_>>>()
    })?;
    step.done();
    println!("{:<6} {:<11} {:>26} {:>26}", "", "", "descriptors", "KiB");
    let mut grown = Vec::new();
    for (node, [early, late, last]) in Node::ALL.iter().zip(&soaked) {
        for (name, early) in early {
            let of = |usages: &Usages| usages.get(name).copied().context("a process is gone");
            let (late, last) = (of(late)?, of(last)?);
            let (node, descriptors) = (node.name(), early.descriptors);
            println!(
                "{node:<6} {name:<11} {descriptors:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
                late.descriptors, last.descriptors, early.kib, late.kib, last.kib
            );
            let kib = if name == "shim" { SHIM_KIB } else { DAEMON_KIB };
            if last.descriptors > descriptors + DESCRIPTORS || last.kib > early.kib + kib {
                grown.push(format!("{name} of {node}"));
            }
        }
    }
    println!("(after a quarter of them, after all of them, after those at once)");
    if !grown.is_empty() {
        bail!("ever more is held by {}", grown.join(", "));
    }
    clean_up(cluster)
}

/// What the node's processes hold after a quarter of the machines, after all, and after those at once.
fn of_node(args: &Args, node: Node, step: &Step) -> Result<[Usages; 3]> {
    let cluster = &args.cluster;
    let neighbour = Machine::neighbour(cluster, node)?;
    let process = runs(&neighbour, None)?;
    let holdings = Holdings::of(cluster, node)?;
    let rounds = args.rounds / 2;
    let mut early = None;
    for number in 0..rounds {
        let workload = WORKLOADS[number % WORKLOADS.len()];
        let machine = Machine::apply(
            cluster,
            node,
            format!("soak-{node:?}-{number}").to_lowercase(),
            workload,
        )?;
        runs(&machine, None)?;
        ask(&neighbour)?;
        machine.delete()?;
        gone(&machine)?;
        if number == rounds / 4 {
            early = Some(usages(cluster, node, &neighbour)?);
        }
        step.part(node.name());
    }
    holdings.settle(cluster, node)?;
    let late = usages(cluster, node, &neighbour)?;
    let name = |number: usize| format!("many-{node:?}-{number}").to_lowercase();
    let many = (0..args.at_once / 2)
        .map(|number| Machine::apply(cluster, node, name(number), Workload::Plain))
        .collect::<Result<Vec<_>>>()?;
    many.iter()
        .try_for_each(|machine| runs(machine, None).map(drop))?;
    many.iter().try_for_each(Machine::delete)?;
    many.iter().try_for_each(gone)?;
    holdings.settle(cluster, node)?;
    if runs(&neighbour, None)? != process {
        bail!("the neighbour on {} did not outlive them", node.name());
    }
    let last = usages(cluster, node, &neighbour)?;
    Ok([early.unwrap_or_else(|| late.clone()), late, last])
}

/// Has the machine's shim answer a verb and read its log.
fn ask(machine: &Machine<'_>) -> Result<()> {
    let mut exec = kubectl(machine.cluster);
    let words = ["exec", &machine.name, NAMESPACE, "--", "vm:status"];
    command::output(exec.args(words)).map(drop)
}

fn usages(cluster: &ClusterName, node: Node, neighbour: &Machine<'_>) -> Result<Usages> {
    let mut command = cluster::on_node(cluster, node)?;
    let text = command::output(command.args(["sh", "-c", USAGE, "sh", &neighbour.uid]))?;
    let usage = |line: &str| -> Result<(String, Usage)> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, descriptors, kib] = words[..] else {
            bail!("not a process: {line}");
        };
        let (descriptors, kib) = (descriptors.parse()?, kib.parse()?);
        Ok((name.to_owned(), Usage { descriptors, kib }))
    };
    let usages: Usages = text.lines().map(usage).collect::<Result<_>>()?;
    if usages.len() != 3 {
        bail!("not all of them run: {text}");
    }
    Ok(usages)
}
