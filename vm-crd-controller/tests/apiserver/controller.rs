//! The controller's own program, run as its pod runs it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::PROGRESS_DELAY_MILLIS;
use crate::bench::{Bench, CONTROLLER_TOKEN};

/// A running controller; it is killed when dropped.
pub(crate) struct Controller {
    child: Child,
    log: PathBuf,
}

impl Controller {
    /// Starts one that is called `identity` in the Lease; `more` follows the usual arguments.
    pub(crate) fn start(bench: &Bench, identity: &str, more: &[&str]) -> Self {
        let log = bench.log_file(identity);
        let child = Command::new(env!("CARGO_BIN_EXE_vm-crd-controller"))
            .args([
                "--listen=127.0.0.1:0",
                "--log-format=text",
                "--identity",
                identity,
            ])
            .arg(format!("--progress-delay={PROGRESS_DELAY_MILLIS}"))
            .args(more)
            .env("KUBECONFIG", bench.kubeconfig(CONTROLLER_TOKEN))
            .env("POD_NAMESPACE", "kubevirt")
            .env(
                "RUST_LOG",
                "info,kube_runtime=warn,kube_client=error,vm_crd_controller=debug",
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("start the controller");
        Self { child, log }
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("signal the controller");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the controller") {
                return status;
            }
            assert!(
                begin.elapsed() < limit,
                "the controller did not end:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it as kubelet does; its log.
    pub(crate) fn stop(mut self) -> String {
        if self
            .child
            .try_wait()
            .expect("look at the controller")
            .is_none()
        {
            self.signal(Signal::SIGTERM);
            self.wait(Duration::from_secs(30));
        }
        self.log()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
