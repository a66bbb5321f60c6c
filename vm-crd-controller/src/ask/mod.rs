//! What only a machine knows (whether it is paused, what its guest's agent tells), asked seldom.
//!
//! *Expected flow*: the reconciler says which machines run; each is asked soon after its start, with
//! growing pauses until its agent has answered, then every few minutes, and at once when something
//! hints at a change. An answer that says something new brings the instance back to the reconciler.
//! *Guarantees*: the reconciler never waits; few asks at a time and a second, however many machines
//! there are; a machine that does not answer is told apart from one that answers.
//! *Assumptions*: whoever asks bounds the time and the length of an answer.

mod schedule;
mod told;

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::future::BoxFuture;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tracing::{debug, warn};

use schedule::Schedule;
pub use told::{AccessCredentials, Agent, Interface, Os, State, Told};

/// Machines that are asked at the same time.
const AT_ONCE: usize = 8;

/// The pod of a machine that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachinePod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The machine container.
    pub container: String,
    /// Name of its instance.
    pub instance: String,
}

/// Why a machine did not answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// Its pod could not be reached, or refused.
    #[error("cannot ask the machine of pod {pod}: {why}")]
    NoAnswer {
        /// The pod.
        pod: String,
        /// What was said instead.
        why: String,
    },
    /// It answered something else than a status.
    #[error("what the machine of pod {pod} answered is no status: {why}")]
    Unreadable {
        /// The pod.
        pod: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The way to a machine: runs `vm:status -o json` in its pod.
pub trait AskMachine: Send + Sync + 'static {
    /// What the machine tells.
    fn status(&self, machine: MachinePod) -> BoxFuture<'static, Result<Told, AskError>>;
}

/// What machines told; a clone knows the same.
#[derive(Clone, Default)]
pub struct Answers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    machines: Mutex<Machines>,
    news: Notify,
}

#[derive(Default)]
struct Machines {
    schedule: Schedule,
    known: HashMap<String, Known>,
}

/// A machine that runs.
struct Known {
    pod: MachinePod,
    /// What hinted at a change when it was last asked.
    hint: String,
    told: Option<Arc<Told>>,
}

impl Answers {
    /// The machine of the instance `uid` runs in `pod`, for `seconds` so far: it is asked from now on,
    /// and at once whenever `hint` is another than before.
    pub fn runs(&self, uid: &str, pod: &MachinePod, seconds: u64, hint: &str) {
        let now = Instant::now();
        let mut machines = self.lock();
        let Machines { schedule, known } = &mut *machines;
        match known.get_mut(uid) {
            Some(known) if known.hint == hint => return,
            Some(known) => {
                hint.clone_into(&mut known.hint);
                schedule.hurry(uid, now);
            }
            None => {
                let told = None;
                let (pod, hint) = (pod.clone(), hint.to_owned());
                known.insert(uid.to_owned(), Known { pod, hint, told });
                schedule.add(uid, seconds, now);
            }
        }
        drop(machines);
        self.0.news.notify_one();
    }

    /// The machine of the instance `uid` runs no longer.
    pub fn forget(&self, uid: &str) {
        let mut machines = self.lock();
        if machines.known.remove(uid).is_some() {
            machines.schedule.remove(uid);
        }
    }

    /// What the machine of the instance `uid` told last.
    pub fn of(&self, uid: &str) -> Option<Arc<Told>> {
        self.lock().known.get(uid)?.told.clone()
    }

    /// Asks by `way` until dropped; `news` gets each machine that told something new.
    pub async fn ask(self, way: Arc<dyn AskMachine>, news: impl Fn(&MachinePod) + Send + Sync) {
        let mut asked = JoinSet::new();
        loop {
            let (next, wait) = self.next(asked.len());
            if let Some((uid, pod)) = next {
                let answer = way.status(pod);
                asked.spawn(async move { (uid, answer.await) });
                continue;
            }
            tokio::select! {
                () = self.0.news.notified() => {}
                () = sleep_until(wait) => {}
                Some(answer) = asked.join_next() => self.answered(answer, &news),
            }
        }
    }

    /// The machine that is to be asked now, or when to look again; `asked` are at it.
    fn next(&self, asked: usize) -> (Option<(String, MachinePod)>, Option<Instant>) {
        if asked >= AT_ONCE {
            return (None, None);
        }
        let mut machines = self.lock();
        match machines.schedule.next(Instant::now()) {
            Ok(uid) => {
                let pod = machines.known.get(&uid).map(|known| known.pod.clone());
                (pod.map(|pod| (uid, pod)), Some(Instant::now()))
            }
            Err(wait) => (None, wait),
        }
    }

    fn answered(
        &self,
        answer: Result<(String, Result<Told, AskError>), JoinError>,
        news: &(impl Fn(&MachinePod) + Send + Sync),
    ) {
        let (uid, answer) = match answer {
            Ok(answer) => answer,
            Err(error) => return warn!(%error, "asking a machine broke down"),
        };
        let mut machines = self.lock();
        let Machines { schedule, known } = &mut *machines;
        let Some(known) = known.get_mut(&uid) else {
            return;
        };
        let settled = matches!(&answer, Ok(told) if told.is_settled());
        schedule.asked(&uid, settled, Instant::now());
        match answer {
            Ok(told) if known.told.as_deref() != Some(&told) => {
                known.told = Some(Arc::new(told));
                let pod = known.pod.clone();
                drop(machines);
                news(&pod);
            }
            Ok(_) => {}
            Err(error) => debug!(%error, "a machine did not answer; it is asked again"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Machines> {
        self.0
            .machines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => pending().await,
    }
}
