//! The product by Helm, as `runtimeclass/chart/README.md` says: installed, upgraded to another release
//! under running machines, which do not notice, and uninstalled, which is refused while they run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{eventually, get};
use crate::chart;
use crate::cluster::{self, ClusterName, Node, kubectl};
use crate::command;
use crate::image;
use crate::progress::Step;

/// The tag of the release that comes after.
const NEXT: &str = "next";

const NAMESPACE: &str = "--namespace=kubevirt";
const RELEASE: &str = "kubevirt";

/// Installs, upgrades and uninstalls with a machine on each node.
pub(super) fn check(cluster: &ClusterName, helm: &Path) -> Result<()> {
    let helm = Helm {
        cluster,
        program: helm.join("helm"),
    };
    cluster::load(cluster, &image::build_all()?)?;
    cluster::load(cluster, &image::build_release(NEXT)?)?;
    let step = Step::begin("Installing by helm");
    helm.run(&["install", "--create-namespace"], "latest")?;
    step.done();
    for node in Node::ALL {
        create(cluster, &old(node), node)?;
    }
    let before = running(cluster, old)?;

    let step = Step::begin("Upgrading by helm");
    helm.run(&["upgrade"], NEXT)?;
    step.done();
    not_touched(&before, &running(cluster, old)?)?;
    for node in Node::ALL {
        create(cluster, &new(node), node)?;
    }
    let after = running(cluster, new)?;
    for (before, after) in before.iter().zip(&after) {
        ensure!(
            before.shim != after.shim && before.qemu != after.qemu,
            "a machine that was made after the upgrade has the shim and QEMU from before: {after:?}"
        );
    }
    for node in Node::ALL {
        delete(cluster, &old(node))?;
    }
    for (node, machine) in Node::ALL.into_iter().zip(&before) {
        let left = on(
            cluster,
            node,
            &format!("test -e /proc/{} && echo left || true", machine.pid),
        )?;
        ensure!(
            left.is_empty(),
            "{} still has the QEMU {}",
            node.name(),
            machine.pid
        );
    }
    not_touched(&after, &running(cluster, new)?)?;

    refuses(&helm)?;
    not_touched(&after, &running(cluster, new)?)?;
    for node in Node::ALL {
        delete(cluster, &new(node))?;
    }
    uninstalls(&helm)
}

/// While machines run nothing is taken away, by whatever way.
fn refuses(helm: &Helm) -> Result<()> {
    let cluster = helm.cluster;
    let said = helm
        .uninstall()
        .err()
        .context("helm uninstalls under running machines")?;
    names_machines(cluster).with_context(|| format!("helm said: {said:#}"))?;
    ensure!(
        get(
            cluster,
            &["get", "runtimeclass", "kubevirt", "--output=json"]
        )
        .is_ok(),
        "helm refused and deleted all the same"
    );
    // The admission policy answers before anything is done.
    for (object, word) in [
        ("crd/virtualmachines.kubevirt.io", "machines"),
        ("namespace/kubevirt", "machines run"),
        ("runtimeclass/kubevirt", "machines run"),
        ("clusterrole/vm-crd-controller", "machines run"),
    ] {
        let delete = ["delete", object, "--dry-run=server"];
        let error = command::output(kubectl(cluster).args(delete));
        let error = error
            .err()
            .with_context(|| format!("{object} may go under machines"))?;
        ensure!(error.to_string().contains(word), "{object}: {error:#}");
    }
    let delete = [
        "delete",
        "deployment/vm-crd-controller",
        "--dry-run=server",
        NAMESPACE,
    ];
    let error = command::output(kubectl(cluster).args(delete)).err();
    let error = error
        .context("the controller may go under machines")?
        .to_string();
    ensure!(error.contains("machines run"), "{error}");
    Ok(())
}

/// The hook's pod names the machines that keep it from going on.
fn names_machines(cluster: &ClusterName) -> Result<()> {
    let selector = "--selector=batch.kubernetes.io/job-name=kubevirt-uninstall";
    let pods = get(
        cluster,
        &["get", "pods", selector, NAMESPACE, "--output=json"],
    )?;
    let said = pods["items"][0]["status"]["containerStatuses"][0]["state"].to_string();
    ensure!(
        said.contains("2 machines run") && said.contains("virt-launcher-new-"),
        "{said}"
    );
    Ok(())
}

/// Without machines it goes, and the types stay until they are deleted too.
fn uninstalls(helm: &Helm) -> Result<()> {
    let cluster = helm.cluster;
    eventually(|| {
        let map = get(
            cluster,
            &[
                "get",
                "configmap",
                "kubevirt-in-use",
                NAMESPACE,
                "--output=json",
            ],
        )?;
        Ok(map["data"] == json!({ "running": "false", "defined": "false" }))
    })
    .context("the controller says that nothing needs it")?;
    let step = Step::begin("Uninstalling by helm");
    helm.uninstall()?;
    step.done();
    for node in Node::ALL {
        let left = on(
            cluster,
            node,
            "ls -d /opt/kubevirt /etc/kubevirt 2>/dev/null || true",
        )?;
        ensure!(left.is_empty(), "{} keeps {left}", node.name());
    }
    let types = [
        "virtualmachines.kubevirt.io",
        "virtualmachineinstances.kubevirt.io",
    ];
    let get = ["get", "crd", "--output=name"];
    let kept = command::output(kubectl(cluster).args(get).args(types));
    kept.context("the types went with the release")?;
    let all = command::output(kubectl(cluster).args(get))?;
    let ours = all.lines().filter(|name| name.ends_with(".kubevirt.io"));
    command::run(kubectl(cluster).arg("delete").args(ours))?;
    command::run(kubectl(cluster).args(["delete", "namespace", "kubevirt"]))
}

/// Helm on a cluster, with directories of its own.
struct Helm<'a> {
    cluster: &'a ClusterName,
    program: std::path::PathBuf,
}

impl Helm<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", self.cluster.kubeconfig());
        for kind in ["CACHE", "CONFIG", "DATA"] {
            let own = self.cluster.dir().join("helm").join(kind.to_lowercase());
            command.env(format!("HELM_{kind}_HOME"), own);
        }
        command
    }

    /// Installs or upgrades to the release `tag` and waits until all of it works.
    fn run(&self, verb: &[&str], tag: &str) -> Result<()> {
        let emulation = !cluster::has_virtualization();
        let mut command = self.command();
        command.args(verb).arg(RELEASE).arg(chart::directory());
        command.args([NAMESPACE, "--wait", "--timeout=5m"]);
        for value in [
            format!("runtimeClass.emulation={emulation}"),
            format!("controller.image.tag={tag}"),
            format!("node.image.tag={tag}"),
            "monitoring.dashboard.install=true".to_owned(),
        ] {
            command.args(["--set", &value]);
        }
        command::run(&mut command)?;
        for workload in ["daemonset/kubevirt-node", "deployment/vm-crd-controller"] {
            let rollout = [NAMESPACE, "rollout", "status", workload, "--timeout=300s"];
            command::run(kubectl(self.cluster).args(rollout))?;
        }
        Ok(())
    }

    fn uninstall(&self) -> Result<()> {
        let uninstall = ["uninstall", RELEASE, NAMESPACE, "--wait", "--timeout=5m"];
        command::run(self.command().args(uninstall))
    }
}

fn old(node: Node) -> String {
    format!("old-on-{}", node.name())
}

fn new(node: Node) -> String {
    format!("new-on-{}", node.name())
}

/// What must stay as it is while a machine runs, and what must go on.
#[derive(Debug)]
struct Machine {
    /// UID of its pod.
    pod: String,
    restarts: u64,
    /// QEMU's pid on its node.
    pid: u64,
    /// Program of its shim and root of its QEMU, which tell their release.
    shim: String,
    qemu: String,
    /// The guest's own: one for each time it starts.
    boot: String,
    /// Seconds since then.
    uptime: f64,
}

fn create(cluster: &ClusterName, name: &str, node: Node) -> Result<()> {
    let machine = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": { "name": name },
        "spec": { "runStrategy": "Always", "template": { "spec": {
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "terminationGracePeriodSeconds": 5,
            "domain": {
                "memory": { "guest": "128Mi" },
                "devices": { "disks": [{ "name": "root", "disk": { "bus": "virtio" } }] },
            },
            "volumes": [{ "name": "root", "containerDisk": {
                "image": "kubevirt.local/guest/tiny:qcow2", "imagePullPolicy": "IfNotPresent",
            } }],
        } } },
    });
    cluster::apply(cluster, &machine.to_string())?;
    eventually(|| {
        let vm = get(cluster, &["get", "vm", name, "--output=json"])?;
        Ok(vm["status"]["printableStatus"] == "Running")
    })
    .with_context(|| format!("start {name}"))
}

fn delete(cluster: &ClusterName, name: &str) -> Result<()> {
    let delete = ["delete", "vm", name, "--timeout=120s"];
    command::run(kubectl(cluster).args(delete)).with_context(|| format!("delete {name}"))
}

/// The machines of that name on all nodes.
fn running(cluster: &ClusterName, name: fn(Node) -> String) -> Result<Vec<Machine>> {
    let look = |node| look(cluster, &name(node), node);
    Node::ALL.into_iter().map(look).collect()
}

fn look(cluster: &ClusterName, name: &str, node: Node) -> Result<Machine> {
    let selector = format!("--selector=vm.kubevirt.io/name={name}");
    let pods = get(cluster, &["get", "pods", &selector, "--output=json"])?;
    let [pod] = pods["items"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
    else {
        bail!("{name} has other pods than one: {pods}");
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let status = &pod["status"]["containerStatuses"][0];
    let pod_name = text(&pod["metadata"]["name"]);
    let (shim, pid) = processes(cluster, node, &pod_name)?;
    let release = |script: &str| {
        let said = on(cluster, node, script)?;
        ensure!(
            said.contains("releases/"),
            "{name} runs from no release, but {said:?}"
        );
        Ok(said.trim().to_owned())
    };
    let qemu = format!("grep -o 'releases/[^/ ]*/qemu' /proc/{pid}/mountinfo | head -n 1");
    let ask = "cat /proc/sys/kernel/random/boot_id /proc/uptime";
    let exec = ["exec", &pod_name, "--", "sh", "-c", ask];
    let mut answer = String::new();
    eventually(|| {
        // The guest's agent comes up after its kernel.
        let said = command::output(kubectl(cluster).args(exec));
        Ok(said.map(|said| answer = said).is_ok())
    })
    .with_context(|| format!("enter {name}"))?;
    let (boot, uptime) = answer
        .split_once('\n')
        .context("two lines of the guest's")?;
    Ok(Machine {
        pod: text(&pod["metadata"]["uid"]),
        restarts: status["restartCount"].as_u64().unwrap_or(u64::MAX),
        pid,
        shim: release(&format!("readlink /proc/{shim}/exe"))?,
        qemu: release(&qemu)?,
        boot: boot.to_owned(),
        uptime: uptime.split(' ').next().unwrap_or_default().parse()?,
    })
}

/// The processes of a pod's shim and its QEMU, as the installer of their node tells.
fn processes(cluster: &ClusterName, node: Node, pod: &str) -> Result<(u64, u64)> {
    let selector = "--selector=app.kubernetes.io/name=kubevirt-node";
    let field = format!(
        "--field-selector=spec.nodeName={},status.phase=Running",
        node.name()
    );
    let list = ["get", "pods", selector, &field, NAMESPACE, "--output=json"];
    let installers = get(cluster, &list)?;
    let installer = installers["items"][0]["metadata"]["name"].as_str();
    let installer = installer.with_context(|| format!("no installer on {}", node.name()))?;
    let ask = [
        "exec",
        NAMESPACE,
        installer,
        "--",
        "kubevirt-node",
        "status",
        "--output=json",
    ];
    let status = get(cluster, &ask)?;
    let machines = status["machines"].as_array().into_iter().flatten();
    let found = machines.into_iter().find(|machine| machine["pod"] == pod);
    let machine = found.with_context(|| format!("{pod} is not among {status}"))?;
    let (shim, qemu) = (machine["shim"].as_u64(), machine["qemu"]["pid"].as_u64());
    shim.zip(qemu)
        .with_context(|| format!("{pod} lacks a process: {machine}"))
}

fn not_touched(before: &[Machine], now: &[Machine]) -> Result<()> {
    for (before, now) in before.iter().zip(now) {
        let same = before.pod == now.pod
            && before.restarts == now.restarts
            && before.pid == now.pid
            && before.shim == now.shim
            && before.boot == now.boot;
        ensure!(
            same && now.uptime > before.uptime,
            "a machine was touched: before {before:?}, now {now:?}"
        );
    }
    Ok(())
}

fn on(cluster: &ClusterName, node: Node, script: &str) -> Result<String> {
    command::output(cluster::on_node(cluster, node)?.args(["sh", "-c", script]))
}
