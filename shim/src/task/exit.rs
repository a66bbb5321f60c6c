//! The exit watcher: the one source of truth for the end of a process.
//!
//! It relies on the shim being the nearest subreaper: what an OCI runtime leaves behind becomes our
//! child, so its exit status is ours to collect and its pid cannot be reused before we do.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use super::life::{Exit, UNKNOWN_STATUS};
use super::readable::readable;

/// A process that we watch, by a descriptor that never names another one.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    descriptor: Arc<OwnedFd>,
}

impl Process {
    /// The process `pid`, which must be alive or not yet waited for.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let id = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other(format!("{pid} is no pid")))?;
        Ok(Self {
            pid,
            descriptor: Arc::new(pidfd_open(id, PidfdFlags::empty())?),
        })
    }

    /// Its pid, in the shim's PID namespace.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends `signal`; a process that has ended already is fine.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.descriptor, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => other.map_err(io::Error::from),
        }
    }

    /// Waits for the end, reaps, and says how it ended.
    pub(crate) async fn exited(&self) -> Exit {
        let ended = async { readable(self.descriptor.try_clone()?).await };
        match ended.await {
            Ok(()) => Exit::now(reap(self.pid, &self.descriptor)),
            Err(error) => {
                tracing::error!(pid = self.pid, %error, "a thread waits for a process");
                self.exited_on_a_thread().await
            }
        }
    }

    /// The same for a process that cannot be watched, at the cost of a thread.
    async fn exited_on_a_thread(&self) -> Exit {
        let (pid, descriptor) = (self.pid, self.descriptor.clone());
        let status = tokio::task::spawn_blocking(move || reap(pid, &descriptor)).await;
        Exit::now(status.unwrap_or(UNKNOWN_STATUS))
    }
}

/// Waits for the end of process `pid`, which `descriptor` names, and collects its status.
fn reap(pid: u32, descriptor: &OwnedFd) -> u32 {
    match waitid(WaitId::PidFd(descriptor.as_fd()), WaitIdOptions::EXITED) {
        Ok(Some(status)) => status_of(status.exit_status(), status.terminating_signal()),
        Ok(None) => UNKNOWN_STATUS,
        Err(error) => {
            tracing::warn!(pid, %error, "a process ended unseen");
            UNKNOWN_STATUS
        }
    }
}

/// The status as a shell would say it.
fn status_of(code: Option<i32>, signal: Option<i32>) -> u32 {
    let number = |value: i32| u32::try_from(value).unwrap_or(UNKNOWN_STATUS);
    match (code, signal) {
        (Some(code), _) => number(code),
        (None, Some(signal)) => vm_api::contract::exit_code::SIGNAL_BASE + number(signal),
        (None, None) => UNKNOWN_STATUS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn spawn(script: &str) -> u32 {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
            .id()
    }

    #[tokio::test]
    async fn codes_and_signals_are_told_apart() {
        assert_eq!(
            Process::open(spawn("exit 3"))
                .unwrap()
                .exited()
                .await
                .status,
            3
        );
        assert_eq!(
            Process::open(spawn("kill -9 $$"))
                .unwrap()
                .exited()
                .await
                .status,
            137
        );
    }

    #[tokio::test]
    async fn a_signal_reaches_the_process_and_a_late_one_is_fine() {
        let process = Process::open(spawn("exec sleep 60")).unwrap();
        process.signal(Signal::KILL).unwrap();
        assert_eq!(process.exited().await.status, 137);
        process.signal(Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn a_process_that_cannot_be_watched_holds_up_nobody() {
        let process = Process::open(spawn("sleep 0.5; exit 3")).unwrap();
        let mut exited = std::pin::pin!(process.exited_on_a_thread());
        let soon = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, &mut exited).await.is_err());
        assert_eq!(exited.await.status, 3);
    }

    #[tokio::test]
    async fn a_process_of_others_has_no_status() {
        let process = Process::open(spawn("exit 0")).unwrap();
        reap(process.pid, &process.descriptor);
        assert_eq!(process.exited().await.status, UNKNOWN_STATUS);
    }
}
