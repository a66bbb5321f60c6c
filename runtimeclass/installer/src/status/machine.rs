//! A machine, as its shim's process and bundle show it.

use std::fmt;
use std::fs;
use std::path::Path;

use nix::unistd::Pid;
use serde::Serialize;
use serde_json::Value;

use crate::node::Node;

/// Where containerd keeps the bundles, by its namespace and the sandbox's id.
const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task";

/// QEMU's name as the kernel cuts it.
const QEMU: &str = "qemu-system-x86";

/// A pod with its machine.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Machine {
    /// Of the pod.
    namespace: Option<String>,
    pod: Option<String>,
    /// The shim's process.
    shim: i32,
    /// What the shim has in memory, in KiB.
    shim_kib: u64,
    /// QEMU, if it runs.
    qemu: Option<Qemu>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Qemu {
    pid: i32,
    /// What it has in memory, the guest's included, in KiB.
    kib: u64,
    /// `kvm` or `tcg`.
    accelerator: Option<String>,
}

impl Machine {
    /// Those of `shims`, ordered by pod.
    pub(super) fn all(node: &Node, shims: &[Pid]) -> Vec<Self> {
        let bundles = node.path(BUNDLES).ok();
        let mut machines: Vec<_> = shims
            .iter()
            .map(|shim| Self::of(Path::new("/proc"), bundles.as_deref(), shim.as_raw()))
            .collect();
        machines.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
        machines
    }

    fn of(proc: &Path, bundles: Option<&Path>, shim: i32) -> Self {
        let words = words(proc, shim);
        let value = |option: &str| value(&words, option);
        let config = bundles
            .zip(value("-namespace").zip(value("-id")))
            .map(|(bundles, (namespace, id))| bundles.join(namespace).join(id).join("config.json"))
            .and_then(|path| fs::read(path).ok())
            .and_then(|text| serde_json::from_slice::<Value>(&text).ok())
            .unwrap_or_default();
        let annotation = |name: &str| {
            let name = format!("io.kubernetes.cri.sandbox-{name}");
            config["annotations"][name].as_str().map(str::to_owned)
        };
        Self {
            namespace: annotation("namespace"),
            pod: annotation("name"),
            shim,
            shim_kib: number(proc, shim, "VmRSS:"),
            qemu: qemu(proc, shim),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "?".to_owned());
        let (namespace, pod) = (name(&self.namespace), name(&self.pod));
        write!(
            f,
            "{namespace}/{pod}: shim {} ({} MiB)",
            self.shim,
            self.shim_kib >> 10
        )?;
        match &self.qemu {
            Some(Qemu {
                pid,
                kib,
                accelerator,
            }) => {
                let accelerator = accelerator.as_deref().unwrap_or("?");
                write!(f, ", QEMU {pid} ({} MiB, {accelerator})", kib >> 10)
            }
            None => write!(f, ", no QEMU"),
        }
    }
}

/// The QEMU that is a child of this shim.
fn qemu(proc: &Path, shim: i32) -> Option<Qemu> {
    let pids = fs::read_dir(proc).ok()?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_qemu = |pid: &i32| {
        let name = fs::read_to_string(proc.join(pid.to_string()).join("comm"));
        name.is_ok_and(|name| name.trim() == QEMU)
            && number(proc, *pid, "PPid:") == u64::try_from(shim).unwrap_or(0)
    };
    let pid = { pids }.find(is_qemu)?;
    let accelerator = value(&words(proc, pid), "-accel");
    Some(Qemu {
        pid,
        kib: number(proc, pid, "VmRSS:"),
        accelerator: accelerator.and_then(|it| it.split(',').next().map(str::to_owned)),
    })
}

fn words(proc: &Path, pid: i32) -> Vec<String> {
    let line = fs::read(proc.join(pid.to_string()).join("cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0);
    words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// The word after `option`.
fn value(words: &[String], option: &str) -> Option<String> {
    let place = words.iter().position(|word| word == option)?;
    words.get(place + 1).cloned()
}

/// The number behind `key` in a process's status; 0 for one that is gone.
fn number(proc: &Path, pid: i32, key: &str) -> u64 {
    let status = fs::read_to_string(proc.join(pid.to_string()).join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(proc: &Path, pid: i32, name: &str, words: &[&str], status: &str) {
        let directory = proc.join(pid.to_string());
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("comm"), format!("{name}\n")).unwrap();
        fs::write(directory.join("cmdline"), words.join("\0")).unwrap();
        fs::write(directory.join("status"), status).unwrap();
    }

    #[test]
    fn a_shim_tells_its_pod_and_its_qemu() {
        let dir = tempfile::tempdir().unwrap();
        let (proc, bundles) = (dir.path().join("proc"), dir.path().join("bundles"));
        fs::create_dir(&proc).unwrap();
        fs::create_dir_all(bundles.join("k8s.io/abc")).unwrap();
        let config = r#"{"annotations": {
            "io.kubernetes.cri.sandbox-name": "vm", "io.kubernetes.cri.sandbox-namespace": "ns"}}"#;
        fs::write(bundles.join("k8s.io/abc/config.json"), config).unwrap();
        let shim = ["shim", "-namespace", "k8s.io", "-id", "abc"];
        process(&proc, 10, "containerd-shim", &shim, "VmRSS:\t 3072 kB\n");
        let words = ["qemu", "-accel", "kvm,x=y"];
        let other = ["qemu", "-accel", "tcg"];
        process(&proc, 11, QEMU, &other, "PPid:\t9\nVmRSS:\t1 kB\n");
        process(&proc, 12, QEMU, &words, "PPid:\t10\nVmRSS:\t65536 kB\n");
        let machine = Machine::of(&proc, Some(&bundles), 10);
        let said = "ns/vm: shim 10 (3 MiB), QEMU 12 (64 MiB, kvm)";
        assert_eq!(machine.to_string(), said);
        let machine = Machine::of(&proc, None, 99);
        assert_eq!(machine.to_string(), "?/?: shim 99 (0 MiB), no QEMU");
    }
}
