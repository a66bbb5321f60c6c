//! Kernel parameters of the network namespace that the calling thread is in: `/proc/sys/net` always
//! shows those of the thread that opens a file there.

use std::{fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::NetworkError;

const ROOT: &str = "/proc/sys/net";

/// A kernel parameter and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sysctl {
    /// Path below `/proc/sys/net`, such as `ipv4/conf/eth0/forwarding`.
    key: String,
    value: String,
}

impl Sysctl {
    pub(super) fn new(key: String, value: &str) -> Self {
        Self {
            key,
            value: value.to_owned(),
        }
    }

    pub(super) fn value(&self) -> &str {
        &self.value
    }

    /// The same parameter with the value it has now.
    pub(super) fn current(&self) -> Result<Self, NetworkError> {
        let value =
            fs::read_to_string(self.path()).map_err(|source| self.failed("read", source))?;
        Ok(Self {
            key: self.key.clone(),
            value: value.trim_end().to_owned(),
        })
    }

    /// Gives the parameter this value.
    pub(super) fn write(&self) -> Result<(), NetworkError> {
        fs::write(self.path(), &self.value).map_err(|source| self.failed("write", source))
    }

    /// As [`Self::write`], but a parameter that does not exist is fine: its interface is gone, or
    /// the kernel lacks the protocol.
    pub(super) fn write_if_there(&self) -> Result<(), NetworkError> {
        match self.write() {
            Err(NetworkError::Sysctl { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            result => result,
        }
    }

    fn path(&self) -> PathBuf {
        Self::path_of(&self.key)
    }

    /// Where the parameter or the directory `key` is.
    pub(super) fn path_of(key: &str) -> PathBuf {
        PathBuf::from(ROOT).join(key)
    }

    fn failed(&self, action: &'static str, source: io::Error) -> NetworkError {
        NetworkError::Sysctl {
            action,
            key: self.key.clone(),
            source,
        }
    }
}
