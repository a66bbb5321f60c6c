//! One process: its life, and what its client asks of it while it runs.

use std::sync::Arc;
use std::time::Duration;

use containerd_shim::protos::events::task::TaskExit;
use oci_spec::runtime;
use qemu_driver::exec::Size;
use tokio::sync::watch;
use tokio::time::sleep;
use vm_api::contract::exit_code::SIGNAL_BASE;

use super::client::Client;
use super::{Target, guest, verb};
use crate::task::{Exit, Life};

/// What argv of a verb begins with.
const VERB: &str = "vm:";

/// Variables that describe the container's image and name, which the guest has its own of.
const GUESTS_OWN: [&str; 2] = ["PATH", "HOSTNAME"];

/// Signals of Linux that end no process by themselves.
const HARMLESS: [u32; 4] = [17, 18, 23, 28];

const SIGHUP: u32 = 1;
pub(super) const SIGKILL: u32 = 9;

/// How long a process whose client has left may take to end by itself.
const HANG_UP: Duration = Duration::from_secs(5);

/// How long the output of a killed process is waited for.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// One process.
pub(in crate::machine) struct Process {
    /// Its life; its id is the exec id.
    pub(in crate::machine) life: Life,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) directory: String,
    /// Signals that were sent to it, in their order.
    signals: watch::Sender<Vec<u32>>,
    size: watch::Sender<Option<Size>>,
    /// Turns true when the client has no more input.
    input_closed: watch::Sender<bool>,
    /// Turns true when the client will read no more output.
    forgotten: watch::Sender<bool>,
}

impl Process {
    /// The process that `wanted` describes.
    pub(super) fn new(life: Life, args: Vec<String>, wanted: &runtime::Process) -> Self {
        let env = wanted.env().iter().flatten().filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let own = GUESTS_OWN.contains(&name);
            (!own).then(|| (name.to_owned(), value.to_owned()))
        });
        Self {
            life,
            args,
            env: env.collect(),
            directory: wanted.cwd().to_string_lossy().into_owned(),
            signals: watch::Sender::default(),
            size: watch::Sender::default(),
            input_closed: watch::Sender::default(),
            forgotten: watch::Sender::default(),
        }
    }

    /// Sends it a signal.
    pub(super) fn kill(&self, signal: u32) {
        self.signals.send_modify(|signals| signals.push(signal));
    }

    /// Its client has left: it is asked to end, and a while later ended.
    pub(super) fn hang_up(self: &Arc<Self>) {
        self.kill(SIGHUP);
        let process = self.clone();
        tokio::spawn(async move {
            sleep(HANG_UP).await;
            process.kill(SIGKILL);
        });
    }

    /// Its terminal has a new size.
    pub(super) fn resize(&self, size: Size) {
        self.size.send_replace(Some(size));
    }

    /// Its client has no more input.
    pub(in crate::machine) fn close_input(&self) {
        self.input_closed.send_replace(true);
    }

    /// Its client has deleted it.
    pub(super) fn forget(&self) {
        self.forgotten.send_replace(true);
    }

    pub(super) fn signals(&self) -> watch::Receiver<Vec<u32>> {
        self.signals.subscribe()
    }

    pub(super) fn size(&self) -> watch::Receiver<Option<Size>> {
        self.size.subscribe()
    }

    pub(super) fn input_closed(&self) -> watch::Receiver<bool> {
        self.input_closed.subscribe()
    }

    /// Waits until nobody wants its output any more: it was deleted, or killed some time ago.
    pub(super) async fn given_up(&self) {
        let mut forgotten = self.forgotten.subscribe();
        let mut signals = self.signals();
        let killed = async {
            drop(signals.wait_for(|signals| signals.contains(&SIGKILL)).await);
            sleep(LAST_WORDS).await;
        };
        tokio::select! {
            _ = forgotten.wait_for(|forgotten| *forgotten) => {}
            () = killed => {}
        }
    }

    /// Waits for a signal that ends a process which does not catch it; the exit status then.
    pub(super) async fn ended_by_signal(&self) -> u32 {
        let mut signals = self.signals();
        loop {
            let deadly = |signal: &&u32| !HARMLESS.contains(signal);
            let signal = signals.borrow_and_update().iter().find(deadly).copied();
            if let Some(signal) = signal {
                return SIGNAL_BASE + signal;
            }
            if signals.changed().await.is_err() {
                // The sender is `self`, which outlives this borrow.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// A process that begins to run.
pub(super) struct Run {
    pub(super) process: Arc<Process>,
    pub(super) target: Arc<Target>,
    /// Its number.
    pub(super) number: u64,
    /// Whether it waits for a guest that is on its way up.
    pub(super) patient: bool,
}

impl Run {
    /// Runs it, and tells containerd its end.
    pub(super) async fn run_to_its_end(self, mut client: Client) {
        let args = &self.process.args;
        let status = match args.first().and_then(|name| name.strip_prefix(VERB)) {
            Some(name) => verb::run(&self, name, &mut client).await,
            None => guest::run(&self, &mut client).await,
        };
        client.finish(&self.process).await;
        let exit = Exit::now(status);
        let (container, process) = (&self.target.member, &self.process);
        let id = process.life.id.clone();
        tracing::debug!(exec_id = id, status, "a process ended");
        container.pod.events.publish(&TaskExit {
            container_id: container.life.id.clone(),
            id,
            pid: process.life.pid,
            exit_status: status,
            exited_at: Some(exit.at.into()).into(),
            ..TaskExit::default()
        });
        process.life.exited(exit);
    }
}
