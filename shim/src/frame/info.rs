//! `-info` and `-v`: what the runtime is, without doing anything.

use std::io::{self, Read, Write};

use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use cri_glue::config::NodeConfig;
use cri_glue::runtime::Runtime;

use super::{RUNTIME, options};

/// What containerd calls the features of an OCI runtime (core/runtime/typeurl.go).
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// The most bytes of options that are read.
const MAX_OPTIONS_BYTES: u64 = 64 << 10;

/// Prints a `RuntimeInfo`, as containerd 2.0 and newer ask for. The features are those of the OCI
/// runtime, which makes the jails and the pod's ordinary containers: by them kubelet knows whether
/// a pod may have a user namespace and recursive read-only mounts. Without them it may not.
pub(crate) fn print_info() -> io::Result<()> {
    let info = RuntimeInfo {
        name: RUNTIME.into(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            ..RuntimeVersion::default()
        })
        .into(),
        features: features().into(),
        ..RuntimeInfo::default()
    };
    let bytes = info.write_to_bytes().map_err(io::Error::other)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&bytes)?;
    stdout.flush()
}

/// The features of the OCI runtime that the options on standard input lead to. What is wrong with those
/// is said when a pod is made.
fn features() -> Option<Any> {
    let mut given = Vec::new();
    let stdin = io::stdin().lock();
    stdin.take(MAX_OPTIONS_BYTES).read_to_end(&mut given).ok()?;
    let given = Any::parse_from_bytes(&given).ok()?;
    let path = options::config_path(&[given]);
    let node = NodeConfig::load(path.as_deref()).ok()?;
    Some(Any {
        type_url: FEATURES.into(),
        value: Runtime::features(&node)?,
        ..Any::default()
    })
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
