//! Running a program of the node, or one of the QEMU tree, as it would see its own root directory.
//!
//! A process of its own changes root and becomes the program, so that the installer itself never
//! does.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Output};

/// Replaces this process by `command` with `root` as its root directory.
pub(crate) fn exec(root: &Path, command: &[OsString]) -> ExitCode {
    let entered = nix::unistd::chroot(root).and_then(|()| nix::unistd::chdir("/"));
    if let Err(error) = entered {
        eprintln!("chroot to {}: {error}", root.display());
        return ExitCode::FAILURE;
    }
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::FAILURE;
    };
    let error = Command::new(program).args(arguments).exec();
    eprintln!("run {}: {error}", program.display());
    ExitCode::FAILURE
}

/// Runs `command` with `root` as its root directory, in a child.
///
/// # Errors
/// The child could not be started, or ended with another status than 0: its stderr is the message.
pub(crate) fn run<A: AsRef<std::ffi::OsStr>>(
    root: &Path,
    command: &[A],
) -> Result<Output, std::io::Error> {
    let output = Command::new("/proc/self/exe")
        .arg("in-root")
        .arg(root)
        .args(command)
        .output()?;
    if output.status.success() {
        return Ok(output);
    }
    let program = command
        .first()
        .map(|p| p.as_ref().display().to_string())
        .unwrap_or_default();
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(std::io::Error::other(format!(
        "{program} failed ({}): {}",
        output.status,
        stderr.trim()
    )))
}
