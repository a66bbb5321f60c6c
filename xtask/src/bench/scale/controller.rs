//! The controller's release build, as its image has it, and what can be seen of it from outside.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ureq::Agent;

use super::plane::{Plane, Process, free_port, tail};
use super::wire::Wire;
use crate::image::{self, programs};
use crate::progress;

/// How long it may take to come up or to go.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long it looks at nothing before it counts as steady.
const STEADY: Duration = Duration::from_secs(2);

/// The running controller.
pub(super) struct Controller {
    program: PathBuf,
    kubeconfig: PathBuf,
    log: PathBuf,
    wire: Wire,
    process: Process,
    server: String,
}

/// Memory in MiB.
pub(super) struct Memory {
    /// What it has now (proportional set size).
    pub(super) now: f64,
    /// The most it had since its start (resident set size).
    pub(super) most: f64,
}

impl Controller {
    /// Builds and starts it; it leads when this returns.
    pub(super) fn start(plane: &Plane) -> Result<Self> {
        let program = programs::controller()?;
        let wire = Wire::to(plane.address())?;
        let kubeconfig = plane.controller_kubeconfig(wire.address)?;
        let log = plane.log("controller");
        let (process, server) = begin(&program, &kubeconfig, &log)?;
        let mut controller = Self {
            program,
            kubeconfig,
            log,
            wire,
            process,
            server,
        };
        controller.wait_ready()?;
        Ok(controller)
    }

    /// Ends it as kubelet does, starts it anew and waits until its stores are filled.
    pub(super) fn restart(&mut self, plane: &Plane) -> Result<()> {
        kill(
            Pid::from_raw(self.process.pid().try_into()?),
            Signal::SIGTERM,
        )?;
        let ended = progress::wait(PATIENCE, || !self.process.lives());
        ensure!(ended, "the controller does not end");
        self.log = plane.log("controller-anew");
        (self.process, self.server) = begin(&self.program, &self.kubeconfig, &self.log)?;
        self.wait_ready()
    }

    /// When it looked at an object last, once it has nothing more to look at.
    pub(super) fn steady(&self, limit: Duration) -> Result<Instant> {
        let end = Instant::now() + limit;
        let mut last = Instant::now();
        let mut before = self.reconciliations()?;
        while before == 0.0 || last.elapsed() < STEADY {
            ensure!(
                Instant::now() < end,
                "the controller does not become steady"
            );
            std::thread::sleep(Duration::from_millis(50));
            let now = self.reconciliations()?;
            if now > before {
                (before, last) = (now, Instant::now());
            }
        }
        Ok(last)
    }

    /// An error if it has ended.
    pub(super) fn lives(&mut self) -> Result<()> {
        ensure!(
            self.process.lives(),
            "the controller ended:\n{}",
            tail(&self.log)
        );
        Ok(())
    }

    /// Bytes between it and the API server so far.
    pub(super) fn bytes(&self) -> u64 {
        self.wire.bytes()
    }

    /// Its memory.
    pub(super) fn memory(&self) -> Result<Memory> {
        let pid = self.process.pid();
        let mib = |file: &str, key: &str| -> Result<f64> {
            let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|line| line.split_whitespace().next());
            let kib = kib.with_context(|| format!("no {key} in {file}"))?;
            Ok(kib.parse::<f64>()? / 1024.0)
        };
        Ok(Memory {
            now: mib("smaps_rollup", "Pss:")?,
            most: mib("status", "VmHWM:")?,
        })
    }

    fn wait_ready(&mut self) -> Result<()> {
        let mut lives = true;
        let ready = progress::wait(PATIENCE, || {
            lives = self.process.lives();
            // A replica that stands by is ready too.
            let leads = || {
                self.metric("vm_crd_controller_leading ")
                    .is_ok_and(|it| it == 1.0)
            };
            !lives || (leads() && self.read("/readyz").is_ok())
        });
        if !ready || !lives {
            bail!("the controller does not become ready:\n{}", tail(&self.log));
        }
        Ok(())
    }

    fn reconciliations(&self) -> Result<f64> {
        self.metric("vm_crd_controller_reconciliations_total{")
    }

    /// The sum of the metrics that begin with `name`.
    fn metric(&self, name: &str) -> Result<f64> {
        let text = self.read("/metrics")?;
        let lines = text.lines().filter(|line| line.starts_with(name));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    fn read(&self, path: &str) -> Result<String> {
        let agent = Agent::new_with_defaults();
        let mut answer = agent.get(format!("{}{path}", self.server)).call()?;
        Ok(answer.body_mut().read_to_string()?)
    }
}

fn begin(program: &Path, kubeconfig: &Path, log: &Path) -> Result<(Process, String)> {
    let listen = format!("127.0.0.1:{}", free_port()?);
    let arguments = [
        format!("--listen={listen}"),
        "--lease-namespace=kubevirt".to_owned(),
        "--identity=scale".to_owned(),
    ];
    let kubeconfig = kubeconfig.display().to_string();
    let mut environment = vec![("KUBECONFIG", kubeconfig.as_str())];
    environment.extend(image::CONTROLLER_ENVIRONMENT);
    let process = Process::start_in(program, &arguments, &environment, log)?;
    Ok((process, format!("http://{listen}")))
}
