//! `cargo xtask test`: everything that must hold, in the order in which a mistake costs least.
//!
//! End to end it uses a cluster of its own name, and takes it down at the end; what the suite left
//! on the nodes is compared with what was there before.

mod chart;
mod licences;
mod uninstall;
mod upgrade;

use std::collections::HashMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::cluster::{self, ClusterName, kubectl};
use crate::command;
use crate::distribution;
use crate::faults::{self, Rounds};
use crate::footprint;
use crate::guest::{self, Guest};
use crate::image;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these parts (default: all of them)
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// The end-to-end tests whose names hold this
    #[arg(long)]
    filter: Option<String>,
    /// The cluster of the end-to-end tests
    #[arg(long, default_value = "kubevirt-test")]
    cluster: ClusterName,
    /// Leave that cluster up
    #[arg(long)]
    keep: bool,
}

/// A part of the tests.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Format, clippy with warnings denied, licences of the dependencies
    Lint,
    /// Tests of one crate each, on this machine
    Unit,
    /// The controller against a real API server
    Controller,
    /// The test guests and the QEMU that is shipped, booted without a cluster
    Guests,
    /// The Helm chart beside the plain manifests, by helm, kubectl and Prometheus' own reader of rules
    Chart,
    /// Machines on a real two-node cluster
    E2e,
    /// Installing by helm on a cluster, upgrading under a running machine, uninstalling
    Upgrade,
}

/// The Debian packages whose programs the unit tests run: a real QEMU, a real OCI runtime, real
/// network stacks.
const PACKAGES: [&str; 10] = [
    "busybox-static",
    "containerd",
    "iproute2",
    "nftables",
    "ovmf",
    "qemu-system-x86",
    "qemu-utils",
    "runc",
    "seabios",
    "swtpm",
];

/// End-to-end tests that run at once. More would only share the same cores.
const AT_ONCE: &str = "3";

pub(crate) fn run(args: &Args) -> Result<()> {
    let wanted = |part| args.parts.is_empty() || args.parts.contains(&part);
    let begin = Instant::now();
    if wanted(Part::Lint) {
        stage("format", || {
            cargo(&["fmt", "--all", "--check"], &HashMap::new())
        })?;
        stage("licences", licences::check)?;
        stage("clippy", || {
            let lint = [
                "clippy",
                "--workspace",
                "--all-targets",
                "--all-features",
                "--quiet",
            ];
            cargo(
                &[&lint[..], &["--", "-D", "warnings"]].concat(),
                &HashMap::new(),
            )
        })?;
    }
    if wanted(Part::Unit) {
        distribution::ensure(&PACKAGES)?;
        stage("unit tests", || {
            let test =
                "test --workspace --exclude tests --exclude vm-crd-controller --no-fail-fast";
            cargo(&test.split(' ').collect::<Vec<_>>(), &HashMap::new())
        })?;
    }
    if wanted(Part::Controller) {
        distribution::ensure(&["etcd-server", "iproute2", "libfaketime"])?;
        let apiserver = cluster::kubernetes()?.join("kube-apiserver");
        let environment = HashMap::from([(
            "TEST_ASSET_KUBE_APISERVER".to_owned(),
            apiserver.display().to_string(),
        )]);
        stage("controller", || {
            cargo(&["test", "-p", "vm-crd-controller"], &environment)
        })?;
    }
    if wanted(Part::Guests) {
        distribution::ensure(&PACKAGES)?;
        stage("guests", || {
            cargo(&["test", "-p", "xtask", "--", "--ignored"], &HashMap::new())?;
            // What needs programs that the distribution does not have.
            let tree = image::qemu::tree()?.display().to_string();
            let environment = HashMap::from([("KUBEVIRT_TEST_QEMU_ROOT".to_owned(), tree)]);
            let launch = ["test", "-p", "cri-glue", "--test", "launch"];
            cargo(&[&launch[..], &["--", "--ignored"]].concat(), &environment)
        })?;
    }
    if wanted(Part::Chart) {
        stage("chart", chart::check)?;
    }
    if wanted(Part::E2e) {
        stage("end to end", || on_cluster(args, suite))?;
    }
    if wanted(Part::Upgrade) {
        stage("upgrade", || on_cluster(args, upgrades))?;
    }
    eprintln!(
        "All tests passed in {:.0} s.",
        begin.elapsed().as_secs_f32()
    );
    Ok(())
}

/// Runs one part and says how long it took.
fn stage(name: &str, part: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("== {name}");
    let begin = Instant::now();
    part().with_context(|| format!("{name} failed"))?;
    eprintln!("== {name}: {:.0} s", begin.elapsed().as_secs_f32());
    Ok(())
}

/// Runs cargo in the workspace, with its output shown.
fn cargo(arguments: &[&str], environment: &HashMap<String, String>) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(arguments)
        .envs(environment)
        .status()?;
    if !status.success() {
        bail!("cargo {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// Runs `part` on a cluster of its own.
fn on_cluster(args: &Args, part: fn(&Args) -> Result<()>) -> Result<()> {
    if args.keep {
        let result = part(args);
        eprintln!("The cluster {} stays up.", args.cluster);
        return result;
    }
    // What an earlier run left would be taken for the nodes' own.
    cluster::down(&args.cluster)?;
    let result = part(args);
    let down = cluster::down(&args.cluster);
    result.and(down)
}

fn upgrades(args: &Args) -> Result<()> {
    let cluster = &args.cluster;
    let helm = cluster::chart_tools()?.helm;
    cluster::up(cluster)?;
    let guest = guest::build(Guest::Tiny, Guest::Tiny.default_format())?;
    cluster::load(cluster, &[guest.archive])?;
    footprint::warm_up(cluster)?;
    let bare = footprint::of(cluster)?;
    upgrade::check(cluster, &helm)?;
    footprint::settle(cluster, &bare).context("after uninstalling by helm")
}

fn suite(args: &Args) -> Result<()> {
    let cluster = &args.cluster;
    // Users have it, and virtctl runs it.
    distribution::ensure(&["openssh-client"])?;
    cluster::up(cluster)?;
    let mut archives = Vec::new();
    for guest in Guest::value_variants() {
        archives.push(guest::build(*guest, guest.default_format())?.archive);
    }
    cluster::load(cluster, &archives)?;
    cluster::extras(cluster)?;
    footprint::warm_up(cluster)?;
    let bare = footprint::of(cluster)?;
    cluster::install(cluster)?;
    let before = footprint::of(cluster)?;
    let mut test = vec!["test", "-p", "tests", "--tests", "--no-fail-fast"];
    test.extend(args.filter.as_deref());
    test.extend(["--", "--test-threads", AT_ONCE]);
    let result = cargo(&test, &cluster::environment(cluster));
    let left = footprint::settle(cluster, &before).context("after the cases");
    if let (Err(_), Err(left)) = (&result, &left) {
        eprintln!("Also, {left:#}");
    }
    result.and(left)?;
    if args.keep {
        return Ok(());
    }
    stage("uninstall", || {
        uninstall::check(cluster)?;
        footprint::settle(cluster, &bare).context("after uninstalling")
    })?;
    // Last, and on a node that had the product before: a power cut replaces the cluster's own pods
    // too, after which no node is what it was.
    if args.filter.is_none() {
        let Rounds { seed, rounds } = faults::SUITE;
        cluster::install(cluster)?;
        stage("faults", || faults::rounds(cluster, seed, 0, rounds))?;
    }
    Ok(())
}

/// For kubelet's back-off of a refused installer, twice over.
const PATIENCE: Duration = Duration::from_secs(180);

/// What kubectl prints as JSON.
fn get(cluster: &ClusterName, arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&command::output(
        kubectl(cluster).args(arguments),
    )?)?)
}

/// Waits until `look` says yes.
fn eventually(mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !look()? {
        if Instant::now() > deadline {
            bail!("not within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}
