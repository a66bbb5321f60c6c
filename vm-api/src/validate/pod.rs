//! What the pod takes over: names, DNS, and what happens at its start and end.

use super::names::{Form, wrong};
use crate::field::{FieldError, word};
use crate::v1::VirtualMachineInstanceSpec;
use crate::words::words;

/// Name servers at most, as Kubernetes allows for a pod.
const MAXIMUM_NAME_SERVERS: usize = 3;

/// Search domains at most, as Kubernetes allows for a pod.
const MAXIMUM_SEARCHES: usize = 32;

words! {
    /// Where DNS settings come from.
    DnsPolicy {
        /// From the cluster.
        ClusterFirst = "ClusterFirst",
        /// From the cluster, in the node's network too.
        ClusterFirstWithHostNet = "ClusterFirstWithHostNet",
        /// From the node.
        Default = "Default",
        /// From dnsConfig alone.
        None = "None",
    }
}

words! {
    /// What a drain of the node does.
    EvictionStrategy {
        /// The machine is stopped.
        None = "None",
        /// It is migrated.
        LiveMigrate = "LiveMigrate",
        /// It is migrated if that can be done, else stopped.
        LiveMigrateIfPossible = "LiveMigrateIfPossible",
        /// Somebody else sees to it.
        External = "External",
    }
}

words! {
    /// How a machine starts.
    StartStrategy {
        /// Paused.
        Paused = "Paused",
    }
}

words! {
    /// The guest's architecture.
    Architecture {
        /// x86-64.
        Amd64 = "amd64",
        /// ARMv8.
        Arm64 = "arm64",
        /// IBM Z.
        S390x = "s390x",
        /// IBM Power, little-endian.
        Ppc64le = "ppc64le",
    }
}

pub(super) fn check(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = |path: &'static str| move || path.to_owned();
    errors.extend(word::<Architecture>(at("architecture"), spec.architecture.as_deref()).err());
    errors.extend(strict::<EvictionStrategy>(
        "evictionStrategy",
        spec.eviction_strategy.as_deref(),
    ));
    errors.extend(strict::<StartStrategy>(
        "startStrategy",
        spec.start_strategy.as_deref(),
    ));
    errors.extend(strict::<DnsPolicy>("dnsPolicy", spec.dns_policy.as_deref()));
    errors.extend(dns(spec));
    for (path, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        let name = name.as_deref().filter(|name| !name.is_empty());
        let message = name.and_then(|name| wrong(Form::Label, name));
        errors.extend(message.map(|message| FieldError::new(path, message)));
    }
    errors
}

/// A word that cannot be empty where it stands.
fn strict<T>(path: &'static str, text: Option<&str>) -> Option<FieldError>
where
    T: std::str::FromStr<Err = crate::words::UnknownWord>,
{
    text?
        .parse::<T>()
        .err()
        .map(|error| FieldError::new(path, error))
}

fn dns(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let config = spec.dns_config.clone().unwrap_or_default();
    let servers = config.nameservers.unwrap_or_default();
    let mut errors = Vec::new();
    if spec.dns_policy.as_deref() == Some(DnsPolicy::None.as_str()) && servers.is_empty() {
        let message = "dnsPolicy None needs at least one name server here";
        errors.push(FieldError::new("dnsConfig", message));
    }
    if servers.len() > MAXIMUM_NAME_SERVERS {
        let message = format!("there are more than {MAXIMUM_NAME_SERVERS}");
        errors.push(FieldError::new("dnsConfig.nameservers", message));
    }
    for (index, server) in servers.iter().enumerate() {
        if server.parse::<std::net::IpAddr>().is_err() {
            let message = format!("`{server}` is not an IP address");
            errors.push(FieldError::new(
                format!("dnsConfig.nameservers[{index}]"),
                message,
            ));
        }
    }
    if config.searches.unwrap_or_default().len() > MAXIMUM_SEARCHES {
        errors.push(FieldError::new(
            "dnsConfig.searches",
            format!("there are more than {MAXIMUM_SEARCHES}"),
        ));
    }
    errors
}
