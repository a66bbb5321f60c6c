//! Keys and passwords that the guest's agent sets: when it first answers, and whenever a Secret changes.
//!
//! What was set once is not set again by itself: a password that its user changes in the guest stays.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cri_glue::credentials::{AgentCredentials, Wanted};
use cri_glue::launch::Worker;
use cri_glue::verbs::Credentials;
use qemu_driver::agent::{Agent, AgentError};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::time::sleep;
use vm_api::field::shown;

use super::agent::GuestAgent;
use crate::task::readable;

/// Time between two tries to set what could not be set.
const AGAIN: Duration = Duration::from_secs(30);

/// How long reading may take: who writes a pod by hand can mount anything in a Secret's place.
const READ_BOUND: Duration = Duration::from_secs(10);

/// Time between a change and the reading that follows, in which further changes join it.
const PAUSE: Duration = Duration::from_secs(2);

/// Time between two readings where changes cannot be seen.
const UNSEEN: Duration = Duration::from_secs(60);

/// How the credentials of a machine stand; clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing(Arc<Mutex<Option<Credentials>>>);

impl Standing {
    /// As they stand now; nothing for a machine without any.
    pub(super) fn get(&self) -> Option<Credentials> {
        let standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        standing.clone()
    }

    fn set(&self, standing: Credentials) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
    }
}

/// Sets `credentials` in the guest, now and later, until the task is ended.
pub(super) async fn keep(
    credentials: AgentCredentials,
    guest: Arc<GuestAgent>,
    standing: Standing,
) {
    let credentials = Arc::new(credentials);
    let worker = Worker::default();
    let mut set = Wanted::default();
    standing.set(Credentials::waiting());
    loop {
        guest.wait().await;
        let reading = credentials.clone();
        // Watched before they are read, so that no change is missed.
        let read = move || (watch(&reading), reading.read());
        let (changes, result) = match worker.run(READ_BOUND, read).await {
            Ok((changes, Ok(wanted))) => (changes, apply(&guest, &mut set, wanted).await),
            Ok((changes, Err(error))) => (changes, Err(error.to_string())),
            Err(_) => {
                let message = "the Secrets with access credentials were not read in time";
                (Err(io::ErrorKind::TimedOut.into()), Err(message.to_owned()))
            }
        };
        let failed = result.is_err();
        match result {
            Ok(()) => standing.set(Credentials::synchronized()),
            Err(message) => {
                tracing::warn!(message, "the guest has not got its access credentials");
                standing.set(Credentials::failed(message));
            }
        }
        tokio::select! {
            () = sleep(AGAIN), if failed => {}
            () = change(changes) => {}
        }
    }
}

/// Sets what of `wanted` is not `set`, all that can be; says what could not.
async fn apply(guest: &GuestAgent, set: &mut Wanted, wanted: Wanted) -> Result<(), String> {
    let Some(agent) = guest.now() else {
        return Err("the guest's agent has gone".to_owned());
    };
    let mut failures = Vec::new();
    // Whose keys are no longer wanted has none.
    let gone = set.keys.keys().filter(|it| !wanted.keys.contains_key(*it));
    let gone: Vec<_> = gone.map(|user| (user.clone(), Vec::new())).collect();
    for (user, keys) in wanted.keys.into_iter().chain(gone) {
        if set.keys.get(&user) == Some(&keys) {
            continue;
        }
        let done = agent.set_authorized_keys(&user, keys.clone()).await;
        note(&mut failures, "the SSH keys", &user, &done);
        if done.is_ok() {
            set.keys.insert(user, keys);
        }
    }
    // Else they would grow with every user that ever had one.
    let still = |user: &String, _: &mut String| wanted.passwords.contains_key(user);
    set.passwords.retain(still);
    for (user, password) in wanted.passwords {
        if set.passwords.get(&user) == Some(&password) {
            continue;
        }
        let done = set_password(agent, &user, &password).await;
        note(&mut failures, "the password", &user, &done);
        if done.is_ok() {
            set.passwords.insert(user, password);
        }
    }
    match failures.is_empty() {
        true => Ok(()),
        // As many as a message has room for.
        false => Err(shown(&failures.join("; "))),
    }
}

async fn set_password(agent: &Agent, user: &str, password: &str) -> Result<(), AgentError> {
    agent.set_password(user, password).await
}

fn note(failures: &mut Vec<String>, what: &str, user: &str, done: &Result<(), AgentError>) {
    if let Err(error) = done {
        let user = shown(user);
        failures.push(format!("{what} of {user} could not be set: {error}"));
    }
}

/// A descriptor that is readable once kubelet has replaced what is in a Secret.
fn watch(credentials: &AgentCredentials) -> io::Result<OwnedFd> {
    let changes = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    for directory in credentials.directories() {
        // By a rename of its `..data`.
        add_watch(&changes, directory, WatchFlags::MOVED_TO)?;
    }
    Ok(changes)
}

/// Waits for a change, and those that follow at once; for a while where changes cannot be seen.
async fn change(changes: io::Result<OwnedFd>) {
    let seen = match changes {
        Ok(changes) => readable(changes).await,
        Err(error) => Err(error),
    };
    match seen {
        Ok(()) => {
            tracing::info!("a Secret with access credentials has changed");
            sleep(PAUSE).await;
        }
        Err(error) => {
            tracing::warn!(%error, "changes of Secrets with access credentials are not seen");
            sleep(UNSEEN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_are_followed_with_pauses() {
        let begin = Instant::now();
        let (seen, mut changed) = io::pipe().unwrap();
        changed.write_all(b"x").unwrap();
        change(Ok(seen.into())).await;
        assert_eq!(begin.elapsed(), PAUSE);
        // What cannot be watched is read now and then.
        change(Err(io::ErrorKind::StorageFull.into())).await;
        assert_eq!(begin.elapsed(), PAUSE + UNSEEN);
    }
}
