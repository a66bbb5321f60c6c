//! Start, leadership and end of the controller.
//!
//! *Expected flow*: refuse a cluster of KubeVirt's → answer probes → wait for leadership → fill the
//! stores → reconcile until told to stop → finish what was begun → release the lease.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use crate::args::Args;
use crate::incumbent;
use crate::lease::Candidate;
use crate::metrics::Metrics;
use crate::serve::{Readiness, serve};
use crate::work::work;

/// How long what was begun may take to finish after the signal; within the Deployment's grace
/// period.
const GRACE: Duration = Duration::from_secs(20);

/// Runs until SIGTERM or SIGINT; an error also when leadership is lost.
pub async fn run(args: Args) -> Result<()> {
    let client = Client::try_default()
        .await
        .context("no way to the API server: neither a kubeconfig nor a service account is here")?;
    incumbent::refuse(&client).await?;

    let metrics = Metrics::new();
    let readiness = Readiness::default();
    let mut server = tokio::spawn(serve(args.listen, metrics.clone(), readiness.clone()));
    let mut candidate = Candidate::new(
        client.clone(),
        &args.lease_namespace,
        &args.lease_name,
        &args.identity,
        Duration::from_secs(u64::from(args.lease_seconds)),
    );
    let mut stopped = std::pin::pin!(stop_signal()?);

    readiness.set(true);
    tokio::select! {
        () = candidate.acquire() => {}
        () = &mut stopped => return Ok(()),
        result = &mut server => return served(result),
    }
    metrics.leading.set(1);
    readiness.set(false);
    let (stop, stopping) = watch::channel(false);
    let mut work = tokio::spawn(work(client, args, metrics.clone(), readiness, stopping));
    let lost = tokio::select! {
        () = &mut stopped => false,
        () = candidate.hold() => true,
        result = &mut work => {
            result.context("the reconcilers broke down")?;
            bail!("the reconcilers ended without being told to");
        }
        result = &mut server => return served(result),
    };
    if lost {
        // Another replica may lead already: not one more write.
        work.abort();
        bail!("leadership is lost; the pod's restart makes this replica stand by");
    }
    info!("stopping");
    stop.send_replace(true);
    if tokio::time::timeout(GRACE, work).await.is_err() {
        info!("some work did not finish in time");
    }
    candidate.release().await;
    Ok(())
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
