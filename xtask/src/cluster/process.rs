//! A process that is known again later: its PID and the time it began, so that a PID which the
//! kernel has given to somebody else is never taken for ours.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::progress;

/// A process of the host: PID and start time (clock ticks since boot, field 22 of proc(5)'s stat).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pid: i32,
    start: u64,
}

impl Identity {
    /// The caller, as the mounted /proc shows it.
    pub(crate) fn of_self() -> Result<Self> {
        let link = fs::read_link("/proc/self").context("read /proc/self")?;
        let pid = link.to_string_lossy().parse()?;
        let start = start_time(pid).context("read the supervisor's own start time")?;
        Ok(Self { pid, start })
    }

    /// What `file` says, if that process still lives.
    pub(crate) fn alive(file: &Path) -> Option<Self> {
        let identity: Self = fs::read_to_string(file).ok()?.parse().ok()?;
        (start_time(identity.pid) == Some(identity.start)).then_some(identity)
    }

    /// The PID.
    pub(crate) const fn pid(self) -> i32 {
        self.pid
    }

    /// Ends the process at once and waits until it is gone.
    pub(crate) fn kill(self) -> Result<()> {
        if start_time(self.pid) != Some(self.start) {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("kill {}", self.pid)),
        }
        // PID 1 of a namespace is gone only after everything else in it.
        let gone = || start_time(self.pid) != Some(self.start);
        if !progress::wait(Duration::from_secs(120), gone) {
            bail!("process {} does not end after SIGKILL", self.pid);
        }
        Ok(())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.start)
    }
}

impl FromStr for Identity {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (pid, start) = text.trim().split_once(' ').context("not `PID START`")?;
        Ok(Self {
            pid: pid.parse()?,
            start: start.parse()?,
        })
    }
}

fn start_time(pid: i32) -> Option<u64> {
    parse_start_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22; the second field is a name in parentheses that may itself hold blanks and parentheses.
/// A zombie counts as gone: nothing of it runs.
fn parse_start_time(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_an_odd_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 98765 1000 10";
        assert_eq!(parse_start_time(stat), Some(98765));
        assert_eq!(parse_start_time(&stat.replace(") S ", ") Z ")), None);
        assert_eq!(parse_start_time("nonsense"), None);
    }

    #[test]
    fn another_process_under_the_same_pid_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let own = Identity::of_self().unwrap();
        fs::write(&file, own.to_string()).unwrap();
        assert_eq!(Identity::alive(&file), Some(own));
        let other = Identity {
            start: own.start + 1,
            ..own
        };
        fs::write(&file, other.to_string()).unwrap();
        assert_eq!(Identity::alive(&file), None);
    }
}
