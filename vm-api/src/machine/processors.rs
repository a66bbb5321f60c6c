//! How many virtual processors a machine has, and how they are arranged.

use crate::field::FieldError;
use crate::v1::VirtualMachineInstanceSpec;

/// The arrangement of virtual processors; no part is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Sockets.
    pub sockets: u32,
    /// Cores a socket.
    pub cores: u32,
    /// Threads a core.
    pub threads: u32,
}

impl Topology {
    /// Virtual processors in all.
    pub fn vcpus(self) -> u32 {
        self.sockets
            .saturating_mul(self.cores)
            .saturating_mul(self.threads)
    }
}

/// The arrangement that the spec asks for; without one, a socket for each processor of the spec's
/// CPU limit or request, or else of `limit`, the pod's own CPU limit in millicores; or one.
pub fn topology(
    spec: &VirtualMachineInstanceSpec,
    limit: Option<u64>,
) -> Result<Topology, FieldError> {
    let cpu = spec.domain.cpu.clone().unwrap_or_default();
    let parts = [cpu.sockets, cpu.cores, cpu.threads].map(Option::unwrap_or_default);
    if parts.iter().any(|part| *part > 0) {
        let [sockets, cores, threads] = parts.map(|part| part.max(1));
        return Ok(Topology {
            sockets,
            cores,
            threads,
        });
    }
    let millis = match &spec.domain.resources {
        Some(resources) => match resources.amount("cpu") {
            Some((path, quantity)) => Some(
                quantity
                    .millis()
                    .map_err(|error| FieldError::new(path, error))?,
            ),
            None => limit,
        },
        None => limit,
    };
    let sockets = u32::try_from(millis.unwrap_or(1000).div_ceil(1000))
        .unwrap_or(u32::MAX)
        .max(1);
    Ok(Topology {
        sockets,
        cores: 1,
        threads: 1,
    })
}

/// How many times the sockets and the memory that it starts with a machine can grow to, where its
/// spec does not say: KubeVirt's own ratio (`maxHotplugRatio`).
pub const GROWTH: u32 = 4;

/// Sockets to which the machine can grow while it runs: `cpu.maxSockets`, or else [`GROWTH`] times
/// those of `topology`.
pub fn max_sockets(spec: &VirtualMachineInstanceSpec, topology: Topology) -> u32 {
    let cpu = spec.domain.cpu.as_ref();
    cpu.and_then(|cpu| cpu.max_sockets)
        .filter(|given| *given > 0)
        .unwrap_or_else(|| topology.sockets.saturating_mul(GROWTH))
}

/// That each virtual processor has a processor of the node to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedicated {
    /// So has QEMU for its own threads: one more.
    pub isolate_emulator: bool,
}

impl Dedicated {
    /// Processors of the node for so many virtual ones.
    pub fn processors(self, vcpus: u32) -> u32 {
        vcpus.saturating_add(self.isolate_emulator.into())
    }
}

/// Whether the spec asks for processors of the node.
pub fn dedicated(spec: &VirtualMachineInstanceSpec) -> Option<Dedicated> {
    let cpu = spec.domain.cpu.as_ref()?;
    let dedicated = cpu.dedicated_cpu_placement == Some(true);
    dedicated.then(|| Dedicated {
        isolate_emulator: cpu.isolate_emulator_thread == Some(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{Cpu, ResourceRequirements};

    fn spec(cpu: Option<Cpu>, limit: &str) -> VirtualMachineInstanceSpec {
        let mut spec = VirtualMachineInstanceSpec::default();
        spec.domain.cpu = cpu;
        if !limit.is_empty() {
            let limits = [("cpu".to_owned(), limit.into())].into();
            spec.domain.resources = Some(ResourceRequirements {
                limits,
                ..Default::default()
            });
        }
        spec
    }

    #[test]
    fn the_topology_given_wins() {
        let cpu = Cpu {
            cores: Some(2),
            threads: Some(2),
            ..Default::default()
        };
        let topology = topology(&spec(Some(cpu), "8"), Some(500)).unwrap();
        assert_eq!(
            topology,
            Topology {
                sockets: 1,
                cores: 2,
                threads: 2
            }
        );
        assert_eq!(topology.vcpus(), 4);
    }

    #[test]
    fn else_the_limit_is_rounded_up() {
        assert_eq!(
            topology(&spec(None, "1500m"), Some(4000)).unwrap().vcpus(),
            2
        );
        assert_eq!(
            topology(&spec(Some(Cpu::default()), ""), Some(2001))
                .unwrap()
                .vcpus(),
            3
        );
        assert_eq!(topology(&spec(None, ""), None).unwrap().vcpus(), 1);
        assert_eq!(topology(&spec(None, "0"), None).unwrap().vcpus(), 1);
    }

    #[test]
    fn a_machine_grows_to_what_it_says_or_four_times_its_sockets() {
        let at = |max_sockets| {
            let cpu = Cpu {
                sockets: Some(2),
                max_sockets,
                ..Default::default()
            };
            let spec = spec(Some(cpu), "");
            max_sockets_of(&spec)
        };
        assert_eq!([at(None), at(Some(0)), at(Some(3))], [8, 8, 3]);
    }

    fn max_sockets_of(spec: &VirtualMachineInstanceSpec) -> u32 {
        max_sockets(spec, topology(spec, None).unwrap())
    }

    #[test]
    fn a_wrong_limit_is_named() {
        let error = topology(&spec(None, "two"), None).unwrap_err();
        assert_eq!(error.path, "domain.resources.limits[cpu]");
    }
}
