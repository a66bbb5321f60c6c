//! swtpm: the machine's TPM. Its state lives as long as the machine's process, in memory: a reboot
//! keeps it, a new start begins with an empty TPM. Or it lives in a claim, for as long as that does.

use std::os::unix::net::UnixStream;

use super::{Helper, HelperError, Program};
use crate::config::NodeConfig;

/// Where the jail has room for the TPM's state, if it is kept in memory.
pub const STATE: &str = "/tpm";

/// The TPM with its state in `directory` of the jail, and its control channel for QEMU.
pub fn swtpm(node: &NodeConfig, directory: &str) -> Result<(Helper, UnixStream), HelperError> {
    let program = Program {
        root: &node.qemu.root,
        path: &node.qemu.swtpm,
        name: "swtpm",
        key: "qemu.swtpm",
    };
    let program = program.argument(|| "domain.devices.tpm".to_owned())?;
    let name = "swtpm".to_owned();
    let pair = UnixStream::pair();
    let (control, qemus) = pair.map_err(|source| HelperError::Socket {
        name: name.clone(),
        source,
    })?;
    let arguments = [
        &program,
        "socket",
        "--tpm2",
        "--tpmstate",
        &format!("dir={directory},mode=0600"),
        "--ctrl",
        "type=unixio,clientfd=3",
        "--terminate",
    ];
    let helper = Helper {
        name,
        arguments: arguments.map(str::to_owned).into(),
        descriptors: vec![control.into()],
    };
    Ok((helper, qemus))
}
