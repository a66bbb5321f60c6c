//! `cargo xtask cluster`: a real two-node Kubernetes cluster on this machine, in namespaces of its
//! own. Relies on root, a Debian and Go; promises that `down` leaves nothing behind and that two
//! clusters of different names do not meet.

mod builds;
mod cgroup;
mod containerd;
mod control_plane;
mod dev;
mod down;
mod env;
mod extras;
mod forward;
mod images;
mod install;
mod kernel;
mod kubectl;
mod kubelet;
mod load;
mod lock;
mod mounts;
mod names;
mod network;
mod node;
mod pki;
mod place;
mod power;
mod process;
mod supervisor;
mod up;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

pub(crate) use builds::{ChartTools, ensure_chart_tools as chart_tools};
pub(crate) use down::down;
pub(crate) use env::environment;
pub(crate) use extras::extras;
pub(crate) use install::{has_virtualization, install, uninstall};
pub(crate) use kubectl::{apply, kubectl};
pub(crate) use load::load;
pub(crate) use names::{ClusterName, Node};
pub(crate) use place::on_node;
pub(crate) use power::power_cycle;
pub(crate) use up::up;

/// Directory of the Kubernetes programs, built if need be.
pub(crate) fn kubernetes() -> Result<PathBuf> {
    builds::ensure_kubernetes()
}

/// Directory of kwok, which simulates nodes, built if need be.
pub(crate) fn kwok() -> Result<PathBuf> {
    builds::ensure_kwok()
}

/// Arguments of `cargo xtask cluster`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which cluster
    #[arg(long, global = true, default_value = "kubevirt")]
    name: ClusterName,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the cluster up; what already runs is left alone
    Up,
    /// Take the cluster down and remove all of it
    Down,
    /// Print shell exports for kubectl, ctr-node1, ctr-node2, node1 and node2
    Env,
    /// Import OCI archives on all nodes
    Load {
        /// The archives
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Add what only the end-to-end tests need; `cargo xtask test` does it by itself
    Extras,
    /// Run a command as on a node
    NodeExec {
        /// The node
        node: Node,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// A developer's short cut: build the shim and put it on both nodes without building images
    DevShim {
        /// Cargo's profile
        #[arg(long, default_value = "shim")]
        profile: String,
    },
    /// Build the product and install it on the cluster as a user does
    Install,
    /// Take the product off the cluster again
    Uninstall,
    /// PID 1 of a place of the cluster; started by `up`
    #[command(hide = true)]
    Supervise {
        /// What to set up and run
        spec: PathBuf,
    },
}

pub(crate) fn run(args: Args) -> Result<()> {
    let cluster = &args.name;
    match args.command {
        Command::Up => {
            up(cluster)?;
            eprintln!(
                "Cluster {cluster} is up. Next: eval \"$(cargo xtask cluster env --name {cluster})\""
            );
            Ok(())
        }
        Command::Down => down(cluster),
        Command::Env => {
            print!("{}", env::exports(cluster)?);
            Ok(())
        }
        Command::Load { archives } => load(cluster, &archives),
        Command::Extras => extras(cluster),
        Command::NodeExec { node, command } => {
            let error = on_node(cluster, node)?.args(command).exec();
            Err(error).context("run nsenter (util-linux)")
        }
        Command::DevShim { profile } => dev::dev_shim(cluster, &profile),
        Command::Install => install(cluster),
        Command::Uninstall => install::uninstall(cluster),
        Command::Supervise { spec } => supervisor::run(&spec),
    }
}
