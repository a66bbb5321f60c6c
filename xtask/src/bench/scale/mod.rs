//! `cargo xtask bench scale`: the controller beside ten thousand machines on simulated nodes.
//!
//! A control plane of its own on the loopback, without a node: the scheduler places pods on nodes that
//! kwok simulates, and the controller's release build does the rest. Machines are made, labelled,
//! stopped and deleted; what that costs is read from outside the controller: from the API server's
//! audit log, from the bytes on its connections, from `/proc`.

mod api;
mod audit;
mod controller;
mod load;
mod plane;
mod seen;
mod wire;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::report::{Promise, Report};
use crate::progress::Step;
use audit::Requests;
use controller::Controller;
use load::Load;
use plane::Plane;
use seen::Seen;

/// How many machines, and how they come.
#[derive(clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// How many machines `scale` makes
    #[arg(long, default_value_t = 10_000)]
    vms: usize,
    /// How many of them start, stop or go at the same time
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,
}

/// Pods on a node; kubelet's default.
const PODS_OF_A_NODE: usize = 110;

/// How long the controller asks for nothing, its lease aside, before it counts as done.
const QUIET: Duration = Duration::from_secs(6);

/// How long traffic at rest is watched: several renewals of the lease, and the bookmark that each
/// watch gets in a minute.
const REST: Duration = Duration::from_secs(60);

/// How long a machine may take on average before the run is given up.
const PATIENCE: Duration = Duration::from_secs(2);

const TIME: &str = "Scale: time";
const WRITES: &str = "Scale: requests of the controller for each machine";
const MEMORY: &str = "Scale: memory of the controller";
const TRAFFIC: &str = "Scale: traffic of the controller";

/// Measures all of it.
pub(super) fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let step = Step::begin("Starting a control plane with simulated nodes");
    let plane = Plane::start(args.vms.div_ceil(PODS_OF_A_NODE), PODS_OF_A_NODE)?;
    let controller = Controller::start(&plane)?;
    step.done();
    let mut run = Run {
        seen: Seen::watch(plane.api())?,
        load: Load::new(plane.api(), args.vms, args.at_once.into()),
        requests: Requests::of(plane.audit_log(), plane::CONTROLLER_USER),
        machines: args.vms as f64,
        patience: Duration::from_secs(120) + PATIENCE * u32::try_from(args.vms)?,
        plane,
        controller,
        report,
    };
    run.settle()?;
    let empty = run.controller.memory()?;
    run.add_memory("with no machine", empty.now);
    run.creation(empty.now)?;
    run.rest()?;
    run.labels()?;
    run.restart()?;
    run.stop()?;
    run.deletion(empty.now)
}

/// A run under way.
struct Run<'a> {
    plane: Plane,
    controller: Controller,
    seen: Seen,
    load: Load,
    requests: Requests,
    machines: f64,
    patience: Duration,
    report: &'a mut Report,
}

impl Run<'_> {
    fn creation(&mut self, empty: f64) -> Result<()> {
        let step = Step::begin(format!("Making {} machines", self.machines));
        let begin = Instant::now();
        let (seen, patience) = (&self.seen, self.patience);
        self.load
            .create(|| seen.count("Running"))
            .context("make machines")?;
        seen.wait_for("Running", self.load.number(), patience)?;
        let took = begin.elapsed();
        step.done();
        self.add_time("from the first creation until all run", took);
        self.report.add(
            TIME,
            "machines started",
            self.machines / took.as_secs_f64(),
            "1/s",
        );
        self.settle()?;
        let requests = self.requests.since_last()?;
        self.add_requests("create to Running", &requests, took);
        // The pod is what was asked for, and the finalizer follows when all is said.
        let besides = ["create pods", "patch virtualmachines"];
        self.add_writes(
            "create to Running, beside its pod",
            &requests,
            &besides,
            3.0,
        );
        let memory = self.controller.memory()?;
        self.add_memory("with all running", memory.now);
        self.add_memory("at most until then", memory.most);
        let thousand = (memory.now - empty) * 1000.0 / self.machines;
        self.add_memory("for 1,000 machines", thousand);
        self.report.promise(Promise::AtMost(25.0));
        Ok(())
    }

    /// Nothing happens, and nothing may be done.
    fn rest(&mut self) -> Result<()> {
        let step = Step::begin(format!("Watching {REST:?} of rest"));
        self.requests.since_last()?;
        let before = self.controller.bytes();
        std::thread::sleep(REST);
        let bytes = self.controller.bytes() - before;
        let requests = self.requests.since_last()?;
        step.done();
        let rate = |number: u64| number as f64 / REST.as_secs_f64();
        self.report
            .add(TRAFFIC, "at rest, both ways", rate(bytes), "B/s");
        self.report.add(
            TRAFFIC,
            "requests at rest, its lease",
            rate(requests.lease()),
            "1/s",
        );
        self.report.add(
            TRAFFIC,
            "requests at rest, any other",
            rate(requests.work()),
            "1/s",
        );
        self.report.promise(Promise::AtMost(0.1));
        // A twentieth of a second lies between two, and they take half of the time at most.
        self.report.add(
            TRAFFIC,
            "machines asked at rest, none of which can answer",
            rate(requests.asks()),
            "1/s",
        );
        self.report.promise(Promise::AtMost(20.0));
        Ok(())
    }

    /// A change of a machine that is none of its instance's.
    fn labels(&mut self) -> Result<()> {
        let step = Step::begin("Labelling all");
        let begin = Instant::now();
        let patch = json!({ "metadata": { "labels": { "example.com/changed": "yes" } } });
        self.load
            .patch(&patch, || Ok(usize::MAX))
            .context("label machines")?;
        let took = begin.elapsed();
        self.settle()?;
        step.done();
        self.add_time("labelling all", took);
        let requests = self.requests.since_last()?;
        self.add_writes("a label of the machine", &requests, &[], 0.0);
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        let step = Step::begin("Starting the controller anew");
        let begin = Instant::now();
        self.controller.restart(&self.plane)?;
        self.add_time(
            "from the controller's start until its stores are filled",
            begin.elapsed(),
        );
        let steady = self.controller.steady(self.patience)?;
        self.add_time(
            "from the controller's start until its steady state",
            steady.duration_since(begin),
        );
        step.done();
        self.settle()?;
        let requests = self.requests.since_last()?;
        self.add_writes("a start of the controller", &requests, &[], 0.0);
        let memory = self.controller.memory()?;
        self.add_memory("after its start", memory.now);
        self.add_memory("at most during its start", memory.most);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        let step = Step::begin("Stopping all");
        let begin = Instant::now();
        let (seen, patience) = (&self.seen, self.patience);
        let halt = json!({ "spec": { "runStrategy": "Halted" } });
        self.load
            .patch(&halt, || seen.count("Stopped"))
            .context("stop machines")?;
        seen.wait_for("Stopped", self.load.number(), patience)?;
        let took = begin.elapsed();
        step.done();
        self.add_time("from the first stop until all are stopped", took);
        self.settle()?;
        let requests = self.requests.since_last()?;
        self.add_requests("Running to Stopped", &requests, took);
        let besides = [
            "delete virtualmachineinstances",
            "delete pods",
            "patch virtualmachineinstances",
        ];
        let name = "Running to Stopped, beside deleting and releasing instance and pod";
        self.add_writes(name, &requests, &besides, 2.0);
        Ok(())
    }

    fn deletion(&mut self, empty: f64) -> Result<()> {
        let step = Step::begin("Deleting all");
        let begin = Instant::now();
        let (seen, patience, number) = (&self.seen, self.patience, self.load.number());
        self.load
            .delete(|| Ok(number - seen.all()?))
            .context("delete machines")?;
        seen.wait_for_none(patience)?;
        let took = begin.elapsed();
        step.done();
        self.add_time("from the first deletion until all are gone", took);
        self.settle()?;
        let requests = self.requests.since_last()?;
        self.add_requests("deletion", &requests, took);
        let left = self.plane.api().count("/api/v1/pods")?;
        ensure!(left == 0, "{left} pods outlive their machines");
        let memory = self.controller.memory()?;
        self.add_memory("after all are gone, more than at first", memory.now - empty);
        Ok(())
    }

    /// Waits until the controller asks for nothing any more.
    fn settle(&mut self) -> Result<()> {
        let end = Instant::now() + self.patience;
        let mut since = Instant::now();
        let mut before = self.requests.work_so_far()?;
        while since.elapsed() < QUIET {
            ensure!(Instant::now() < end, "the controller does not come to rest");
            std::thread::sleep(Duration::from_millis(500));
            let now = self.requests.work_so_far()?;
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
        self.controller.lives()
    }

    fn add_time(&mut self, name: &str, took: Duration) {
        self.report.add(TIME, name, took.as_secs_f64(), "s");
    }

    fn add_memory(&mut self, name: &str, mib: f64) {
        self.report.add(MEMORY, name, mib, "MiB");
    }

    fn add_requests(&mut self, phase: &str, requests: &Requests, took: Duration) {
        let rate = requests.work() as f64 / took.as_secs_f64();
        self.report
            .add(TRAFFIC, format!("{phase}: requests"), rate, "1/s");
        for (request, number) in requests.kinds() {
            let each = number as f64 / self.machines;
            self.report
                .add(WRITES, format!("{phase}: {request}"), each, "");
        }
    }

    fn add_writes(&mut self, name: &str, requests: &Requests, besides: &[&str], most: f64) {
        let each = requests.writes_beside(besides) as f64 / self.machines;
        self.report.add(WRITES, format!("{name}: writes"), each, "");
        self.report.promise(Promise::AtMost(most));
    }
}
