//! The command line of the controller.
//!
//! Every option has a default that fits the Deployment in `runtimeclass/controller/`; the names of
//! pod and namespace come from the downward API.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Turns kubevirt.io objects into pods.
#[derive(Clone, Debug, Parser)]
#[command(name = "vm-crd-controller", version)]
pub struct Args {
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// Namespace of the Lease by which one replica leads
    #[arg(long, env = "POD_NAMESPACE", default_value = "kubevirt")]
    pub lease_namespace: String,

    /// Name of that Lease
    #[arg(long, default_value = "vm-crd-controller")]
    pub lease_name: String,

    /// How long a leader that fell silent is waited for, in seconds
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(2..))]
    pub lease_seconds: u16,

    /// This replica's name in the Lease and in events
    #[arg(long, env = "POD_NAME", default_value = "vm-crd-controller")]
    pub identity: String,

    /// Objects of one kind that are worked on at the same time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,

    /// Image of the machine container of machines that boot from a claim
    #[arg(long, default_value = "kubevirt.local/node-installer:latest")]
    pub placeholder_image: String,

    /// How long a start that goes well stays unreported, in milliseconds
    ///
    /// A machine that runs within this time costs one write of its instance's status and one of
    /// its own; a slower one gets its phases written too. What goes wrong is written at once.
    #[arg(long, default_value_t = 5000)]
    pub progress_delay: u64,

    /// Form of the logs; their level comes from RUST_LOG
    #[arg(long, value_enum, default_value = "json")]
    pub log_format: LogFormat,
}

/// Form of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line
    Json,
    /// For people
    Text,
}

impl Args {
    /// How long a start that goes well stays unreported.
    pub fn progress_delay(&self) -> Duration {
        Duration::from_millis(self.progress_delay)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }
}
