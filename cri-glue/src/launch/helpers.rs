//! Starting the programs beside QEMU, which waits for them.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::LaunchError;
use crate::diagnostics::Diagnostics;
use crate::helper::Helper;
use crate::jail::helper_file;
use crate::runtime::{Descriptors, Runtime};

/// Longest time for the last words of a helper that has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A program beside QEMU.
#[derive(Debug)]
pub struct RunningHelper {
    /// What it is, for messages: `virtiofsd of data`.
    pub name: String,
    /// Its pid, in the caller's PID namespace: a child of the nearest subreaper.
    pub pid: u32,
    /// What it says on its standard output and error.
    pub diagnostics: Diagnostics,
}

/// Starts `helpers`, all at the same time, in the container with this id and jail; adds to `started`
/// each that there is a process of.
pub(super) async fn start(
    runtime: &Runtime,
    (id, jail): (String, PathBuf),
    helpers: Vec<Helper>,
    started: &mut Vec<RunningHelper>,
) -> Result<(), LaunchError> {
    let mut prepared = Vec::new();
    for helper in helpers {
        let (output, helpers_output) = io::pipe().map_err(LaunchError::Pipe)?;
        let diagnostics = Diagnostics::read(&helper.name, output.into());
        let diagnostics = diagnostics.map_err(LaunchError::Pipe)?;
        prepared.push((helper, helpers_output, diagnostics));
    }
    // From here on, all of them are waited for.
    let mut starting = Vec::new();
    for (index, (helper, helpers_output, diagnostics)) in prepared.into_iter().enumerate() {
        let descriptors = Descriptors {
            output: Some(helpers_output.into()),
            preserved: helper.descriptors,
        };
        let (runtime, id, jail) = (runtime.clone(), id.clone(), jail.clone());
        let exec = move || runtime.exec(&id, &jail, &helper_file(index), descriptors);
        starting.push((helper.name, diagnostics, spawn_blocking(exec)));
    }
    let mut result = Ok(());
    for (name, diagnostics, exec) in starting {
        match exec.await.map_err(LaunchError::from) {
            Ok(Ok(process)) => started.push(RunningHelper {
                name,
                pid: process.pid,
                diagnostics,
            }),
            Ok(Err(error)) => result = Err(error.into()),
            Err(error) => result = Err(error),
        }
    }
    result
}

/// The first helper that has failed, as an error. One that ended because QEMU hung up has not.
pub(super) async fn failed(helpers: &mut [RunningHelper]) -> Option<LaunchError> {
    let ended = helpers.iter_mut().find(|helper| has_failed(helper.pid))?;
    let said = timeout(LAST_WORDS, ended.diagnostics.at_end()).await;
    let mut said = said.unwrap_or_else(|_| ended.diagnostics.tail());
    if said.is_empty() {
        said.push("it ended without a word".to_owned());
    }
    let name = ended.name.clone();
    Some(LaunchError::Helper { name, said })
}

/// Whether the child `pid` has ended, and not well. It is not waited for: others do that.
pub(super) fn has_failed(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let ended = waitid(WaitId::Pid(pid), look).ok().flatten();
    ended.is_some_and(|status| status.exit_status() != Some(0))
}
