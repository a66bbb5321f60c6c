//! Start, leadership and end of the controller.
//!
//! *Expected flow*: refuse a cluster of KubeVirt's → answer probes → wait for leadership → fill the
//! stores → reconcile until told to stop → finish what was begun → release the lease. Who loses the
//! lease drops all work at once and stands by again.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::args::Args;
use crate::incumbent;
use crate::lease::Candidate;
use crate::metrics::Metrics;
use crate::serve::{Readiness, serve};
use crate::work::work;

/// Longest silence of the API server on a connection; above the 290 s for which a watch may have
/// nothing to tell.
const SILENCE: Duration = Duration::from_secs(300);

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: Args) -> Result<()> {
    let client = connect().await?;
    incumbent::refuse(&client).await?;

    let metrics = Metrics::new();
    let readiness = Readiness::default();
    let mut server = tokio::spawn(serve(args.listen, metrics.clone(), readiness.clone()));
    let lease = Duration::from_secs(u64::from(args.lease_seconds));
    let mut candidate = Candidate::new(
        client.clone(),
        &args.lease_namespace,
        &args.lease_name,
        &args.identity,
        lease,
    );
    let mut stopped = std::pin::pin!(stop_signal()?);
    loop {
        readiness.set(true);
        tokio::select! {
            () = candidate.acquire() => {}
            () = &mut stopped => return Ok(()),
            result = &mut server => return served(result),
        }
        metrics.leading.set(1);
        readiness.set(false);
        let (stop, stopping) = watch::channel(false);
        let work = work(
            client.clone(),
            args.clone(),
            metrics.clone(),
            readiness.clone(),
            stopping,
        );
        let mut work = tokio::spawn(work);
        tokio::select! {
            () = &mut stopped => {
                info!("stopping");
                stop.send_replace(true);
                // Nobody renews now: what was begun ends before another replica may lead.
                if tokio::time::timeout(lease / 2, work).await.is_err() {
                    warn!("some work did not finish in time");
                }
                candidate.release().await;
                return Ok(());
            }
            () = candidate.hold() => {
                // Another replica may lead already: not one more write.
                work.abort();
                let _ = work.await;
                metrics.leading.set(0);
            }
            result = &mut work => {
                result.context("the reconcilers broke down")?;
                bail!("the reconcilers ended without being told to");
            }
            result = &mut server => return served(result),
        }
    }
}

async fn connect() -> Result<Client> {
    let mut config = Config::infer()
        .await
        .context("no way to the API server: neither a kubeconfig nor a service account is here")?;
    config.read_timeout = Some(SILENCE);
    Client::try_from(config).context("set up the way to the API server")
}

fn served(
    result: Result<std::io::Result<std::convert::Infallible>, tokio::task::JoinError>,
) -> Result<()> {
    match result.context("the probes' server broke down")? {
        Ok(never) => match never {},
        Err(error) => Err(error).context("cannot serve probes and metrics (--listen)"),
    }
}

fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
