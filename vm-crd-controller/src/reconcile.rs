//! What both reconcilers share: errors, retries with growing pauses, metrics.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use kube::runtime::controller::{Action, Error};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Config, applier};
use kube::{Resource, ResourceExt};
use thiserror::Error as ThisError;
use tokio::sync::watch;
use tracing::{Instrument, debug, info_span, warn};

use crate::metrics::{Kind, Metrics, Outcome};
use crate::refusal::knows_no_owner;
use crate::watch::Queue;

/// Pauses before an object whose reconciliation failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));

/// How soon an object is looked at again when the cluster knows a newer version of it than we saw.
pub const STALE: Duration = Duration::from_millis(500);

/// How soon an object is looked at again when the API server has just started and does not know the
/// owner's kind yet; it learns of kinds twice a minute.
const NO_OWNER: Duration = Duration::from_secs(2);

/// Why a reconciliation failed.
#[derive(Debug, ThisError)]
#[error("cannot {doing}: {}", said(source))]
pub struct ReconcileError {
    /// What was tried.
    pub doing: &'static str,
    /// What the API server or the way to it said.
    pub source: kube::Error,
}

/// The API server's own sentence, without the structure around it.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    }
}

/// Says what was being done when the API server refused.
pub trait Doing<T> {
    /// Adds what was being done to an error.
    fn doing(self, doing: &'static str) -> Result<T, ReconcileError>;
}

impl<T> Doing<T> for kube::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, ReconcileError> {
        self.map_err(|source| ReconcileError { doing, source })
    }
}

impl ReconcileError {
    /// The cluster knows a newer version of the object, or none: its change is on the way to us.
    fn is_stale(&self) -> bool {
        matches!(&self.source, kube::Error::Api(status) if matches!(status.code, 404 | 409))
    }

    /// How soon to look again at what is nobody's failure.
    fn passes_within(&self) -> Option<Duration> {
        if self.is_stale() {
            Some(STALE)
        } else {
            knows_no_owner(&self.source).then_some(NO_OWNER)
        }
    }
}

/// Reconciles one object; the result says when to look again.
pub trait Reconcile<K>: Send + Sync + 'static {
    /// Brings the cluster nearer to what `object` asks for.
    fn reconcile(
        self: Arc<Self>,
        object: Arc<K>,
    ) -> BoxFuture<'static, Result<Option<Duration>, ReconcileError>>;
}

/// Works on what `queue` names until it ends or the last of `more` turns true; then finishes what it
/// began. `more`: how many objects at the same time, where to count, when to stop.
pub fn run<K>(
    reconciler: Arc<dyn Reconcile<K>>,
    store: Store<K>,
    queue: Queue<K>,
    (concurrency, metrics, mut stop): (u16, Metrics, watch::Receiver<bool>),
) -> BoxFuture<'static, ()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    let kind: &'static str = Box::leak(K::kind(&()).into_owned().into_boxed_str());
    let failures = Arc::new(Failures::default());
    let context = Arc::new(Context {
        reconciler,
        failures: Arc::clone(&failures),
        metrics,
        kind,
    });
    let queue = queue.take_until(async move {
        // An error means that the sender is gone: that is the end as well.
        let _ = stop.wait_for(|stop| *stop).await;
    });
    let config = Config::default().concurrency(concurrency);
    applier(reconcile_one, error_policy, context, store, queue, config)
        .for_each(
            move |result: Result<_, Error<ReconcileError, Infallible>>| {
                match result {
                    // It is gone: nobody asks for it again.
                    Err(Error::ObjectNotFound(object)) => failures.forget(&object.to_string()),
                    Err(error @ (Error::QueueError(_) | Error::RunnerError(_))) => {
                        warn!(kind, %error, "the work queue broke");
                    }
                    Ok(_) | Err(Error::ReconcilerFailed(..)) => {}
                }
                futures::future::ready(())
            },
        )
        .boxed()
}

struct Context<K> {
    reconciler: Arc<dyn Reconcile<K>>,
    failures: Arc<Failures>,
    metrics: Metrics,
    kind: &'static str,
}

fn reconcile_one<K>(
    object: Arc<K>,
    context: Arc<Context<K>>,
) -> BoxFuture<'static, Result<Action, ReconcileError>>
where
    K: Resource<DynamicType = ()> + Send + Sync + 'static,
{
    let span = info_span!(
        "reconcile",
        kind = context.kind,
        namespace = object.namespace(),
        name = object.name_any()
    );
    let key = key(&*object);
    async move {
        let begin = Instant::now();
        let result = context.reconciler.clone().reconcile(object).await;
        let kind = context.kind;
        let seconds = begin.elapsed().as_secs_f64();
        context
            .metrics
            .durations
            .get_or_create(&Kind { kind })
            .observe(seconds);
        let soon = result
            .as_ref()
            .err()
            .and_then(ReconcileError::passes_within);
        let outcome = if result.is_ok() || soon.is_some() {
            "ok"
        } else {
            "error"
        };
        context
            .metrics
            .reconciliations
            .get_or_create(&Outcome {
                kind,
                result: outcome,
            })
            .inc();
        match (result, soon) {
            (Err(error), Some(soon)) => {
                debug!(%error, "seen too late or too early; looking again");
                Ok(Action::requeue(soon))
            }
            (Err(error), None) => {
                warn!(%error, kind, object = %key, "reconciliation failed; it is tried again");
                Err(error)
            }
            (Ok(again), _) => {
                context.failures.forget(&key);
                Ok(again.map_or_else(Action::await_change, Action::requeue))
            }
        }
    }
    .instrument(span)
    .boxed()
}

// The signature is the applier's.
#[allow(clippy::needless_pass_by_value)]
fn error_policy<K>(object: Arc<K>, _: &ReconcileError, context: Arc<Context<K>>) -> Action
where
    K: Resource<DynamicType = ()>,
{
    Action::requeue(context.failures.pause(&key(&*object)))
}

fn key<K: Resource<DynamicType = ()>>(object: &K) -> String {
    ObjectRef::from_obj(object).to_string()
}

/// How often reconciling failed, by object.
#[derive(Default)]
struct Failures(Mutex<HashMap<String, u32>>);

impl Failures {
    /// Counts a failure; the pause before the next attempt.
    fn pause(&self, key: &str) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.to_owned()).or_default();
        let pause = RETRY.0.saturating_mul(1 << (*count).min(16)).min(RETRY.1);
        *count = count.saturating_add(1);
        pause
    }

    fn forget(&self, key: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_known_by_the_same_key_when_it_is_gone() {
        let vm = vm_api::v1::VirtualMachine::new("tl", Default::default());
        let found = key(&vm);
        assert_eq!(ObjectRef::from_obj(&vm).erase().to_string(), found);
    }

    #[test]
    fn pauses_double_until_they_are_long_and_start_over_after_success() {
        let failures = Failures::default();
        let pauses: Vec<_> = (0..10).map(|_| failures.pause("a").as_millis()).collect();
        assert_eq!(
            pauses,
            [250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]
        );
        assert_eq!(failures.pause("b").as_millis(), 250);
        failures.forget("a");
        assert_eq!(failures.pause("a").as_millis(), 250);
    }
}
