//! The programs beside QEMU. A guest whose directories or TPM answer no more hangs without a word,
//! so the end of one of them is the machine's end, with the reason told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cri_glue::launch::RunningHelper;
use qemu_driver::qmp::Qmp;
use rustix::process::Signal;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use vm_api::contract::exit_code::SIGNAL_BASE;

use crate::task::{Exit, Process};

/// How long QEMU may take to end after a program beside it that ended well: that one saw QEMU hang
/// up, which QEMU's process does before it gives back its disks and the guest's memory.
const QEMUS_OWN_END: Duration = Duration::from_secs(30);

/// The same after one that did not end well: it may have been ended together with QEMU.
const COMMON_END: Duration = Duration::from_secs(1);

/// Longest time for a program's last words once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a program may take to end after QEMU.
const THEIR_END: Duration = Duration::from_secs(2);

/// A program beside QEMU for want of which the machine was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// One sentence.
    pub(super) reason: String,
    /// Whether it was killed, as the kernel does for want of memory.
    pub(super) killed: bool,
}

/// The program for want of which the machine was ended, if it was.
#[derive(Clone, Debug, Default)]
struct Failure(Arc<Mutex<Option<Lost>>>);

impl Failure {
    fn get(&self) -> Option<Lost> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, lost: Lost) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(lost);
    }
}

/// The programs beside a QEMU.
#[derive(Debug, Default)]
pub(super) struct Watched {
    failure: Failure,
    helpers: Vec<(Arc<Process>, JoinHandle<()>)>,
}

impl Watched {
    /// Waits for their end, QEMU's having come: they have the guest's memory as long as they live.
    /// Returns the one for want of which the shim ended QEMU, if it did.
    pub(super) async fn ended(self) -> Option<Lost> {
        for (process, mut watcher) in self.helpers {
            if timeout(THEIR_END, &mut watcher).await.is_ok() {
                continue;
            }
            if let Err(error) = process.signal(Signal::KILL) {
                tracing::error!(%error, "a program beside QEMU cannot be ended");
            }
            drop(timeout(THEIR_END, watcher).await);
        }
        self.failure.get()
    }
}

/// Watches and reaps `helpers` from now on, and ends QEMU, the process `pid`, after any of them.
pub(super) fn watch(helpers: Vec<RunningHelper>, pid: u32, qmp: &Qmp) -> Watched {
    let mut watched = Watched::default();
    for helper in helpers {
        let (qmp, failure) = (qmp.clone(), watched.failure.clone());
        // Both are opened before anybody can have reaped them.
        match (Process::open(helper.pid), Process::open(pid)) {
            (Ok(process), Ok(qemu)) => {
                let process = Arc::new(process);
                let watcher = watch_one(helper, process.clone(), qemu, qmp, failure);
                watched.helpers.push((process, tokio::spawn(watcher)));
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(helper = helper.name, %error, "a program beside QEMU is not watched");
            }
        }
    }
    watched
}

async fn watch_one(
    mut helper: RunningHelper,
    process: Arc<Process>,
    qemu: Process,
    qmp: Qmp,
    failure: Failure,
) {
    let exit = process.exited().await;
    let patience = if exit.status == 0 {
        QEMUS_OWN_END
    } else {
        COMMON_END
    };
    let ends = timeout(patience, qmp.ended()).await.is_ok();
    let ending = qmp.ending();
    if ends || ending.panicked || ending.shutdown.is_some() {
        return;
    }
    let said = timeout(LAST_WORDS, helper.diagnostics.at_end()).await;
    let said = said.unwrap_or_else(|_| helper.diagnostics.tail());
    let killed = exit.status == SIGNAL_BASE + 9;
    let reason = sentence(&helper.name, exit, said.last().map(String::as_str));
    tracing::error!("{reason}");
    failure.set(Lost { reason, killed });
    if let Err(error) = qemu.signal(Signal::KILL) {
        tracing::error!(%error, "QEMU cannot be ended");
    }
}

fn sentence(name: &str, exit: Exit, said: Option<&str>) -> String {
    let how = match exit.status.checked_sub(SIGNAL_BASE) {
        Some(signal) if signal > 0 => format!("signal {signal}"),
        _ => format!("status {}", exit.status),
    };
    let words = said.map_or_else(String::new, |said| format!("; its last message: {said}"));
    format!("the machine was ended because {name}, which served it, ended with {how}{words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_names_program_and_end() {
        let of = |status, said| sentence("virtiofsd of data", Exit::now(status), said);
        assert!(
            of(137, None)
                .ends_with("because virtiofsd of data, which served it, ended with signal 9")
        );
        assert!(of(1, Some("boom")).ends_with("status 1; its last message: boom"));
    }
}
