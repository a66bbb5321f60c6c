//! Whether this node can run guests on its processor.
//!
//! `/dev/kvm` alone proves nothing: it exists on nodes whose processor has no virtualization, and
//! QEMU would fail there after it had been started. So both are asked, the processor's flags and
//! the device.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

pub use crate::machine::Accelerator;

/// Where the kernel describes the processor.
const CPUINFO: &str = "/proc/cpuinfo";
/// The device of KVM.
const KVM: &str = "/dev/kvm";

/// What this node offers, and why it is not KVM when it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// The processor runs guests.
    Kvm,
    /// QEMU has to emulate.
    Tcg(NoKvm),
}

/// Why a node has no KVM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKvm {
    /// The processor cannot, or its firmware or hypervisor does not let it.
    #[error(
        "the processor shows neither vmx nor svm in {CPUINFO}: switch virtualization on in the \
         firmware, or nested virtualization in the hypervisor above"
    )]
    NoFlag,
    /// The device is missing or cannot be opened.
    #[error("{KVM} cannot be opened ({0}): load kvm_intel or kvm_amd, or mend its permissions")]
    NoDevice(io::ErrorKind),
}

impl Detected {
    /// What a machine on this node runs on.
    pub fn accelerator(&self) -> Accelerator {
        match self {
            Self::Kvm => Accelerator::Kvm,
            Self::Tcg(_) => Accelerator::Tcg,
        }
    }
}

/// Asks this node. The kernel's description of the processor must be readable.
pub fn detect() -> io::Result<Detected> {
    Ok(judge(&std::fs::read_to_string(CPUINFO)?, || {
        open(Path::new(KVM))
    }))
}

fn open(device: &Path) -> Result<(), io::ErrorKind> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .map(drop)
        .map_err(|error| error.kind())
}

fn judge(cpuinfo: &str, device: impl FnOnce() -> Result<(), io::ErrorKind>) -> Detected {
    if !has_virtualization(cpuinfo) {
        return Detected::Tcg(NoKvm::NoFlag);
    }
    match device() {
        Ok(()) => Detected::Kvm,
        Err(kind) => Detected::Tcg(NoKvm::NoDevice(kind)),
    }
}

/// Whether the processor's own flags (not those of its virtualization, `vmx flags`) say so.
fn has_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.trim() == "flags")
        .any(|(_, flags)| {
            flags
                .split_ascii_whitespace()
                .any(|flag| matches!(flag, "vmx" | "svm"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEL: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\n\
        flags\t\t: fpu vme de pse tsc msr vmx smx est\nvmx flags\t: vnmi ept vpid\n";
    const AMD: &str = "processor\t: 0\nflags\t\t: fpu vme svm extapic\nbugs\t\t: spectre_v1\n";
    const WITHOUT: &str = "processor\t: 0\nmodel name\t: vmx svm 3000\n\
        flags\t\t: fpu vme svm_lock avx hypervisor\nvmx flags\t: vmx\n";

    #[test]
    fn kvm_needs_the_flag_and_the_device() {
        let missing = io::ErrorKind::NotFound;
        for (cpuinfo, device, expected) in [
            (INTEL, Ok(()), Detected::Kvm),
            (AMD, Ok(()), Detected::Kvm),
            (AMD, Err(missing), Detected::Tcg(NoKvm::NoDevice(missing))),
            (WITHOUT, Ok(()), Detected::Tcg(NoKvm::NoFlag)),
            ("", Ok(()), Detected::Tcg(NoKvm::NoFlag)),
        ] {
            assert_eq!(judge(cpuinfo, || device), expected, "{cpuinfo}");
        }
    }

    #[test]
    fn this_node_is_judged() {
        let detected = detect().unwrap();
        assert_eq!(
            detected.accelerator() == Accelerator::Kvm,
            matches!(detected, Detected::Kvm),
            "{detected:?}"
        );
    }

    #[test]
    fn a_missing_device_is_told() {
        assert_eq!(
            open(Path::new("/dev/no-such-kvm")),
            Err(io::ErrorKind::NotFound)
        );
    }
}
