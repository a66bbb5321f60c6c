//! The controller's own program, run as its pod runs it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vm_crd_controller::args::Args;
use vm_crd_controller::run::run_until;

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
        let kubeconfig = bench.kubeconfig(CONTROLLER_TOKEN);
        Self::start_by(bench, identity, more, &kubeconfig, &[])
    }

    /// The same by a way of its own to the API server, with `environment` besides.
    pub(crate) fn start_by(
        bench: &Bench,
        identity: &str,
        more: &[&str],
        kubeconfig: &Path,
        environment: &[(&str, OsString)],
    ) -> Self {
        let log = bench.log_file(identity);
        let file = File::options().create(true).append(true).open(&log);
        let child = Command::new(env!("CARGO_BIN_EXE_vm-crd-controller"))
            .args([
                "--listen=127.0.0.1:0",
                "--api-listen=0.0.0.0:0",
                "--log-format=text",
                // No kubelet is here by which one could be.
                "--ask-machines=false",
                "--identity",
                identity,
            ])
            .arg(format!("--progress-delay={PROGRESS_DELAY_MILLIS}"))
            .args(more)
            .env("KUBECONFIG", kubeconfig)
            .env("POD_NAMESPACE", "kubevirt")
            .env(
                "RUST_LOG",
                "info,kube_runtime=warn,kube_client=error,vm_crd_controller=debug",
            )
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file.expect("a log"))
            .spawn()
            .expect("start the controller");
        Self { child, log }
    }

    /// The port at which it serves the API, once it does.
    pub(crate) async fn api_port(&self) -> u16 {
        let begin = Instant::now();
        loop {
            let log = self.log();
            let mut lines = log.lines().filter(|line| line.contains("serving the API"));
            let address = lines.next().and_then(|line| line.split("address=").nth(1));
            let port = address.and_then(|address| address.trim().rsplit(':').next()?.parse().ok());
            match port {
                Some(port) => return port,
                None if begin.elapsed() > Duration::from_secs(20) => {
                    panic!("the controller does not serve:\n{log}")
                }
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log")
    }

    /// Its PID, for as long as it is not waited for.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("signal the controller");
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        let status = self.child.try_wait().expect("wait for the controller");
        status.is_some()
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

/// A controller in the tests' own process, which asks machines that answer what cases say.
pub(crate) struct InProcess {
    stop: oneshot::Sender<()>,
    work: JoinHandle<anyhow::Result<()>>,
}

impl InProcess {
    /// Starts one.
    pub(crate) fn start(bench: &Bench, runtime: &Runtime) -> Self {
        let delay = format!("--progress-delay={PROGRESS_DELAY_MILLIS}");
        let args = Args::parse_from([
            "vm-crd-controller",
            "--listen=127.0.0.1:0",
            "--api-listen=127.0.0.1:0",
            "--identity=within",
            "--lease-namespace=kubevirt",
            &delay,
        ]);
        let (stop, stopped) = oneshot::channel();
        let machines = Arc::new(bench.machines.clone());
        let _entered = runtime.enter();
        let config = bench.config_of(CONTROLLER_TOKEN);
        let work = runtime.spawn(run_until(config, args, Some(machines), async {
            // An error means that nobody stops it: that is the end as well.
            let _ = stopped.await;
        }));
        Self { stop, work }
    }

    /// Ends it as kubelet does.
    pub(crate) fn stop(self, runtime: &Runtime) {
        let _ = self.stop.send(());
        let ended = runtime.block_on(self.work).expect("the controller's task");
        ended.expect("the controller ends well");
    }
}
