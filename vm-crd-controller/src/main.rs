//! The controller's program: command line, logs, then [`vm_crd_controller::run`].

use clap::Parser;
use tracing_subscriber::EnvFilter;
use vm_crd_controller::args::{Args, LogFormat};
use vm_crd_controller::run::run;

/// Levels of the logs unless RUST_LOG says otherwise: kube's own spans repeat what ours say.
const LEVELS: &str = "info,kube_runtime=warn,kube_client=error";

/// Threads that work. The controller waits more than it computes, and each thread keeps memory of its
/// own, of which a node with many processors would give it a lot.
const THREADS: usize = 4;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()?;
    runtime.block_on(work())
}

async fn work() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LEVELS));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Json => logs.json().flatten_event(true).init(),
        LogFormat::Text => logs.with_ansi(false).init(),
    }
    run(args).await
}
