//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::status::Format;

/// Installs the kubevirt runtime on this node, or takes it back.
#[derive(Parser)]
#[command(name = "kubevirt-node", version)]
pub(crate) struct Cli {
    /// Where the node's root file system is
    #[arg(long, env = "HOST_ROOT", default_value = "/host", global = true)]
    pub(crate) host: PathBuf,

    /// Directory on the node that holds the shim and QEMU
    #[arg(long, env = "PREFIX", default_value = "/opt/kubevirt", global = true)]
    pub(crate) prefix: PathBuf,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Copy the files, configure and restart containerd, label the node, and keep watch over it
    Install {
        /// The files to install: `bin/` and `qemu/`
        #[arg(long, default_value = "/opt/kubevirt")]
        payload: PathBuf,
        /// The runtime's configuration for the node; none leaves the node's own file as it is
        #[arg(long, env = "CONFIG")]
        config: Option<PathBuf>,
        /// Name of this node's Node object
        #[arg(long, env = "NODE_NAME")]
        node_name: String,
    },
    /// Remove the label, containerd's configuration and the files; refused while machines run
    Uninstall {
        /// End running machines first instead of refusing
        #[arg(long, env = "FORCE")]
        force: bool,
        /// Name of this node's Node object
        #[arg(long, env = "NODE_NAME")]
        node_name: String,
    },
    /// Have every node's installer uninstall, and wait; refused while machines run anywhere
    Retire {
        /// Namespace of the product
        #[arg(long, env = "POD_NAMESPACE", default_value = "kubevirt")]
        namespace: String,
        /// How long the nodes may take, in seconds
        #[arg(long, default_value_t = 240)]
        timeout: u64,
    },
    /// Succeed if containerd on this node has the runtime loaded and its files run
    Check {
        /// Succeed if neither is there any more
        #[arg(long)]
        absent: bool,
    },
    /// Print what runs on this node, by what, and what is wrong; fails if machines cannot start
    Status {
        /// For people or for programs
        #[arg(long, short, value_enum, default_value = "text")]
        output: Format,
    },
    /// Run a command with another root directory
    #[command(hide = true)]
    InRoot {
        root: PathBuf,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}
