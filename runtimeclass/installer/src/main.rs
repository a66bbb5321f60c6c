//! `kubevirt-node`: puts the runtime onto a node and takes it back.
//!
//! It runs as the DaemonSet `kubevirt-node`, in the node's PID namespace and with the node's root at
//! `--host`. `install` ends only when asked to; whether it worked is told by `check` (the pod's
//! readiness), by its log, by the termination message and by the node's label.

mod cli;
mod cluster;
mod config_files;
mod containerd;
mod cri;
mod files;
mod in_root;
mod install;
mod machines;
mod node;
mod release;
mod restart;
mod retire;
mod status;
mod uninstall;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};

/// Level of the log unless RUST_LOG says otherwise.
const LEVEL: &str = "info";

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before any thread exists: chroot(2) is for the whole process.
    if let Command::InRoot { root, command } = &cli.command {
        return in_root::exec(root, command);
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LEVEL));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let sentence = format!("{error:#}");
            tracing::error!("{sentence}");
            // Kubelet shows it in the pod's status; without that file there is no pod to tell.
            let _ = std::fs::write("/dev/termination-log", &sentence);
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(cli: Cli) -> anyhow::Result<()> {
    let node = node::Node::new(cli.host, cli.prefix);
    match cli.command {
        Command::Install {
            payload,
            config,
            node_name,
        } => install::run(&node, &payload, config.as_deref(), &node_name).await,
        Command::Uninstall { force, node_name } => uninstall::run(&node, force, &node_name).await,
        Command::Retire { namespace, timeout } => {
            retire::run(&namespace, Duration::from_secs(timeout)).await
        }
        Command::Check { absent: false } => install::check(&node).await,
        Command::Check { absent: true } => uninstall::check(&node).await,
        Command::Status { output } => status::run(&node, output).await,
        Command::InRoot { .. } => unreachable!("handled before the runtime starts"),
    }
}
