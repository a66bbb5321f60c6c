//! The variables by which device plugins tell a container what it was given.
//!
//! `PCI_RESOURCE_<RESOURCE>` is KubeVirt's own plugin's and that of others which serve it,
//! `PCIDEVICE_<RESOURCE>` the SR-IOV network device plugin's. They are only hints: whoever writes the
//! pod can set them too.

use qemu_driver::machine::PciAddress;

const PREFIXES: [&str; 2] = ["PCI_RESOURCE_", "PCIDEVICE_"];

/// The devices of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    resource: String,
    pub(super) addresses: Vec<PciAddress>,
}

impl Pool {
    /// Whether it is of `resource`, such as `nvidia.com/GP102GL`.
    pub(super) fn is_of(&self, resource: &str) -> bool {
        self.resource == in_variables(resource)
    }
}

/// The pools that `env` tells of, in its order.
pub(super) fn pools(env: &[String]) -> Vec<Pool> {
    let mut pools = Vec::<Pool>::new();
    for variable in env {
        let Some((name, value)) = variable.split_once('=') else {
            continue;
        };
        let resource = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
        // Beside them there are variables with details in JSON, or with no device.
        let addresses: Result<Vec<PciAddress>, _> = value.split(',').map(str::parse).collect();
        let (Some(resource), Ok(addresses)) = (resource, addresses) else {
            continue;
        };
        let resource = in_variables(resource);
        let pool = match pools.iter_mut().find(|pool| pool.resource == resource) {
            Some(pool) => pool,
            None => {
                let addresses = Vec::new();
                pools.push(Pool {
                    resource,
                    addresses,
                });
                let Some(last) = pools.last_mut() else {
                    continue;
                };
                last
            }
        };
        for address in addresses {
            if !pool.addresses.contains(&address) {
                pool.addresses.push(address);
            }
        }
    }
    pools
}

/// A resource's name as plugins write it in variables.
fn in_variables(resource: &str) -> String {
    let letter = |c: char| match c {
        c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase(),
        _ => '_',
    };
    resource.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_kinds_of_variables_are_read() {
        let env = [
            "PATH=/bin",
            "PCI_RESOURCE_NVIDIA_COM_GP102GL=0000:3b:00.0,0000:3c:00.0",
            "PCIDEVICE_INTEL_COM_SRIOV_NIC=0000:5e:02.0",
            "PCIDEVICE_INTEL_COM_SRIOV_NIC_INFO={\"0000:5e:02.0\":{}}",
            "PCI_RESOURCE_INTEL_COM_SRIOV_NIC=0000:5e:02.0",
            "PCI_RESOURCE_X=",
            "PCI_RESOURCE_Y=/etc/shadow",
        ]
        .map(str::to_owned);
        let pools = pools(&env);
        assert_eq!(pools.len(), 2, "{pools:?}");
        assert!(pools[0].is_of("nvidia.com/GP102GL") && !pools[0].is_of("nvidia.com/GP102"));
        assert_eq!(pools[0].addresses.len(), 2);
        assert!(pools[1].is_of("intel.com/sriov-nic"));
        assert_eq!(pools[1].addresses, ["0000:5e:02.0".parse().unwrap()]);
    }

    proptest! {
        #[test]
        fn nothing_but_addresses_comes_through(
            env in prop::collection::vec(
                prop_oneof![
                    any::<String>(),
                    "(PCI_RESOURCE_|PCIDEVICE_)[A-Za-z_/.]{0,9}=[0-9a-f:.,]{0,30}",
                    "(PCI_RESOURCE_|PCIDEVICE_)[AB]=0000:(3b|ff):(00|1f)\\.[0-8]([,/\n]0000:3b:00\\.[01]){0,2}",
                ],
                0..12,
            ),
        ) {
            let pools = pools(&env);
            let told = |pool: &Pool, address: &PciAddress| env.iter().any(|variable| {
                let (name, value) = variable.split_once('=').unwrap_or_default();
                in_variables(name).ends_with(&pool.resource)
                    && value.split(',').any(|text| text.parse().is_ok_and(|it: PciAddress| it == *address))
            });
            for pool in &pools {
                prop_assert!(!pool.addresses.is_empty());
                for (index, address) in pool.addresses.iter().enumerate() {
                    prop_assert!(told(pool, address));
                    prop_assert!(!pool.addresses[..index].contains(address), "twice");
                }
            }
        }
    }
}
