//! Runs other programs and says which one failed, with its own words.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A command line, for messages.
fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs to the end and returns what it wrote to stdout.
///
/// # Errors
/// Carries the command line and its stderr when it cannot start or ends with another code than 0.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let done = command.output().with_context(|| format!("run `{line}`"))?;
    if !done.status.success() {
        bail!(
            "`{line}` failed ({}): {}",
            done.status,
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Like [`output`], for commands whose output nobody reads.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    output(command.stdin(Stdio::null())).map(drop)
}

/// Splits `line` at blanks, for commands whose words hold none.
pub(crate) fn words(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}
