//! Start, leadership and end of the controller.
//!
//! *Expected flow*: refuse a cluster of KubeVirt's → answer probes and serve the API → wait for
//! leadership → fill the stores → reconcile until told to stop → finish what was begun → release the
//! lease. Who loses the lease drops all work at once and stands by again; the API is served by every
//! replica until it ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::api;
use crate::args::Args;
use crate::ask::AskMachine;
use crate::fence::Fence;
use crate::incumbent;
use crate::lease::Candidate;
use crate::metrics::Metrics;
use crate::serve::{Readiness, serve};
use crate::verbs::Verbs;
use crate::work::work;

/// Longest silence of the API server on a connection; above the 290 s for which a watch may have
/// nothing to tell.
const SILENCE: Duration = Duration::from_secs(300);

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: Args) -> Result<()> {
    let config = Config::infer()
        .await
        .context("no way to the API server: neither a kubeconfig nor a service account is here")?;
    run_until(config, args, None, stop_signal()?).await
}

/// Runs against the API server of `config` until `stopped`; machines are asked by `way`, or through
/// their pods.
pub async fn run_until(
    config: Config,
    args: Args,
    way: Option<Arc<dyn AskMachine>>,
    stopped: impl Future<Output = ()>,
) -> Result<()> {
    let fence = Fence::default();
    let (client, fenced) = connect(config, &fence)?;
    incumbent::refuse(&client).await?;
    let through_pods = || Arc::new(Verbs::new(client.clone())) as Arc<dyn AskMachine>;
    let way = way.or_else(|| args.ask_machines.then(through_pods));

    let metrics = Metrics::new();
    let readiness = Readiness::default();
    let mut server = tokio::spawn(serve(args.listen, metrics.clone(), readiness.clone()));
    let mut api = tokio::spawn(api::serve(client.clone(), args.clone(), metrics.clone()));
    let _ends = [server.abort_handle(), api.abort_handle()].map(Ends);
    let lease = Duration::from_secs(u64::from(args.lease_seconds));
    let mut candidate = Candidate::new(
        client.clone(),
        &args.lease_namespace,
        &args.lease_name,
        &args.identity,
        lease,
        fence,
    );
    let mut stopped = std::pin::pin!(stopped);
    loop {
        readiness.set(true);
        tokio::select! {
            () = candidate.acquire() => {}
            () = &mut stopped => return Ok(()),
            result = &mut server => return served(result, "probes and metrics (--listen)"),
            result = &mut api => return served(result, "the API (--api-listen)"),
        }
        metrics.leading.set(1);
        readiness.set(false);
        let (stop, stopping) = watch::channel(false);
        let work = work(
            fenced.clone(),
            args.clone(),
            way.clone(),
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
            result = &mut server => return served(result, "probes and metrics (--listen)"),
            result = &mut api => return served(result, "the API (--api-listen)"),
        }
    }
}

/// A task that ends with its owner.
struct Ends(AbortHandle);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A way to the API server, and one that only a leader can write by.
fn connect(mut config: Config, fence: &Fence) -> Result<(Client, Client)> {
    config.read_timeout = Some(SILENCE);
    let set_up = || {
        let plain = Client::try_from(config.clone())?;
        let builder = ClientBuilder::try_from(config.clone())?;
        Ok::<_, kube::Error>((plain, builder.with_layer(fence).build()))
    };
    set_up().context("set up the way to the API server")
}

fn served(
    result: Result<std::io::Result<std::convert::Infallible>, tokio::task::JoinError>,
    what: &'static str,
) -> Result<()> {
    match result.with_context(|| format!("the server of {what} broke down"))? {
        Ok(never) => match never {},
        Err(error) => Err(error).with_context(|| format!("cannot serve {what}")),
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
