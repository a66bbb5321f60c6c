//! The running containerd, found as the process that listens on its socket.
//!
//! Neither systemd nor a unit's name is assumed: whoever answers is the daemon, and its command line
//! says where its configuration is.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;

use crate::in_root;
use crate::node::Node;

/// containerd's socket, as a path of the node.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

/// Where containerd looks for its configuration unless told otherwise.
const DEFAULT_CONFIG: &str = "/etc/containerd/config.toml";

/// A running containerd.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// Its process; the installer shares the node's PID namespace.
    pub(crate) pid: Pid,
    /// Its executable, as a path of the node.
    pub(crate) executable: PathBuf,
    /// Its configuration file, as a path of the node; it need not exist.
    pub(crate) config: PathBuf,
    /// 1 for containerd 1.6 and 1.7, 2 for 2.x.
    pub(crate) major: u32,
}

impl Daemon {
    /// The process behind the socket.
    pub(crate) fn pid_behind(node: &Node) -> Result<Pid> {
        let path = node.path(SOCKET)?;
        let stream = UnixStream::connect(&path).with_context(|| {
            format!("connect to containerd at {SOCKET}: is containerd running?")
        })?;
        let peer = getsockopt(&stream, PeerCredentials).context("ask who serves that socket")?;
        if peer.pid() == 0 {
            bail!("containerd is not in this PID namespace: the pod needs hostPID");
        }
        Ok(Pid::from_raw(peer.pid()))
    }

    /// Finds the daemon that serves the node's socket.
    ///
    /// # Errors
    /// Nobody serves it, or it is a containerd older than 1.6.
    pub(crate) fn find(node: &Node) -> Result<Self> {
        let pid = Self::pid_behind(node)?;
        let process = PathBuf::from(format!("/proc/{pid}"));
        let executable = fs::read_link(process.join("exe"))
            .with_context(|| format!("find the executable of containerd, process {pid}"))?;
        let arguments =
            fs::read(process.join("cmdline")).context("read containerd's command line")?;
        let arguments: Vec<_> = arguments
            .split(|&byte| byte == 0)
            .map(String::from_utf8_lossy)
            .collect();
        let config = config_argument(&arguments).unwrap_or_else(|| DEFAULT_CONFIG.into());
        let output = in_root::run(node.root(), &[executable.as_os_str(), "--version".as_ref()])?;
        let (major, minor) = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        if (major, minor) < (1, 6) {
            bail!("containerd {major}.{minor} is too old: 1.6 or newer is needed");
        }
        Ok(Self {
            pid,
            executable,
            config,
            major,
        })
    }

    /// Asks the daemon's own program whether the configuration as it now stands can be loaded.
    pub(crate) fn verify_config(&self, node: &Node) -> Result<()> {
        let command = [
            self.executable.as_os_str(),
            "--config".as_ref(),
            self.config.as_os_str(),
            "config".as_ref(),
            "dump".as_ref(),
        ];
        let output =
            in_root::run(node.root(), &command).context("containerd refuses its configuration")?;
        let dump = String::from_utf8_lossy(&output.stdout);
        if !dump.contains(&format!("runtimes.{}]", super::HANDLER)) {
            bail!("the runtime is missing from containerd's merged configuration");
        }
        Ok(())
    }
}

/// The value of `--config` or `-c` in a command line.
fn config_argument<S: AsRef<str>>(arguments: &[S]) -> Option<PathBuf> {
    let mut arguments = arguments.iter().map(AsRef::as_ref);
    while let Some(argument) = arguments.next() {
        match argument {
            "--config" | "-config" | "-c" => return arguments.next().map(PathBuf::from),
            _ => {
                let value = ["--config=", "-config=", "-c="]
                    .iter()
                    .find_map(|p| argument.strip_prefix(p));
                if let Some(value) = value {
                    return Some(Path::new(value).to_owned());
                }
            }
        }
    }
    None
}

/// Major and minor of `containerd <package> <version> <revision>`.
fn parse_version(line: &str) -> Result<(u32, u32)> {
    line.split_whitespace()
        .filter_map(|word| {
            let mut parts = word.trim_start_matches('v').split('.');
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        })
        .next()
        .with_context(|| format!("containerd's version is not in {:?}", line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_packagings_are_read() {
        let debian = "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1";
        assert_eq!(parse_version(debian).unwrap(), (1, 6));
        let upstream = "containerd github.com/containerd/containerd/v2 v2.4.2 abcdef";
        assert_eq!(parse_version(upstream).unwrap(), (2, 4));
        assert!(parse_version("containerd").is_err());
    }

    #[test]
    fn the_configuration_is_taken_from_the_command_line() {
        assert_eq!(config_argument(&["containerd"]), None);
        for line in [
            &["containerd", "-c", "/x"][..],
            &["containerd", "--config=/x"][..],
        ] {
            assert_eq!(config_argument(line).unwrap(), Path::new("/x"));
        }
    }
}
