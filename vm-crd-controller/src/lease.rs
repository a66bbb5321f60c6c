//! Leader election: one replica works, the others stand by.
//!
//! Relies on the API server refusing a write that is based on an old version of the Lease. A leader
//! that falls silent is replaced only after its lease's duration has passed on the observer's own
//! clock, so clocks need not agree. A leader that cannot renew gives up before that, and its [`Fence`]
//! closes by itself even if the whole process stood still meanwhile.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tracing::{debug, info, warn};

use crate::fence::Fence;

/// A candidate for leadership.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    duration: Duration,
    fence: Fence,
    seen: Option<Seen>,
}

/// The Lease as it was last seen to change.
#[derive(Clone, Debug)]
struct Seen {
    lease: Lease,
    since: Instant,
}

/// What a candidate does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Create,
    Take,
    Renew,
    Wait,
}

impl Candidate {
    /// A candidate named `identity` for the Lease `namespace`/`name`, which others may take over
    /// when it was silent for `duration`; `fence` is open while it leads.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        identity: &str,
        duration: Duration,
        fence: Fence,
    ) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration,
            fence,
            seen: None,
        }
    }

    /// Returns once this candidate leads.
    pub async fn acquire(&mut self) {
        let mut told = false;
        loop {
            let bound = self.patience();
            let step = tokio::time::timeout(bound, self.advance()).await;
            let Ok(step) = step else {
                warn!(
                    lease = self.name,
                    "no answer about the lease within {bound:?}"
                );
                continue;
            };
            match step {
                Ok(true) => return info!(lease = self.name, "leading"),
                Ok(false) if !told => {
                    let leader = self.seen.as_ref().and_then(|seen| holder(&seen.lease));
                    info!(lease = self.name, leader, "standing by");
                    told = true;
                }
                Ok(false) => {}
                Err(error) if is_conflict(&error) => debug!("another candidate was quicker"),
                Err(error) => warn!(lease = self.name, %error, "cannot read or take the lease"),
            }
            tokio::time::sleep(self.pace()).await;
        }
    }

    /// Keeps renewing; returns when leadership is lost.
    pub async fn hold(&mut self) {
        self.renew().await;
        self.fence.close();
    }

    async fn renew(&mut self) {
        // Before anyone else may take the lease, even if its clock started with our last renewal.
        let limit = self.patience();
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.pace()).await;
            let left = limit.saturating_sub(renewed.elapsed());
            let begin = Instant::now();
            match tokio::time::timeout(left, self.advance()).await {
                Ok(Ok(true)) => renewed = begin,
                Ok(Ok(false)) => return warn!(lease = self.name, "another replica leads now"),
                Ok(Err(error)) => warn!(lease = self.name, %error, "cannot renew the lease"),
                Err(_) => warn!(lease = self.name, "renewing the lease takes too long"),
            }
            if renewed.elapsed() >= limit {
                return warn!(
                    lease = self.name,
                    "gave up the lease: it could not be renewed"
                );
            }
        }
    }

    /// Lets another replica lead at once.
    pub async fn release(&mut self) {
        self.fence.close();
        let Some(Seen { mut lease, .. }) = self.seen.take() else {
            return;
        };
        if holder(&lease) != Some(&self.identity) {
            return;
        }
        if let Some(spec) = lease.spec.as_mut() {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        match self
            .leases
            .replace(&self.name, &PostParams::default(), &lease)
            .await
        {
            Ok(_) => info!(lease = self.name, "released"),
            Err(error) => warn!(lease = self.name, %error, "cannot release the lease"),
        }
    }

    /// How long the lease is this candidate's at least, after a renewal.
    fn patience(&self) -> Duration {
        self.duration * 2 / 3
    }

    fn pace(&self) -> Duration {
        self.duration / 5
    }

    /// One step; true when this candidate leads after it.
    async fn advance(&mut self) -> kube::Result<bool> {
        let lease = self.leases.get_opt(&self.name).await?;
        self.observe(lease);
        let now = Instant::now();
        let step = decide(self.seen.as_ref(), &self.identity, now);
        let written = match step {
            Move::Wait => return Ok(false),
            Move::Create => {
                let lease = self.claim(None, step);
                self.leases.create(&PostParams::default(), &lease).await?
            }
            Move::Take | Move::Renew => {
                let lease = self.claim(self.seen.as_ref().map(|seen| &seen.lease), step);
                self.leases
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await?
            }
        };
        self.seen = Some(Seen {
            lease: written,
            since: now,
        });
        // Others count from a later moment, when they see what was written.
        self.fence.open_until(now + self.patience());
        Ok(true)
    }

    fn observe(&mut self, lease: Option<Lease>) {
        let Some(lease) = lease else {
            self.seen = None;
            return;
        };
        let same = self
            .seen
            .as_ref()
            .is_some_and(|seen| seen.lease.spec == lease.spec);
        let since = match &self.seen {
            Some(seen) if same => seen.since,
            _ => Instant::now(),
        };
        self.seen = Some(Seen { lease, since });
    }

    fn claim(&self, old: Option<&Lease>, step: Move) -> Lease {
        let now = MicroTime(Timestamp::now());
        let before = old.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let renewing = step == Move::Renew;
        Lease {
            metadata: match old {
                Some(lease) => lease.metadata.clone(),
                None => ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(
                    i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX),
                ),
                acquire_time: if renewing {
                    before.acquire_time
                } else {
                    Some(now.clone())
                },
                renew_time: Some(now),
                lease_transitions: Some(
                    before.lease_transitions.unwrap_or(0) + i32::from(step == Move::Take),
                ),
                ..LeaseSpec::default()
            }),
        }
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    (!holder.is_empty()).then_some(holder)
}

fn decide(seen: Option<&Seen>, identity: &str, now: Instant) -> Move {
    let Some(seen) = seen else {
        return Move::Create;
    };
    match holder(&seen.lease) {
        None => Move::Take,
        Some(holder) if holder == identity => Move::Renew,
        Some(_) => {
            let seconds = seen
                .lease
                .spec
                .as_ref()
                .and_then(|spec| spec.lease_duration_seconds);
            let duration = Duration::from_secs(u64::try_from(seconds.unwrap_or(0)).unwrap_or(0));
            if now.saturating_duration_since(seen.since) >= duration {
                Move::Take
            } else {
                Move::Wait
            }
        }
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>) -> Lease {
        Lease {
            metadata: ObjectMeta::default(),
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_it_is_free_or_its_holder_silent() {
        let start = Instant::now();
        let seen = |holder| {
            Some(Seen {
                lease: lease(holder),
                since: start,
            })
        };
        let table = [
            (None, 0, Move::Create),
            (seen(None), 0, Move::Take),
            (seen(Some("")), 0, Move::Take),
            (seen(Some("me")), 0, Move::Renew),
            (seen(Some("me")), 99, Move::Renew),
            (seen(Some("you")), 0, Move::Wait),
            (seen(Some("you")), 14, Move::Wait),
            (seen(Some("you")), 15, Move::Take),
        ];
        for (seen, seconds, expected) in table {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(
                decide(seen.as_ref(), "me", now),
                expected,
                "{seen:?} after {seconds} s"
            );
        }
    }
}
