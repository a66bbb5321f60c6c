//! QEMU alone: the same program with the same arguments as a machine's, but for what ties that one to
//! its shim and its pod.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::NODE;
use super::pods::Kind;
use crate::cluster::{self, ClusterName};
use crate::command;

/// What the disks on the node begin with; their sets' numbers follow.
const DISK: &str = "/tmp/bench-disk-";

/// The root of QEMU's own tree.
const TREE: &str = "/opt/kubevirt/qemu";

/// What a root with devices has beside that tree.
const ROOT: &str = "/tmp/bench-root";

/// Prints the pid of the QEMU whose pod has the UID `$1`.
const PID: &str = r#"for pid in $(pidof qemu-system-x86_64); do
  grep -q "$1" /proc/$pid/cgroup && echo $pid
done
true"#;

/// How a QEMU is started alone.
pub(super) struct Raw<'a> {
    cluster: &'a ClusterName,
    kind: Kind,
    /// Opens the copies.
    disks: String,
    words: Vec<String>,
    has_tap: bool,
}

/// One that runs.
pub(super) struct Running {
    cluster: ClusterName,
    child: Child,
    console: Lines<BufReader<ChildStdout>>,
    keyboard: ChildStdin,
    /// From `exec` of QEMU to the guest's words.
    pub(super) start: Duration,
    /// As its node knows it.
    pub(super) pid: u32,
}

impl<'a> Raw<'a> {
    /// Takes the arguments and the disks of the machine whose pod has this UID. Its interfaces are on
    /// this tap of the node's, or on nothing.
    pub(super) fn like(
        cluster: &'a ClusterName,
        kind: Kind,
        uid: &str,
        tap: Option<&str>,
    ) -> Result<Self> {
        let on_node = |script: &str| {
            let mut node = cluster::on_node(cluster, NODE)?;
            command::output(node.args(["sh", "-c", script, "sh", uid]))
        };
        let pid = on_node(PID)?;
        let pid = pid.trim();
        let words = on_node(&format!("tr '\\0' '\\n' < /proc/{pid}/cmdline"))?;
        let words: Vec<_> = words.lines().collect();
        let files = files(&words)?;
        for file in &files {
            let File { set, pattern, .. } = file;
            on_node(&format!(
                "for fd in /proc/{pid}/fd/*; do case $(readlink $fd) in {pattern}) \
                 cp $fd {DISK}{set}; exit;; esac; done; exit 1"
            ))?;
        }
        Ok(Self {
            cluster,
            kind,
            disks: files.iter().map(File::opened).collect(),
            words: alone(words.into_iter(), tap)?,
            has_tap: tap.is_some(),
        })
    }

    fn script(&self) -> String {
        let mut script = self.disks.clone();
        script += &format!("rm -f {DISK}*.$$\necho $$ $EPOCHREALTIME\n");
        // For a tap, QEMU needs a device.
        script += &if self.has_tap {
            format!(
                "mkdir -p {ROOT}/dev; exec unshare -m sh -c '\
                 mount -t overlay -o lowerdir={ROOT}:{TREE} none /mnt && \
                 mount --rbind /dev /mnt/dev && exec chroot /mnt \"$@\"' sh"
            )
        } else {
            format!("exec chroot {TREE}")
        };
        for word in &self.words {
            script += &format!(" '{}'", word.replace('\'', "'\\''"));
        }
        script
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
        command.args(["bash", "-c", &self.script()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::inherit()).spawn()?;
        let keyboard = child.stdin.take().context("a pipe")?;
        let output = child.stdout.take().context("a pipe")?;
        let mut console = BufReader::new(output).lines();
        let first = console.next().context("QEMU's shell said nothing")??;
        let (pid, begin) = first.split_once(' ').context("no time")?;
        let begin = Duration::from_secs_f64(begin.parse()?);
        let mut running = Running {
            cluster: self.cluster.clone(),
            child,
            console,
            keyboard,
            start: Duration::ZERO,
            pid: pid.parse()?,
        };
        running.hear(|line| line.contains(self.kind.ready()).then_some(()))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        running.start = now.saturating_sub(begin);
        Ok(running)
    }
}

impl Running {
    /// Waits for a line of the guest's from which `found` takes something.
    pub(super) fn hear<T>(&mut self, found: impl Fn(&str) -> Option<T>) -> Result<T> {
        for line in &mut self.console {
            if let Some(it) = found(&line?) {
                return Ok(it);
            }
        }
        bail!("QEMU alone ended: {}", self.child.wait()?)
    }

    /// Types a line on the guest's console.
    pub(super) fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.keyboard, "{line}").context("QEMU alone does not listen")
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

/// A file that a machine has by a set of descriptors.
struct File {
    set: String,
    /// One for each access mode: reading and writing first, if it is written.
    descriptors: Vec<String>,
    is_written: bool,
    /// What its path looks like, as a shell's pattern.
    pattern: String,
}

impl File {
    /// Has the shell open a copy, of which it is the only writer.
    fn opened(&self) -> String {
        let file = format!("{DISK}{}", self.set);
        let mut script = String::new();
        let copy = if self.is_written {
            script += &format!("cp {file} {file}.$$\n");
            format!("{file}.$$")
        } else {
            file
        };
        for (index, descriptor) in self.descriptors.iter().enumerate() {
            let mode = if self.is_written && index == 0 {
                "<>"
            } else {
                "<"
            };
            script += &format!("exec {descriptor}{mode}{copy}\n");
        }
        script
    }
}

/// The files behind a machine's disks.
fn files(words: &[&str]) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for (option, value) in words.iter().zip(words.iter().skip(1)) {
        if *option == "-blockdev" {
            let disk: Value = serde_json::from_str(value)?;
            let name = disk["node-name"].as_str().unwrap_or_default();
            let name = name.trim_start_matches("disk-");
            for layer in [&disk, &disk["backing"]] {
                files.extend(file(name, &layer["file"], words));
            }
        }
    }
    Ok(files)
}

/// The file of one layer of the disk `name`. Only the image of a container disk is never written.
fn file(name: &str, node: &Value, words: &[&str]) -> Option<File> {
    let set = node["filename"].as_str()?.strip_prefix("/dev/fdset/")?;
    let is_written = node["read-only"] == false;
    let pattern = if is_written {
        format!("*/.kubevirt-*-{name}.*")
    } else {
        "*/disk/*".to_owned()
    };
    let of_set = |word: &&str| {
        let (descriptor, rest) = word.strip_prefix("fd=")?.split_once(",set=")?;
        let is_ours = rest.split(',').next() == Some(set);
        is_ours.then(|| descriptor.to_owned())
    };
    Some(File {
        set: set.to_owned(),
        descriptors: words.iter().filter_map(of_set).collect(),
        is_written,
        pattern,
    })
}

/// A machine's arguments, without its shim's channels and its pod's network.
fn alone<'a>(words: impl Iterator<Item = &'a str>, tap: Option<&str>) -> Result<Vec<String>> {
    let mut alone = Vec::new();
    let mut words = words.peekable();
    alone.extend(words.next().map(str::to_owned));
    while let Some(option) = words.next() {
        if option == "-S" {
            continue;
        }
        let value = words.next_if(|word| !word.starts_with('-'));
        let kept = match (option, value) {
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
                let vhost = &value["vhost"];
                Some(match tap {
                    Some(tap) => json!({
                        "type": "tap", "id": id, "ifname": tap, "script": "no", "downscript": "no",
                        "vhost": vhost,
                    })
                    .to_string(),
                    None => format!("hubport,id={id},hubid=0"),
                })
            }
            (_, value) => value.map(str::to_owned),
        };
        alone.push(option.to_owned());
        alone.extend(kept);
    }
    Ok(alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_disks_are_copies() {
        let disk = r#"{"driver":"qcow2","node-name":"disk-boot","read-only":false,
            "file":{"driver":"file","filename":"/dev/fdset/2","read-only":false},
            "backing":{"driver":"raw","read-only":true,
                "file":{"driver":"file","filename":"/dev/fdset/1","read-only":true}}}"#;
        let words = [
            "-add-fd",
            "fd=7,set=1",
            "-add-fd",
            "fd=8,set=2",
            "-add-fd",
            "fd=9,set=2",
            "-blockdev",
            disk,
        ];
        let files = files(&words).unwrap();
        let opened: String = files.iter().map(File::opened).collect();
        let expected = "cp /tmp/bench-disk-2 /tmp/bench-disk-2.$$\n\
                        exec 8<>/tmp/bench-disk-2.$$\nexec 9</tmp/bench-disk-2.$$\n\
                        exec 7</tmp/bench-disk-1\n";
        assert_eq!(opened, expected);
        let patterns: Vec<_> = files.iter().map(|file| &file.pattern[..]).collect();
        assert_eq!(patterns, ["*/.kubevirt-*-boot.*", "*/disk/*"]);
    }

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
            r#"{"fd":"6","id":"nic-n0","type":"tap","vhost":false}"#,
            "-add-fd",
            "fd=7,set=1",
            "-blockdev",
            r#"{"node-name":"root"}"#,
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
            "-add-fd",
            "fd=7,set=1",
            "-blockdev",
            r#"{"node-name":"root"}"#,
            "-device",
            r#"{"driver":"pvpanic"}"#,
        ];
        assert_eq!(alone(words.into_iter(), None).unwrap(), expected);
        let on_a_tap = alone(words.into_iter(), Some("bench")).unwrap();
        let expected = r#"{"downscript":"no","id":"nic-n0","ifname":"bench","script":"no","type":"tap","vhost":false}"#;
        assert!(on_a_tap.contains(&expected.to_owned()), "{on_a_tap:?}");
    }
}
