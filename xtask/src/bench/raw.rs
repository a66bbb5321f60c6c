//! QEMU alone: the same program with the same arguments as a machine's, but for what ties that one to
//! its shim and its pod.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::NODE;
use super::pods::Kind;
use crate::cluster::{self, ClusterName};
use crate::command;
use crate::guest::{self, Guest};

/// The disk on the node, and the descriptor and set by which QEMU has it.
const DISK: &str = "/tmp/bench-disk";
const DESCRIPTOR: u8 = 9;
const SET: u32 = 99;

/// The root of QEMU's own tree.
const TREE: &str = "/opt/kubevirt/qemu";

/// How a QEMU is started alone.
pub(super) struct Raw<'a> {
    cluster: &'a ClusterName,
    script: String,
}

/// One that runs.
pub(super) struct Running {
    cluster: ClusterName,
    child: Child,
    /// From `exec` of QEMU to the guest's words.
    pub(super) start: Duration,
    /// As its node knows it.
    pub(super) pid: u32,
}

impl<'a> Raw<'a> {
    /// Takes the arguments of the machine whose pod has this UID, and the boot sector's disk.
    pub(super) fn like(cluster: &'a ClusterName, uid: &str) -> Result<Self> {
        let look = format!(
            "for pid in $(pidof qemu-system-x86_64); do \
             grep -q {uid} /proc/$pid/cgroup && tr '\\0' '\\n' < /proc/$pid/cmdline; done; true"
        );
        let mut node = cluster::on_node(cluster, NODE)?;
        let words = command::output(node.args(["sh", "-c", &look]))?;
        let words = alone(words.lines())?;
        let guest = Guest::BootSector;
        let disk = File::open(guest::build(guest, guest.default_format())?.disk)?;
        let mut node = cluster::on_node(cluster, NODE)?;
        let copy = node
            .args(["sh", "-c", &format!("cat > {DISK}")])
            .stdin(disk);
        anyhow::ensure!(copy.status()?.success(), "the disk cannot be copied");
        let mut script = format!("exec {DESCRIPTOR}<>{DISK}\n");
        script += &format!("echo $$ $EPOCHREALTIME\nexec chroot {TREE}");
        for word in &words {
            script += &format!(" '{}'", word.replace('\'', "'\\''"));
        }
        Ok(Self { cluster, script })
    }

    /// Starts so many at once; each with the moment of its guest's words. All of them run until the last
    /// one does.
    pub(super) fn run_many(&self, number: usize) -> Result<Vec<(Running, OffsetDateTime)>> {
        std::thread::scope(|scope| {
            let start = || self.run().map(|it| (it, OffsetDateTime::now_utc()));
            let running: Vec<_> = (0..number).map(|_| scope.spawn(start)).collect();
            running
                .into_iter()
                .map(|it| it.join().unwrap_or_else(|_| bail!("a starter panicked")))
                .collect()
        })
    }

    /// Starts one and waits for its guest.
    pub(super) fn run(&self) -> Result<Running> {
        let mut command = cluster::on_node(self.cluster, NODE)?;
        command.args(["bash", "-c", &self.script]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::inherit()).spawn()?;
        let output = child.stdout.take().context("a pipe")?;
        let mut lines = BufReader::new(output).lines();
        let first = lines.next().context("QEMU's shell said nothing")??;
        let (pid, begin) = first.split_once(' ').context("no time")?;
        let begin = Duration::from_secs_f64(begin.parse()?);
        for line in lines {
            if line?.contains(Kind::Machine.ready()) {
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
                return Ok(Running {
                    cluster: self.cluster.clone(),
                    child,
                    start: now.saturating_sub(begin),
                    pid: pid.parse()?,
                });
            }
        }
        bail!("QEMU alone ended: {}", child.wait()?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The child is not QEMU, which has a namespace of process ids around it.
        if let Ok(mut node) = cluster::on_node(&self.cluster, NODE) {
            let _ = command::run(node.args(["kill", "-KILL", &self.pid.to_string()]));
        }
        let _ = self.child.wait();
    }
}

/// A machine's arguments, without its shim's channels, its pod's network and its own disks, and with the
/// disk that the descriptor leads to.
fn alone<'a>(words: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
    let mut alone = Vec::new();
    let mut disk = None;
    let mut words = words.peekable();
    alone.extend(words.next().map(str::to_owned));
    while let Some(option) = words.next() {
        if option == "-S" {
            continue;
        }
        let value = words.next_if(|word| !word.starts_with('-'));
        let kept = match (option, value) {
            ("-add-fd" | "-blockdev", Some(_)) => continue,
            ("-chardev", Some(value)) => {
                let id = value.split(',').find(|part| part.starts_with("id="));
                let id = id.context("a chardev without id")?;
                let kind = if id == "id=serial0" {
                    "stdio,signal=off"
                } else {
                    "null"
                };
                Some(format!("{kind},{id}"))
            }
            ("-netdev", Some(value)) => {
                let value: Value = serde_json::from_str(value)?;
                let id = value["id"].as_str().context("a netdev without id")?;
                Some(format!("hubport,id={id},hubid=0"))
            }
            ("-device", Some(value)) => {
                let mut device: Value = serde_json::from_str(value)?;
                if device.get("drive").is_some() {
                    device["drive"] = "bench".into();
                    disk.get_or_insert(device);
                    continue;
                }
                Some(value.to_owned())
            }
            (_, value) => value.map(str::to_owned),
        };
        alone.push(option.to_owned());
        alone.extend(kept);
    }
    let file = json!({
        "driver": "raw", "node-name": "bench",
        "file": { "driver": "file", "filename": format!("/dev/fdset/{SET}") },
    });
    let disk = disk.context("the machine has no disk")?;
    for (option, value) in [
        ("-add-fd", format!("fd={DESCRIPTOR},set={SET}")),
        ("-blockdev", file.to_string()),
        ("-device", disk.to_string()),
    ] {
        alone.extend([option.to_owned(), value]);
    }
    Ok(alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_alone_has_neither_shim_nor_pod() {
        let words = [
            "/usr/bin/qemu-system-x86_64",
            "-nodefaults",
            "-S",
            "-m",
            "size=32M",
            "-chardev",
            "socket,id=qmp,fd=3",
            "-qmp",
            "chardev:qmp",
            "-chardev",
            "socket,id=serial0,fd=4",
            "-netdev",
            r#"{"fd":"6","id":"nic-n0","type":"tap"}"#,
            "-add-fd",
            "fd=7,set=1",
            "-blockdev",
            r#"{"node-name":"root"}"#,
            "-device",
            r#"{"driver":"virtio-blk-pci","drive":"root"}"#,
            "-device",
            r#"{"driver":"pvpanic"}"#,
        ];
        let expected = [
            "/usr/bin/qemu-system-x86_64",
            "-nodefaults",
            "-m",
            "size=32M",
            "-chardev",
            "null,id=qmp",
            "-qmp",
            "chardev:qmp",
            "-chardev",
            "stdio,signal=off,id=serial0",
            "-netdev",
            "hubport,id=nic-n0,hubid=0",
            "-device",
            r#"{"driver":"pvpanic"}"#,
            "-add-fd",
            "fd=9,set=99",
            "-blockdev",
            r#"{"driver":"raw","file":{"driver":"file","filename":"/dev/fdset/99"},"node-name":"bench"}"#,
            "-device",
            r#"{"drive":"bench","driver":"virtio-blk-pci"}"#,
        ];
        assert_eq!(alone(words.into_iter()).unwrap(), expected);
    }
}
