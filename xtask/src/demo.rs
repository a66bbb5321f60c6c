//! `cargo xtask demo`: the whole way once, as a newcomer would see it: a cluster, the product
//! installed as a user installs it, a VirtualMachine applied, and its guest's own words.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::{self, ClusterName, kubectl};
use crate::command;
use crate::guest::{self, Format, Guest};
use crate::image;
use crate::progress::Step;

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The cluster to use; it stays up
    #[arg(long, default_value = "kubevirt")]
    cluster: ClusterName,
}

/// The example, and its name as it stands there.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/vm.yaml");
const NAME: &str = "hello";

/// What the guest prints when all of it is up, and what the example's user data prints then.
const GUEST_READY: &str = "tiny guest ready";
const GUEST_SPEAKS: &str = "Hello from";

/// How long the machine may take; it takes seconds, unless the cores are busy.
const PATIENCE: Duration = Duration::from_secs(180);

/// How often to look.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) fn run(args: &Args) -> Result<()> {
    let begin = Instant::now();
    let cluster = &args.cluster;
    // Either of the two leaves a core idle while it downloads or links.
    let (up, programs) = std::thread::scope(|scope| {
        let programs = scope.spawn(image::build_programs);
        (cluster::up(cluster), programs.join())
    });
    up?;
    programs.unwrap_or_else(|_| bail!("building the programs was cut off"))?;
    let guest = guest::build(Guest::Tiny, Format::Qcow2)?;
    cluster::load(cluster, &[guest.archive])?;
    cluster::install(cluster)?;
    let ready = begin.elapsed();
    forget_last_run(cluster)?;
    let phases = launch(cluster)?;
    show(cluster, &phases)?;
    println!(
        "\nAll of it took {:.0} s, {:.0} s of them to set up.",
        begin.elapsed().as_secs_f32(),
        ready.as_secs_f32()
    );
    what_next(cluster);
    Ok(())
}

/// A machine of an earlier demo goes first: what is shown is a start.
fn forget_last_run(cluster: &ClusterName) -> Result<()> {
    let delete = ["delete", "--ignore-not-found", "--filename", EXAMPLE];
    command::run(kubectl(cluster).args(delete))
}

/// The moments of a start, in order.
const MOMENTS: [&str; 6] = [
    "pod created by the controller",
    "pod bound to a node by the scheduler",
    "machine created and running",
    "VirtualMachine shows Running",
    "guest is up",
    "guest has run the user data",
];

/// Applies the example and waits for each moment; returns when each came, counted from the apply.
fn launch(cluster: &ClusterName) -> Result<Vec<Duration>> {
    let step = Step::begin(format!("Starting the VirtualMachine of {}", shown(EXAMPLE)));
    step.total(MOMENTS.len() as u64);
    let begin = Instant::now();
    command::run(kubectl(cluster).args(["apply", "--server-side", "--filename", EXAMPLE]))?;
    let mut came = vec![None; MOMENTS.len()];
    while came.iter().any(Option::is_none) {
        for (moment, seen) in look(cluster)?.into_iter().enumerate() {
            if seen && came[moment].is_none() {
                came[moment] = Some(begin.elapsed());
                step.part(MOMENTS[moment]);
            }
        }
        if begin.elapsed() > PATIENCE {
            let missing = came.iter().position(Option::is_none).unwrap_or_default();
            let state = command::output(kubectl(cluster).args(["describe", "vm,vmi,pods"]))?;
            bail!(
                "not within {} s: {}\n{state}",
                PATIENCE.as_secs(),
                MOMENTS[missing]
            );
        }
        std::thread::sleep(LOOK);
    }
    step.done();
    Ok(came.into_iter().flatten().collect())
}

/// Which of the moments have come.
fn look(cluster: &ClusterName) -> Result<[bool; MOMENTS.len()]> {
    let get = ["get", "vm,pods", "--output=json"];
    let list: Value = serde_json::from_str(&command::output(kubectl(cluster).args(get))?)?;
    let items = list["items"].as_array().context("kubectl lists objects")?;
    let of_kind = |kind: &str| {
        items
            .iter()
            .find(|item| item["kind"] == kind && is_ours(item))
    };
    let pod = of_kind("Pod");
    let running = pod.is_some_and(|pod| pod["status"]["phase"] == "Running");
    let log = match pod.and_then(|pod| pod["metadata"]["name"].as_str()) {
        Some(name) if running => command::output(kubectl(cluster).args(["logs", name]))?,
        _ => String::new(),
    };
    Ok([
        pod.is_some(),
        pod.is_some_and(|pod| pod["spec"]["nodeName"].is_string()),
        running,
        of_kind("VirtualMachine").is_some_and(|vm| vm["status"]["printableStatus"] == "Running"),
        log.contains(GUEST_READY),
        log.contains(GUEST_SPEAKS),
    ])
}

/// The example's VirtualMachine, or its pod.
fn is_ours(object: &Value) -> bool {
    object["metadata"]["name"] == NAME || object["metadata"]["labels"]["app"] == NAME
}

/// Shows what a user would look at, each under the command that prints it.
fn show(cluster: &ClusterName, phases: &[Duration]) -> Result<()> {
    let print = |arguments: &[&str]| -> Result<()> {
        println!("\n$ kubectl {}", arguments.join(" "));
        print!("{}", command::output(kubectl(cluster).args(arguments))?);
        Ok(())
    };
    print(&["get", "vm,vmi,pods", "-o", "wide"])?;
    let selector = format!("vm.kubevirt.io/name={NAME}");
    print(&["logs", "-l", &selector, "--tail=12"])?;
    println!("\n   since apply   step     what");
    let mut before = Duration::ZERO;
    for (moment, at) in MOMENTS.iter().zip(phases) {
        let step = at.saturating_sub(before);
        println!(
            "   {:>9.2} s {:>6.2} s   {moment}",
            at.as_secs_f32(),
            step.as_secs_f32()
        );
        before = before.max(*at);
    }
    Ok(())
}

fn what_next(cluster: &ClusterName) {
    println!(
        "\nThe cluster stays up. What to type next:\n\
         \n  eval \"$(cargo xtask cluster env --name {cluster})\"    # kubectl for this cluster\n\
         \n  kubectl logs -f -l vm.kubevirt.io/name={NAME}       # the guest's console\
         \n  kubectl patch vm {NAME} --type=merge -p '{{\"spec\":{{\"runStrategy\":\"Halted\"}}}}'   # stop\
         \n  kubectl patch vm {NAME} --type=merge -p '{{\"spec\":{{\"runStrategy\":\"Always\"}}}}'   # start\
         \n  kubectl delete vm {NAME}                            # delete\
         \n  cargo xtask cluster down --name {cluster}           # take the cluster down"
    );
}

fn shown(path: &str) -> String {
    let name = Path::new(path).file_name().unwrap_or_default();
    format!("examples/{}", name.to_string_lossy())
}
