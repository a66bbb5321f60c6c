//! What a killed server leaves of its inner shim: a note in each ordinary container's bundle says
//! which process that was, so that `delete` can end it and clean up after it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use containerd_shim::Flags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::inner::HOME;
use super::link::Link;
use super::program::{InnerError, Program};
use super::stray;
use crate::task::Daemon;

/// The note in a bundle.
const FILE: &str = "kubevirt-inner.json";

/// Which process is the inner shim of a container.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    pid: u32,
    /// When the process began, in ticks since boot: a pid alone may come to name another.
    begun: u64,
    address: String,
    /// Its program, which cleans up after it.
    program: PathBuf,
}

/// Writes into `bundle` that its container is run by the shim of `link`.
pub(super) fn note(bundle: &Path, link: &Link, program: &Path) -> Result<(), InnerError> {
    let path = bundle.join(FILE);
    let pid = link.process.pid();
    let note = Note {
        pid,
        begun: begun(pid).unwrap_or(0),
        address: link.address.clone(),
        program: program.to_owned(),
    };
    let draft = bundle.join(".kubevirt-inner.json");
    serde_json::to_vec(&note)
        .map_err(io::Error::from)
        .and_then(|json| fs::write(&draft, json))
        .and_then(|()| fs::rename(&draft, &path))
        .map_err(|source| InnerError::File { path, source })
}

/// Cleans up after the ordinary container of `bundle`, if it is one. With a living server there is
/// nothing to do: it was asked already.
pub(crate) fn clean_up(flags: &Flags, bundle: &Path, alive: bool) -> Result<(), InnerError> {
    if !alive {
        // The server may have been killed before it made its note.
        stray::end(&bundle.join(HOME));
    }
    let path = bundle.join(FILE);
    let note = fs::read(&path).and_then(|json| Ok(serde_json::from_slice::<Note>(&json)?));
    let note = match note {
        Ok(note) if !alive => note,
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(InnerError::File { path, source }),
    };
    kill(&note);
    remove_socket(&note.address);
    let daemon = Daemon {
        namespace: flags.namespace.clone(),
        address: flags.address.clone(),
        ttrpc_address: None,
        publish_binary: flags.publish_binary.clone(),
        debug: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    let runtime = runtime.map_err(|source| InnerError::Run {
        program: note.program.clone(),
        source,
    })?;
    runtime.block_on(Program::new(daemon, note.program).delete(&flags.id, bundle))
}

/// Removes the socket of an inner shim that was killed.
pub(super) fn remove_socket(address: &str) {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path, %error, "a socket is left behind");
    }
}

/// Ends the process of `note`, if it still is that one.
fn kill(note: &Note) {
    let Some(pid) = i32::try_from(note.pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    if begun(note.pid) == Some(note.begun) {
        // It may end by itself between the two calls.
        let _ = pidfd_send_signal(&process, Signal::KILL);
    }
}

/// When process `pid` began, in ticks since boot (field 22 of `/proc/<pid>/stat`).
fn begun(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, field 2, is in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_beginning() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = child.id();
        let begun = begun(pid).unwrap();
        let note = |begun| Note {
            pid,
            begun,
            address: String::new(),
            program: PathBuf::new(),
        };
        kill(&note(begun + 1));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(
            child.try_wait().unwrap().is_none(),
            "another process was killed"
        );
        kill(&note(begun));
        assert!(!child.wait().unwrap().success());
    }
}
