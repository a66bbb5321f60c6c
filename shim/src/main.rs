//! containerd-shim-kubevirt-v1: the containerd shim v2 that boots pods as QEMU guests.
//!
//! The way of a call: `frame` speaks containerd's protocol; `task` routes it to the container it
//! names, which `create` made; that is the pod's `sandbox`, its `machine`, or an ordinary container
//! that `delegate` hands to the node's own shim. `stdio` and `events` carry what comes back.

mod create;
mod delegate;
mod events;
mod frame;
mod image;
mod machine;
mod resources;
mod sandbox;
mod stdio;
mod task;

use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What `start` and `delete` print here is what containerd shows to the user.
            eprint!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let flags = containerd_shim::parse(&arguments)?;
    if flags.version {
        return Ok(frame::print_version()?);
    }
    if flags.info {
        return Ok(frame::print_info()?);
    }
    match flags.action.as_str() {
        "start" => Ok(frame::start(&flags)?),
        "delete" => Ok(frame::delete(&flags)?),
        "" if flags.socket.is_empty() => {
            bail!(
                "this is a containerd shim: containerd starts it for runtime {}",
                frame::RUNTIME
            )
        }
        "" => Ok(frame::serve(&flags)?),
        other => bail!("the action {other:?} is unknown: start and delete are the known ones"),
    }
}
