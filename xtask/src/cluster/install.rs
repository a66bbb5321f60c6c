//! `cluster install` and `uninstall`: the product onto the cluster and off again, as a user does it
//! with the same manifests and images. Only the images come by another way: a user pulls them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::kubectl::kubectl;
use super::load;
use super::names::ClusterName;
use crate::command;
use crate::image;
use crate::progress::Step;

const NAMESPACE: &str = "--namespace=kubevirt";
/// How long a rollout may take: the images are there, QEMU's tree is copied.
const PATIENCE: &str = "--timeout=300s";

/// Builds the images, loads them, applies the manifests and waits until all of it works.
pub(crate) fn install(cluster: &ClusterName) -> Result<()> {
    let archives = image::build_all()?;
    let changed = load_changed(cluster, &archives)?;
    let manifests = manifests();
    let step = Step::begin(format!("Installing {}", manifests.display()));
    // Types first take a moment to be known, so what uses them may be refused once.
    let apply = || {
        command::run(
            kubectl(cluster)
                .args(["apply", "--server-side", "-k"])
                .arg(&manifests),
        )
    };
    apply().or_else(|_| apply())?;
    if changed {
        // The tag says the same, the image does not.
        command::run(kubectl(cluster).args([
            NAMESPACE,
            "rollout",
            "restart",
            "daemonset,deployment",
        ]))?;
    }
    for workload in workloads(cluster)? {
        rollout(cluster, &workload)?;
    }
    step.done();
    Ok(())
}

/// Takes the product off the nodes and then out of the cluster.
///
/// # Errors
/// While there are machines: their objects could not be finished without the controller.
pub(crate) fn uninstall(cluster: &ClusterName) -> Result<()> {
    let machines = ["get", "vm,vmi", "--all-namespaces", "--output=name"];
    // An error means that the types are not there, and so no objects either.
    if let Ok(left) = command::output(kubectl(cluster).args(machines))
        && !left.is_empty()
    {
        bail!("delete these first:\n{left}");
    }
    let step = Step::begin("Uninstalling");
    let directory = repository().join("runtimeclass/uninstall");
    command::run(
        kubectl(cluster)
            .args(["apply", "--server-side", "--force-conflicts", "-k"])
            .arg(directory),
    )?;
    rollout(cluster, "daemonset/kubevirt-node")?;
    command::run(
        kubectl(cluster)
            .args(["delete", "--ignore-not-found", "-k"])
            .arg(manifests()),
    )?;
    forget_loaded(cluster)?;
    step.done();
    Ok(())
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// What a user of this machine would apply: emulation costs memory that KVM does not.
fn manifests() -> PathBuf {
    let directory = repository().join("runtimeclass");
    if has_virtualization() {
        directory
    } else {
        directory.join("overlays/emulation")
    }
}

/// Whether the CPU can run guests itself; that /dev/kvm exists does not say so.
pub(crate) fn has_virtualization() -> bool {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    says_virtualization(&cpu)
}

fn says_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| {
            line.split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

fn loaded(cluster: &ClusterName) -> PathBuf {
    cluster.dir().join("product.loaded")
}

/// Loads the archives unless these very ones are loaded; whether others were before.
fn load_changed(cluster: &ClusterName, archives: &[PathBuf]) -> Result<bool> {
    // The path of an archive changes with its content.
    let wanted: Vec<_> = archives
        .iter()
        .map(|archive| archive.display().to_string())
        .collect();
    let wanted = wanted.join("\n");
    let before = fs::read_to_string(loaded(cluster)).ok();
    if before.as_ref() == Some(&wanted) {
        return Ok(false);
    }
    load::load(cluster, archives)?;
    fs::write(loaded(cluster), wanted)?;
    Ok(before.is_some())
}

fn forget_loaded(cluster: &ClusterName) -> Result<()> {
    match fs::remove_file(loaded(cluster)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("forget which images are loaded")
        }
        _ => Ok(()),
    }
}

fn workloads(cluster: &ClusterName) -> Result<Vec<String>> {
    let list = ["get", "daemonsets,deployments", "--output=name"];
    let names = command::output(kubectl(cluster).arg(NAMESPACE).args(list))?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// Waits until `workload` runs as it should.
///
/// # Errors
/// With the state and the last words of its pods.
fn rollout(cluster: &ClusterName, workload: &str) -> Result<()> {
    command::run(kubectl(cluster).args([NAMESPACE, "rollout", "status", workload, PATIENCE]))
        .with_context(|| {
            let pods = command::output(kubectl(cluster).args([NAMESPACE, "get", "pods"]));
            let logs = kubectl(cluster)
                .args([NAMESPACE, "logs", "--tail=10", "--all-pods=true", workload])
                .stdin(Stdio::null())
                .output();
            let logs = logs.map(|done| String::from_utf8_lossy(&done.stdout).into_owned());
            format!(
                "{workload} does not come up\n{}\n{}",
                pods.unwrap_or_default(),
                logs.unwrap_or_default()
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtualization_is_a_flag_and_not_part_of_one() {
        assert!(says_virtualization("flags\t\t: fpu vmx sse"));
        assert!(says_virtualization("flags\t\t: fpu svm"));
        assert!(!says_virtualization(
            "flags\t\t: fpu svm_lock\nmodel name : vmx"
        ));
    }
}
