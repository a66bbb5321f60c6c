//! The command line of the controller.
//!
//! Every option has a default that fits the Deployment in `runtimeclass/controller/`; the names of
//! pod and namespace come from the downward API.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::traces::Endpoint;

/// Turns kubevirt.io objects into pods.
#[derive(Clone, Debug, Parser)]
#[command(name = "vm-crd-controller", version)]
pub struct Args {
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// Address of the subresource API and of the admission webhooks, by HTTPS
    #[arg(long, default_value = "0.0.0.0:8443")]
    pub api_listen: SocketAddr,

    /// Service that leads to that address, in the Lease's namespace
    #[arg(long, default_value = "vm-crd-controller")]
    pub api_service: String,

    /// Secret that keeps the API's certificates, in the Lease's namespace
    #[arg(long, default_value = "vm-crd-controller-tls")]
    pub api_secret: String,

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

    /// This controller's user, about whose own writes the admission webhooks are not strict
    #[arg(
        long,
        default_value = "system:serviceaccount:kubevirt:vm-crd-controller"
    )]
    pub username: String,

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

    /// Whether machines that run are asked, seldom, for what only they know, by the exec of their pods
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub ask_machines: bool,

    /// Whether /metrics tells of each machine and instance, by name
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub object_metrics: bool,

    /// Collector of OpenTelemetry that gets the traces of starts, such as http://otel-collector:4318
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<Endpoint>,

    /// Trace every start, not only of instances that ask by the annotation kubevirt.io/trace
    #[arg(long)]
    pub trace_all: bool,

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
