//! The node's configuration: one TOML file, every key optional.
//!
//! A key that is unknown or a value that is wrong is refused with file, line and column. What is
//! read here is only checked against the node when a machine is launched, so that a node without
//! QEMU still starts ordinary containers and says what it misses.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The configuration that is read when none is named; it may be absent.
pub const DEFAULT_PATH: &str = "/etc/kubevirt/config.toml";

/// The node's configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Which QEMU, and with what.
    pub qemu: Qemu,
    /// What machines may have.
    pub machine: MachineRules,
    /// The programs that machines are launched with.
    pub runtime: Runtime,
    /// What machines run as.
    pub jail: Jail,
    /// What is logged.
    pub log: Log,
}

/// `[qemu]`: which QEMU, and with what.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Qemu {
    /// The tree that becomes the root of the jail; `/` takes the node's own QEMU.
    pub root: PathBuf,
    /// QEMU within `root`.
    pub path: PathBuf,
    /// Machine type of machines that name none.
    pub machine: String,
    /// What runs the guests' instructions.
    pub accelerator: AcceleratorChoice,
    /// UEFI code within `root`.
    pub uefi_code: PathBuf,
    /// Template of the variables that belong to `uefi_code`, within `root`.
    pub uefi_vars: PathBuf,
    /// UEFI code for secure boot within `root`.
    pub uefi_secure_code: PathBuf,
    /// Template of the variables that belong to `uefi_secure_code`, with the keys that it trusts,
    /// within `root`.
    pub uefi_secure_vars: PathBuf,
    /// The program that shares directories with guests, within `root`.
    pub virtiofsd: PathBuf,
    /// The program that is a guest's TPM, within `root`.
    pub swtpm: PathBuf,
}

impl Default for Qemu {
    fn default() -> Self {
        Self {
            root: "/opt/kubevirt/qemu".into(),
            path: "/usr/bin/qemu-system-x86_64".into(),
            machine: "q35".into(),
            accelerator: AcceleratorChoice::Auto,
            uefi_code: "/usr/share/OVMF/OVMF_CODE_4M.fd".into(),
            uefi_vars: "/usr/share/OVMF/OVMF_VARS_4M.fd".into(),
            uefi_secure_code: "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd".into(),
            uefi_secure_vars: "/usr/share/OVMF/OVMF_VARS_4M.ms.fd".into(),
            virtiofsd: "/usr/libexec/virtiofsd".into(),
            swtpm: "/usr/bin/swtpm".into(),
        }
    }
}

/// What runs the guests' instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorChoice {
    /// KVM if the processor has it, else emulation.
    #[default]
    Auto,
    /// KVM, or the machine is refused.
    Kvm,
    /// Emulation.
    Tcg,
}

/// `[machine]`: what machines may have beside what their pods give them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct MachineRules {
    /// A vsock, by which the guest reaches whatever listens on the node's own vsock.
    pub vsock: bool,
}

/// `[runtime]`: the programs that machines are launched with, and where their state is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Runtime {
    /// The OCI runtime that makes the jails; found by `PATH` unless absolute.
    pub path: PathBuf,
    /// The shim that ordinary containers are delegated to; found by `PATH` unless absolute.
    pub ordinary_shim: PathBuf,
    /// Directory for state that must not outlive the node's running system.
    pub state: PathBuf,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            path: "runc".into(),
            ordinary_shim: "containerd-shim-runc-v2".into(),
            state: "/run/kubevirt".into(),
        }
    }
}

/// `[jail]`: what machines run as when their pod does not say.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Jail {
    /// First uid (and gid) of the range from which every machine gets one of its own.
    pub first_uid: u32,
    /// Size of the range: at most so many such machines run on the node at a time.
    pub uid_count: u32,
}

impl Default for Jail {
    /// systemd's list of uid ranges has 1879048192 to 2147483647 as unused by everybody
    /// (systemd.io/UIDS-GIDS).
    fn default() -> Self {
        Self {
            first_uid: 2_000_000_000,
            uid_count: 65_536,
        }
    }
}

/// `[log]`: what is logged.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Log {
    /// The least level that is logged.
    pub level: LogLevel,
    /// The file to whose end the phases of each pod go, as OpenTelemetry's JSON lines.
    pub traces: Option<PathBuf>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            traces: None,
        }
    }
}

/// Levels of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the levels'")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The level as `tracing` writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum ConfigError {
    #[error("cannot read the node's configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}:{line}:{column}: {message}", path.display())]
    Wrong {
        path: PathBuf,
        line: usize,
        column: usize,
        message: String,
    },
    #[error("{}: {key}: {message}", path.display())]
    Value {
        path: PathBuf,
        key: &'static str,
        message: String,
    },
}

impl NodeConfig {
    /// Reads the file at `explicit`, which must exist, or else the one at [`DEFAULT_PATH`], whose
    /// absence means that every key has its default.
    pub fn load(explicit: Option<&Path>) -> Result<Self, ConfigError> {
        let path = explicit.unwrap_or(Path::new(DEFAULT_PATH));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if explicit.is_none() && error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Parses `text`; `path` is for the errors.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let (line, column) = position(text, start);
            let message = error.message().trim().replace('\n', ", ");
            ConfigError::Wrong {
                path: path.to_owned(),
                line,
                column,
                message,
            }
        })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let refuse = |key, message: &str| {
            Err(ConfigError::Value {
                path: path.to_owned(),
                key,
                message: message.to_owned(),
            })
        };
        let qemu = &self.qemu;
        let traces = self.log.traces.iter().map(|path| ("log.traces", path));
        let always = [
            ("qemu.root", &qemu.root),
            ("qemu.path", &qemu.path),
            ("qemu.uefi-code", &qemu.uefi_code),
            ("qemu.uefi-vars", &qemu.uefi_vars),
            ("qemu.uefi-secure-code", &qemu.uefi_secure_code),
            ("qemu.uefi-secure-vars", &qemu.uefi_secure_vars),
            ("qemu.virtiofsd", &qemu.virtiofsd),
            ("qemu.swtpm", &qemu.swtpm),
            ("runtime.state", &self.runtime.state),
        ];
        for (key, value) in traces.chain(always) {
            let plain = value
                .components()
                .all(|part| part != std::path::Component::ParentDir);
            if !value.is_absolute() || !plain {
                return refuse(key, "must be an absolute path without '..'");
            }
        }
        if let Err(error) = qemu_driver::machine::MachineType::new(qemu.machine.as_str()) {
            return refuse("qemu.machine", &error.to_string());
        }
        for (key, value) in [
            ("runtime.path", &self.runtime.path),
            ("runtime.ordinary-shim", &self.runtime.ordinary_shim),
        ] {
            if !value.is_absolute() && value.components().count() != 1 {
                return refuse(key, "must be a bare name or an absolute path");
            }
        }
        if self.jail.first_uid == 0 {
            return refuse(
                "jail.first-uid",
                "must not be 0: machines never run as root",
            );
        }
        // The last value is (uid_t) -1, which means "unchanged" to the kernel.
        if self.jail.uid_count == 0
            || u64::from(self.jail.first_uid) + u64::from(self.jail.uid_count) > 0xffff_ffff
        {
            return refuse(
                "jail.uid-count",
                "the range must hold a uid and end below 4294967295",
            );
        }
        Ok(())
    }
}

/// Line and column, from 1, of the byte at `offset`.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<NodeConfig, String> {
        NodeConfig::parse(Path::new("c.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_needed() {
        assert_eq!(parse("").unwrap(), NodeConfig::default());
        NodeConfig::default().check(Path::new("c.toml")).unwrap();
    }

    #[test]
    fn keys_are_read() {
        let config = parse(
            "[qemu]\nroot = \"/\"\naccelerator = \"tcg\"\n[jail]\nfirst-uid = 5\n\
             [machine]\nvsock = true\n[log]\nlevel = \"debug\"\n[runtime]\npath = \"/usr/sbin/crun\"",
        )
        .unwrap();
        assert_eq!(config.qemu.root, Path::new("/"));
        assert_eq!(config.qemu.accelerator, AcceleratorChoice::Tcg);
        assert_eq!(config.jail.first_uid, 5);
        assert!(config.machine.vsock && !NodeConfig::default().machine.vsock);
        assert_eq!(config.log.level.as_str(), "debug");
        assert_eq!(config.runtime.path, Path::new("/usr/sbin/crun"));
    }

    #[test]
    fn mistakes_have_a_place() {
        let wrong = [
            ("[qemu]\nrot = \"/\"", "c.toml:2:1: unknown field `rot`"),
            (
                "[qemu]\n  root = 5",
                "c.toml:2:10: invalid type: integer `5`",
            ),
            (
                "[qemu]\naccelerator = \"xen\"",
                "c.toml:2:15: unknown variant `xen`",
            ),
            ("[qemu]\nroot = ", "c.toml:2:"),
            (
                "[qemu]\nroot = \"opt\"",
                "c.toml: qemu.root: must be an absolute path",
            ),
            ("[qemu]\nmachine = \"pc\"", "c.toml: qemu.machine: "),
            ("[jail]\nfirst-uid = 0", "c.toml: jail.first-uid: "),
            ("[jail]\nuid-count = 4000000000", "c.toml: jail.uid-count: "),
            ("[jail]\nfirst-uid = -1", "c.toml:2:13: "),
            ("[runtime]\npath = \"bin/runc\"", "c.toml: runtime.path: "),
            ("[log]\ntraces = \"traces\"", "c.toml: log.traces: "),
        ];
        for (text, expected) in wrong {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_named_file_must_exist() {
        let error = NodeConfig::load(Some(Path::new("/nonexistent/c.toml"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/c.toml"), "{error}");
    }

    proptest! {
        #[test]
        fn a_wrong_file_is_told_on_one_line(
            text in prop_oneof![
                any::<String>(),
                "\\[(qemu|jail|machine|log|runtime|x)\\]\n[a-z-]{1,9} ?= ?(\\PC{0,20}|\"\\PC{0,20}\"|-?[0-9]{0,22})\n?",
                "\\[jail\\]\n(first-uid|uid-count) = [0-9]{1,12}\n",
                "\\[qemu\\]\n(root|path|machine) = \"(/|\\.\\.|pc-q35-|[a-z,=]){0,4}\"\n",
            ],
        ) {
            match parse(&text) {
                Ok(config) => {
                    let jail = &config.jail;
                    prop_assert!(jail.first_uid > 0 && jail.uid_count > 0);
                    prop_assert!(jail.first_uid.checked_add(jail.uid_count - 1).is_some());
                    prop_assert!(config.qemu.root.is_absolute());
                }
                Err(error) => {
                    prop_assert!(error.starts_with("c.toml:"), "{}", error);
                    prop_assert!(!error.contains('\n'), "{:?}", error);
                }
            }
        }
    }
}
