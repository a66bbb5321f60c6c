//! `-info` and `-v`: what the runtime is, without doing anything.

use std::io::{self, Write};

use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use super::RUNTIME;

/// Prints a bare `RuntimeInfo`, as containerd 2.2 and newer ask for.
pub(crate) fn print_info() -> io::Result<()> {
    let info = RuntimeInfo {
        name: RUNTIME.into(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            ..RuntimeVersion::default()
        })
        .into(),
        ..RuntimeInfo::default()
    };
    let bytes = info.write_to_bytes().map_err(io::Error::other)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&bytes)?;
    stdout.flush()
}

/// Prints the program's name and version for a human.
pub(crate) fn print_version() -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(
        stdout,
        "containerd-shim-kubevirt-v1 {}",
        env!("CARGO_PKG_VERSION")
    )?;
    stdout.flush()
}
