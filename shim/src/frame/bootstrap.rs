//! The dialects in which containerd asks for `start`.
//!
//! containerd 2.3 and newer send `BootstrapParams` on standard input; older ones use flags, the
//! environment, and runtime options or nothing on standard input. Both become a [`StartRequest`].
//! The dialect itself is kept in the bundle, because the node's own shim has to be started in the
//! same one (see `delegate`).

use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use containerd_shim::Flags;
use containerd_shim::StartOpts;
use containerd_shim::bootstrap::BootstrapParams;
use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::protobuf::well_known_types::any::Any;

use super::options::{self, OptionsError};

/// Most bytes that are read from standard input, as in containerd's own shims.
const INPUT_LIMIT: u64 = 10 << 20;

/// Name of the file in a bundle that keeps the dialect of its `start`.
const DIALECT_FILE: &str = "kubevirt-start";

/// Why a `start` was not understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapError {
    /// Standard input could not be read.
    #[error("cannot read the bootstrap parameters from standard input: {0}")]
    Input(#[source] io::Error),
    /// The parameters name another shim than the flags.
    #[error(
        "the bootstrap parameters are for {params}, but the flags for {flags}: containerd started \
         the wrong shim"
    )]
    Mismatch {
        /// `namespace/id` of the parameters.
        params: String,
        /// `namespace/id` of the flags.
        flags: String,
    },
    /// A needed flag is missing.
    #[error("the flag -{0} is missing: this program is started by containerd")]
    Flag(&'static str),
    /// The runtime's options cannot be followed.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The dialect could not be kept in the bundle or read from it.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file in the bundle.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file in the bundle is not what `start` wrote there.
    #[error("{0} does not hold bootstrap parameters: something else wrote into the bundle")]
    Damaged(PathBuf),
}

/// How containerd spoke.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Dialect {
    /// containerd up to 2.2: flags and environment.
    Flags,
    /// containerd 2.3 and newer: these parameters on standard input.
    Params(Box<BootstrapParams>),
}

impl Dialect {
    /// Keeps the dialect in `bundle` for the server.
    pub(crate) fn save(&self, bundle: &Path) -> Result<(), BootstrapError> {
        let path = bundle.join(DIALECT_FILE);
        let bytes = match self {
            Self::Flags => Vec::new(),
            Self::Params(params) => params.write_to_bytes().unwrap_or_default(),
        };
        std::fs::write(&path, bytes).map_err(|source| BootstrapError::File { path, source })
    }

    /// The dialect in which the container of `bundle` was started.
    pub(crate) fn load(bundle: &Path) -> Result<Self, BootstrapError> {
        let path = bundle.join(DIALECT_FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            // containerd spoke protocol 3 to a container of a known sandbox: no `start` happened.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(BootstrapError::File { path, source }),
        };
        if bytes.is_empty() {
            return Ok(Self::Flags);
        }
        BootstrapParams::parse_from_bytes(&bytes)
            .map(|params| Self::Params(Box::new(params)))
            .map_err(|_| BootstrapError::Damaged(path))
    }
}

/// What containerd asked of `start`, whatever the dialect.
#[derive(Debug)]
pub(crate) struct StartRequest {
    /// Container, namespace, containerd's addresses, socket directory.
    pub(crate) options: StartOpts,
    /// The dialect.
    pub(crate) dialect: Dialect,
}

impl StartRequest {
    /// Reads standard input and the environment beside `flags`.
    pub(crate) fn read(flags: &Flags) -> Result<Self, BootstrapError> {
        let mut input = Vec::new();
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            stdin
                .lock()
                .take(INPUT_LIMIT)
                .read_to_end(&mut input)
                .map_err(BootstrapError::Input)?;
        }
        let environment = |name| std::env::var(name).unwrap_or_default();
        let request = Self::parse(
            &input,
            flags,
            environment("TTRPC_ADDRESS"),
            environment("GRPC_ADDRESS"),
        )?;
        options::check(&request.options.extensions)?;
        Ok(request)
    }

    fn parse(
        input: &[u8],
        flags: &Flags,
        ttrpc_address: String,
        grpc_address: String,
    ) -> Result<Self, BootstrapError> {
        for (name, value) in [("id", &flags.id), ("namespace", &flags.namespace)] {
            if value.is_empty() {
                return Err(BootstrapError::Flag(name));
            }
        }
        if let Some(params) = parse_params(input, flags)? {
            let mut options = StartOpts::from(params.clone());
            options.debug |= flags.debug;
            return Ok(Self {
                options,
                dialect: Dialect::Params(Box::new(params)),
            });
        }
        let address = if flags.address.is_empty() {
            grpc_address
        } else {
            flags.address.clone()
        };
        let options = StartOpts {
            id: flags.id.clone(),
            // The runtime's options, or nothing.
            extensions: Any::parse_from_bytes(input).into_iter().collect(),
            publish_binary: flags.publish_binary.clone(),
            address,
            ttrpc_address,
            namespace: flags.namespace.clone(),
            debug: flags.debug,
            ..StartOpts::default()
        };
        Ok(Self {
            options,
            dialect: Dialect::Flags,
        })
    }
}

/// `input` as `BootstrapParams`, or nothing if it is of an older dialect.
fn parse_params(input: &[u8], flags: &Flags) -> Result<Option<BootstrapParams>, BootstrapError> {
    if input.is_empty() {
        return Ok(None);
    }
    let Ok(params) = BootstrapParams::parse_from_bytes(input) else {
        return Ok(None);
    };
    if params.instance_id == flags.id && params.namespace == flags.namespace {
        return Ok(Some(params));
    }
    // Runtime options of the older dialects are an `Any`, whose two fields have the numbers and
    // types of `instance_id` and `namespace`; only a message with more than these is a real one.
    let first_two = BootstrapParams {
        instance_id: params.instance_id.clone(),
        namespace: params.namespace.clone(),
        ..BootstrapParams::default()
    };
    if params == first_two {
        return Ok(None);
    }
    Err(BootstrapError::Mismatch {
        params: format!("{}/{}", params.namespace, params.instance_id),
        flags: format!("{}/{}", flags.namespace, flags.id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Flags {
        Flags {
            id: "pod".into(),
            namespace: "k8s.io".into(),
            address: "/run/containerd/containerd.sock".into(),
            ..Flags::default()
        }
    }

    fn params() -> BootstrapParams {
        BootstrapParams {
            instance_id: "pod".into(),
            namespace: "k8s.io".into(),
            containerd_ttrpc_address: "/run/c.sock.ttrpc".into(),
            containerd_grpc_address: "/run/c.sock".into(),
            socket_dir: Some("/run/c/s".into()),
            ..BootstrapParams::default()
        }
    }

    fn parse(input: &[u8]) -> Result<StartRequest, BootstrapError> {
        StartRequest::parse(input, &flags(), "/run/t.sock".into(), String::new())
    }

    #[test]
    fn nothing_on_standard_input_is_the_dialect_of_flags() {
        let request = parse(&[]).unwrap();
        assert_eq!(request.dialect, Dialect::Flags);
        assert_eq!(request.options.ttrpc_address, "/run/t.sock");
        assert_eq!(request.options.address, "/run/containerd/containerd.sock");
    }

    #[test]
    fn runtime_options_are_the_dialect_of_flags() {
        let options = Any {
            type_url: "runtimeoptions.v1.Options".into(),
            value: b"\x12\x03abc".to_vec(),
            ..Any::default()
        };
        let request = parse(&options.write_to_bytes().unwrap()).unwrap();
        assert_eq!(request.dialect, Dialect::Flags);
        assert_eq!(request.options.extensions, [options]);
    }

    #[test]
    fn parameters_are_taken_as_they_are_and_survive_the_bundle() {
        let request = parse(&params().write_to_bytes().unwrap()).unwrap();
        assert_eq!(request.options.ttrpc_address, "/run/c.sock.ttrpc");
        assert_eq!(request.options.socket_dir.as_deref(), Some("/run/c/s"));

        let bundle = tempfile::tempdir().unwrap();
        request.dialect.save(bundle.path()).unwrap();
        assert_eq!(
            Dialect::load(bundle.path()).unwrap(),
            Dialect::Params(Box::new(params()))
        );
    }

    #[test]
    fn a_bundle_without_the_file_was_started_by_flags() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(Dialect::load(bundle.path()).unwrap(), Dialect::Flags);
        Dialect::Flags.save(bundle.path()).unwrap();
        assert_eq!(Dialect::load(bundle.path()).unwrap(), Dialect::Flags);
    }

    #[test]
    fn parameters_of_another_shim_are_refused() {
        let mut other = params();
        other.instance_id = "other".into();
        let error = parse(&other.write_to_bytes().unwrap()).unwrap_err();
        assert!(error.to_string().contains("k8s.io/other"), "{error}");
    }

    #[test]
    fn a_missing_id_is_named() {
        let error = StartRequest::parse(&[], &Flags::default(), String::new(), String::new());
        assert!(error.unwrap_err().to_string().contains("-id"));
    }

    proptest::proptest! {
        #[test]
        fn no_input_panics(input: Vec<u8>) {
            let _ = parse(&input);
        }
    }
}
