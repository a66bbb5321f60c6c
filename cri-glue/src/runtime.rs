//! The node's OCI runtime (`runc`, or another with its command line), which makes the jails.
//!
//! Every call is bounded in time, and its error is the runtime's own last message. Calls block;
//! who is asynchronous runs them on a blocking thread. Children are waited for one by one, so the
//! caller's process must not reap children that it did not start.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use oci_spec::runtime::LinuxResources;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::config::NodeConfig;
use crate::record::unmount_all;

/// The descriptor that the first of a container's descriptors becomes.
const FIRST_DESCRIPTOR: i32 = 3;

/// How long a call may take. runc needs some tens of milliseconds; a node under pressure, seconds.
/// kubelet gives up on the whole of CreateContainer after two minutes.
const TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });

/// The most bytes of the runtime's log that are looked at.
const MAX_LOG_BYTES: u64 = 64 << 10;

/// The node's OCI runtime, with the state of one containerd namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    path: PathBuf,
    state: PathBuf,
    systemd: bool,
}

/// A container that was created and not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedContainer {
    /// Its first process, in the PID namespace of the caller.
    pub pid: u32,
}

/// What a container's first process has as its standard streams and further descriptors.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// Standard output and error, both; `/dev/null` if absent.
    pub output: Option<OwnedFd>,
    /// Descriptors from 3 on.
    pub preserved: Vec<OwnedFd>,
}

/// Why the runtime did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum RuntimeError {
    #[error(
        "the OCI runtime {} cannot be run: {source}; install it, or set runtime.path in the \
         node's configuration", runtime.display()
    )]
    Run { runtime: PathBuf, source: io::Error },
    #[error("cannot write what the OCI runtime {} needs: {source}", runtime.display())]
    Write { runtime: PathBuf, source: io::Error },
    #[error("{} {verb} failed: {message}", runtime.display())]
    Failed {
        runtime: PathBuf,
        verb: &'static str,
        message: String,
    },
    #[error("cannot remove {}, which {} left: {source}", path.display(), runtime.display())]
    Remove {
        runtime: PathBuf,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} {verb} did not end within {} seconds", runtime.display(), TIMEOUT.as_secs())]
    TimedOut {
        runtime: PathBuf,
        verb: &'static str,
    },
    #[error("{} {verb} wrote no pid to {}: {source}", runtime.display(), path.display())]
    PidFile {
        runtime: PathBuf,
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl Runtime {
    /// The runtime of the node, for containers of the containerd namespace `namespace` whose
    /// control group is `cgroups_path`: the form of that path tells the driver.
    pub fn new(node: &NodeConfig, namespace: &str, cgroups_path: Option<&Path>) -> Self {
        Self {
            path: node.runtime.path.clone(),
            state: node.runtime.state.join("runc").join(namespace),
            systemd: cgroups_path.is_some_and(crate::cgroup::is_systemd_form),
        }
    }

    /// What the runtime says of itself, as JSON (runtime-spec's `features.md`); `None` for one that does
    /// not know the question, or answers something else.
    pub fn features(node: &NodeConfig) -> Option<Vec<u8>> {
        let mut command = Command::new(&node.runtime.path);
        command.arg("features").stdin(Stdio::null());
        let output = command.stderr(Stdio::null()).output().ok()?;
        let is_object = serde_json::from_slice::<serde_json::Map<_, _>>(&output.stdout).is_ok();
        (output.status.success() && is_object).then_some(output.stdout)
    }

    /// Creates the container `id` from `bundle`; its process waits to be started.
    pub fn create(
        &self,
        id: &str,
        bundle: &Path,
        descriptors: Descriptors,
    ) -> Result<CreatedContainer, RuntimeError> {
        let pid_file = bundle.join("pid");
        let (mut command, log) = self.command()?;
        command.args(["create", "--bundle"]).arg(bundle);
        self.run_with("create", command, descriptors, id, &pid_file, &log)
    }

    /// Lets `command`, which is `verb` without its last arguments, make a process with these
    /// descriptors.
    fn run_with(
        &self,
        verb: &'static str,
        mut command: Command,
        descriptors: Descriptors,
        id: &str,
        pid_file: &Path,
        log: &Log,
    ) -> Result<CreatedContainer, RuntimeError> {
        command.arg("--pid-file").arg(pid_file);
        command
            .arg("--preserve-fds")
            .arg(descriptors.preserved.len().to_string())
            .arg(id);
        if let Some(output) = descriptors.output {
            let twin = output
                .try_clone()
                .map_err(|source| self.unrunnable(source))?;
            command.stdout(output).stderr(twin);
        }
        let mappings = (FIRST_DESCRIPTOR..)
            .zip(descriptors.preserved)
            .map(|(child_fd, parent_fd)| FdMapping {
                parent_fd,
                child_fd,
            })
            .collect();
        command
            .fd_mappings(mappings)
            .map_err(|collision| self.unrunnable(io::Error::other(collision)))?;
        self.run(verb, command, log)?;
        let pid = fs::read_to_string(pid_file)
            .and_then(|pid| pid.trim().parse().map_err(io::Error::other))
            .map_err(|source| {
                let runtime = self.path.clone();
                RuntimeError::PidFile {
                    runtime,
                    verb,
                    path: pid_file.to_owned(),
                    source,
                }
            })?;
        Ok(CreatedContainer { pid })
    }

    /// Starts the process of the created container `id`.
    pub fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let (mut command, log) = self.command()?;
        command.args(["start", id]);
        self.run("start", command, &log)
    }

    /// Runs a further process, which the file `process` of `bundle` describes, in the container
    /// `id`.
    pub fn exec(
        &self,
        id: &str,
        bundle: &Path,
        process: &str,
        descriptors: Descriptors,
    ) -> Result<CreatedContainer, RuntimeError> {
        let pid_file = bundle.join(process).with_extension("pid");
        let (mut command, log) = self.command()?;
        command.args(["exec", "--detach", "--process"]);
        command.arg(bundle.join(process));
        self.run_with("exec", command, descriptors, id, &pid_file, &log)
    }

    /// Sets the resources of the container `id`, whose bundle is `bundle`.
    pub fn update(
        &self,
        id: &str,
        bundle: &Path,
        resources: &LinuxResources,
    ) -> Result<(), RuntimeError> {
        let path = bundle.join("resources.json");
        serde_json::to_vec(resources)
            .map_err(io::Error::from)
            .and_then(|json| fs::write(&path, json))
            .map_err(|source| self.unwritten(source))?;
        let (mut command, log) = self.command()?;
        command.args(["update", "--resources"]).arg(&path).arg(id);
        self.run("update", command, &log)
    }

    /// Ends the processes of the container `id` and removes it with its control groups. A
    /// container that does not exist is removed already.
    pub fn delete(&self, id: &str) -> Result<(), RuntimeError> {
        let state = self.state.join(id);
        if !state.exists() {
            return Ok(());
        }
        let (mut command, log) = self.command()?;
        command.args(["delete", "--force", id]);
        self.run("delete", command, &log)?;
        // One that was killed before it had written what it does leaves the directory, and a mount of
        // itself in there, and knows no such container.
        remove_with_mounts(&state).map_err(|source| RuntimeError::Remove {
            runtime: self.path.clone(),
            path: state,
            source,
        })
    }

    /// The runtime, to be told what to do, and where it says why it cannot.
    fn command(&self) -> Result<(Command, Log), RuntimeError> {
        let log = Log::new().map_err(|source| self.unwritten(source))?;
        let mut command = Command::new(&self.path);
        command.arg("--root").arg(&self.state);
        command.arg("--log").arg(log.path());
        command.args(["--log-format", "json"]);
        if self.systemd {
            command.arg("--systemd-cgroup");
        }
        // Containerd's own as a unit of systemd: a runtime that has it waits for the container to
        // say that it is ready.
        command.env_remove("NOTIFY_SOCKET");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok((command, log))
    }

    fn run(&self, verb: &'static str, mut command: Command, log: &Log) -> Result<(), RuntimeError> {
        let mut child = command.spawn().map_err(|source| self.unrunnable(source))?;
        // The command holds our copies of the container's descriptors.
        drop(command);
        let runtime = || self.path.clone();
        match wait(&mut child) {
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => {
                let message = log.last_error().unwrap_or_else(|| status.to_string());
                Err(RuntimeError::Failed {
                    runtime: runtime(),
                    verb,
                    message,
                })
            }
            Ok(None) => Err(RuntimeError::TimedOut {
                runtime: runtime(),
                verb,
            }),
            Err(source) => Err(self.unrunnable(source)),
        }
    }

    fn unwritten(&self, source: io::Error) -> RuntimeError {
        RuntimeError::Write {
            runtime: self.path.clone(),
            source,
        }
    }

    fn unrunnable(&self, source: io::Error) -> RuntimeError {
        RuntimeError::Run {
            runtime: self.path.clone(),
            source,
        }
    }
}

/// Removes a directory with what is mounted on its entries. One that is not there is removed already.
fn remove_with_mounts(directory: &Path) -> io::Result<()> {
    let removed = || {
        for entry in fs::read_dir(directory)? {
            unmount_all(&entry?.path())?;
        }
        fs::remove_dir_all(directory)
    };
    match removed() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// What a runtime says: a file in memory, so that it can also say that there is no space for files.
struct Log(File);

impl Log {
    fn new() -> io::Result<Self> {
        let file = memfd_create(c"runtime-log", MemfdFlags::CLOEXEC)?;
        Ok(Self(file.into()))
    }

    /// Its path for the runtime, which inherits no descriptor of it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// The last message of level error.
    fn last_error(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Line {
            level: String,
            msg: String,
        }
        let mut text = String::new();
        let log = (&self.0).take(MAX_LOG_BYTES).read_to_string(&mut text);
        log.ok()?;
        let lines = text
            .lines()
            .rev()
            .filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let mut errors = lines.filter(|line| matches!(line.level.as_str(), "error" | "fatal"));
        errors.next().map(|line| line.msg)
    }
}

/// Waits for `child` for at most [`TIMEOUT`]; then ends it and returns `None`.
fn wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = std::time::Instant::now() + TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout = rustix::time::Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            Ok(_) => return child.wait().map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A runtime that is a shell script.
    fn runtime(dir: &Path, script: &str) -> Runtime {
        let path = dir.join("fake-runtime");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Runtime {
            path,
            state: dir.join("state"),
            systemd: false,
        }
    }

    #[test]
    fn descriptors_are_contiguous_from_three() {
        let dir = tempfile::tempdir().unwrap();
        let script = "while [ $# -gt 1 ]; do [ $1 = --pid-file ] && echo 77 > $2; shift; done\n\
                      cat <&3; cat <&4; [ ! -e /proc/self/fd/5 ]";
        let runtime = runtime(dir.path(), script);
        let (mut output, input) = std::io::pipe().unwrap();
        let preserved = ["one", "two"].map(|text| {
            let path = dir.path().join(text);
            fs::write(&path, text).unwrap();
            OwnedFd::from(File::open(path).unwrap())
        });
        let descriptors = Descriptors {
            output: Some(input.into()),
            preserved: preserved.into(),
        };
        let created = runtime.create("c1", dir.path(), descriptors).unwrap();
        assert_eq!(created.pid, 77);
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert_eq!(text, "onetwo");
    }

    #[test]
    fn the_runtimes_own_words_are_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let script = "while [ $1 != --log ]; do shift; done\n\
            echo '{\"level\":\"warning\",\"msg\":\"w\"}' > $2\n\
            echo '{\"level\":\"error\",\"msg\":\"no such thing\"}' >> $2\nexit 1";
        let runtime = runtime(dir.path(), script);
        let error = runtime
            .create("c1", dir.path(), Descriptors::default())
            .unwrap_err();
        assert!(
            error.to_string().ends_with("create failed: no such thing"),
            "{error}"
        );
        runtime.delete("c1").unwrap();
        fs::create_dir_all(dir.path().join("state/c1")).unwrap();
        assert!(runtime.delete("c1").is_err());
    }

    #[test]
    fn what_a_runtime_forgot_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = runtime(dir.path(), "exit 0");
        let state = dir.path().join("state/c1");
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("runc.copy"), "").unwrap();
        runtime.delete("c1").unwrap();
        assert!(!state.exists());
    }

    #[test]
    fn a_runtime_that_hangs_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = runtime(dir.path(), "echo $$ > \"$2.pid\"; exec sleep 100");
        let error = runtime.start("c1").unwrap_err();
        assert!(
            matches!(error, RuntimeError::TimedOut { verb: "start", .. }),
            "{error}"
        );
        let pid = fs::read_to_string(runtime.state.with_extension("pid")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }

    #[test]
    fn a_missing_runtime_is_named() {
        let mut node = NodeConfig::default();
        node.runtime.path = "/nonexistent/runc".into();
        node.runtime.state = tempfile::tempdir().unwrap().path().join("state");
        let runtime = Runtime::new(&node, "k8s.io", None);
        let error = runtime.start("c1").unwrap_err().to_string();
        assert!(error.contains("/nonexistent/runc"), "{error}");
    }
}
