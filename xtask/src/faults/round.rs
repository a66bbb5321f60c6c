//! One round: a machine, a fault, and what must hold then.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::holdings::Holdings;
use super::inflict::inflict;
use super::machine::{Machine, Sight};
use super::plan::{Fault, Phase, Plan, Workload};
use crate::cluster::{ClusterName, Node};

/// The longest that a machine may take to run, to run again, and to be gone, on busy cores.
const TO_RUN: Duration = Duration::from_secs(180);
const TO_GO: Duration = Duration::from_secs(120);

/// How often to look.
const LOOK: Duration = Duration::from_millis(200);

/// What came of a round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) plan: Plan,
    /// Whether there was anything to harm.
    pub(super) hit: bool,
    /// From the fault to the machine's running again, where it was to.
    pub(super) recovery: Option<Duration>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan {
            number,
            node,
            workload,
            phase,
            delay,
            fault,
        } = self.plan;
        let (node, delay) = (node.name(), delay.as_secs_f32());
        write!(
            f,
            "{number}: {node}, {workload:?}, {delay:.2} s into {phase:?}, {fault:?}"
        )?;
        match (self.hit, self.recovery) {
            (false, _) => write!(f, " found nothing to harm"),
            (true, Some(time)) => write!(f, ", back in {:.1} s", time.as_secs_f32()),
            (true, None) => Ok(()),
        }
    }
}

/// A node with a machine that looks on.
pub(super) struct Stage<'a> {
    cluster: &'a ClusterName,
    node: Node,
    neighbour: Machine<'a>,
    /// Which process it is.
    process: String,
    /// What the node holds between two rounds.
    between: Holdings,
}

impl<'a> Stage<'a> {
    pub(super) fn new(cluster: &'a ClusterName, node: Node) -> Result<Self> {
        let neighbour = Machine::neighbour(cluster, node)?;
        let process = runs(&neighbour, None)?;
        Ok(Self {
            cluster,
            node,
            neighbour,
            process,
            between: Holdings::of(cluster, node)?,
        })
    }

    /// Plays a round.
    ///
    /// # Errors
    /// When something is lost or left; then the node is not fit for another one.
    pub(super) fn play(&mut self, plan: Plan) -> Result<Outcome> {
        let machine = Machine::of_round(self.cluster, &plan)?;
        let mut before = None;
        if plan.phase != Phase::Creating {
            before = Some(runs(&machine, None)?);
        }
        if plan.phase == Phase::Deleting {
            machine.delete()?;
        }
        std::thread::sleep(plan.delay);
        let hit = inflict(self.cluster, &plan, &machine.uid)?;
        if plan.phase == Phase::Running && !hit {
            bail!("there was nothing to harm");
        }
        let begin = Instant::now();
        let mut recovery = None;
        if plan.phase != Phase::Deleting {
            if plan.fault != Fault::StopQemu {
                let ended = before.clone().filter(|_| hit && !plan.fault.is_survived());
                let now = runs(&machine, ended.as_deref()).context("after the fault")?;
                recovery = Some(begin.elapsed());
                if let Some(before) = before.filter(|_| plan.fault.is_survived()) {
                    // What the daemon does once it has looked around.
                    std::thread::sleep(LOOK * 10);
                    if before != now || machine.look()?.qemus != [before] {
                        bail!("the machine did not outlive it");
                    }
                }
            }
            machine.delete()?;
        }
        gone(&machine)?;
        self.look_on(&plan)?;
        self.between.settle(self.cluster, self.node)?;
        Ok(Outcome {
            plan,
            hit,
            recovery,
        })
    }

    /// The neighbour has nothing to do with what happens to others, but for the node's power.
    fn look_on(&mut self, plan: &Plan) -> Result<()> {
        let cut = plan.fault == Fault::PowerCut;
        let ended = cut.then_some(self.process.as_str());
        let now = runs(&self.neighbour, ended).context("the neighbour")?;
        if !cut && now != self.process {
            bail!("the neighbour did not outlive it");
        }
        self.process = now;
        Ok(())
    }
}

/// Waits until the machine runs, as one process which is not `not`; as which one it does.
pub(super) fn runs(machine: &Machine<'_>, not: Option<&str>) -> Result<String> {
    let deadline = Instant::now() + TO_RUN;
    loop {
        let sight = machine.look()?;
        one_writer(&sight)?;
        if let [qemu] = &sight.qemus[..]
            && Some(qemu.as_str()) != not
            && machine.is_ready()?
        {
            if machine.workload != Workload::Disk || sight.writers == 1 {
                return Ok(qemu.clone());
            }
            // That process may have been ending when it was looked at.
            let again = machine.look()?;
            if again.qemus == sight.qemus && again.writers != 1 {
                bail!(
                    "{} runs and does not have its disk: {again:?}",
                    machine.name
                );
            }
        }
        if Instant::now() > deadline {
            let pod = machine.pod()?.unwrap_or_default();
            bail!(
                "{} did not run as one QEMU within {} s: {sight:?} {:#}",
                machine.name,
                TO_RUN.as_secs(),
                pod["status"]
            );
        }
        std::thread::sleep(LOOK);
    }
}

/// Waits until the pod is gone; its processes are, then.
pub(super) fn gone(machine: &Machine<'_>) -> Result<()> {
    let deadline = Instant::now() + TO_GO;
    loop {
        let pod = machine.pod()?;
        let sight = machine.look()?;
        one_writer(&sight)?;
        let Some(pod) = pod else {
            if sight.processes > 0 {
                bail!("the pod is gone and its processes are not: {sight:?}");
            }
            return Ok(());
        };
        if Instant::now() > deadline {
            bail!(
                "{} was not gone within {} s: {:#}",
                machine.name,
                TO_GO.as_secs(),
                pod["status"]
            );
        }
        std::thread::sleep(LOOK);
    }
}

fn one_writer(Sight { writers, .. }: &Sight) -> Result<()> {
    if *writers > 1 {
        bail!("{writers} QEMUs have one disk open for writing");
    }
    Ok(())
}
