//! OCI spec, annotations and network namespace to a Machine and the jail it runs in.
//!
//! One module for each thing that a container of a pod brings along ([`bundle`], [`sandbox`],
//! [`mounts`], [`role`], [`identity`]), for each part of the machine that is made of it, and for
//! what it runs in and on. Nothing here knows the protocol of containerd's shims or the API of
//! Kubernetes.

mod beneath;
pub mod bundle;
pub mod cgroup;
pub mod config;
pub mod credentials;
pub mod diagnostics;
pub mod disks;
pub mod helper;
pub mod host_devices;
pub mod hugepages;
pub mod identity;
pub mod images;
mod iso;
pub mod jail;
pub mod kernel;
pub mod launch;
pub mod machine;
pub mod mounts;
pub mod network;
pub mod nic;
mod orphans;
pub mod overhead;
pub mod pinning;
pub mod record;
pub mod role;
mod room;
pub mod runtime;
pub mod sandbox;
pub mod seed;
pub mod state;
pub mod termination;
pub mod uid;
pub mod user_namespace;
pub mod verbs;
pub mod vsock;
pub mod wish;
