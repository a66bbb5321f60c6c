//! The guard against a cluster that KubeVirt itself manages: both would fight over the same
//! objects. Relies on discovery, which every service account may read.

use kube::Client;
use thiserror::Error;
use vm_api::contract::GROUP;

/// Why the controller does not start.
#[derive(Debug, Error)]
pub enum IncumbentError {
    /// KubeVirt's own kind is served.
    #[error(
        "KubeVirt itself is installed in this cluster (it serves kubevirts.{GROUP}): uninstall it, \
         its CustomResourceDefinitions included, or use another cluster"
    )]
    KubeVirt,
    /// Our kinds are not served.
    #[error(
        "the cluster serves no {0}.{GROUP}/v1: install the CustomResourceDefinitions in \
         runtimeclass/crds first"
    )]
    NotServed(&'static str),
    /// The API server did not answer.
    #[error("asking the API server which kinds of {GROUP} it serves failed: {0}")]
    Discovery(#[from] kube::Error),
}

/// Refuses a cluster in which KubeVirt is installed, or in which our kinds are not.
pub async fn refuse(client: &Client) -> Result<(), IncumbentError> {
    let served = match client
        .list_api_group_resources(&format!("{GROUP}/v1"))
        .await
    {
        Ok(list) => list
            .resources
            .into_iter()
            .map(|resource| resource.name)
            .collect(),
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    judge(&served)
}

fn judge(served: &[String]) -> Result<(), IncumbentError> {
    let serves = |name: &str| served.iter().any(|resource| resource == name);
    if serves("kubevirts") {
        return Err(IncumbentError::KubeVirt);
    }
    for ours in [
        "virtualmachines",
        "virtualmachineinstances",
        "virtualmachineinstancereplicasets",
    ] {
        if !serves(ours) {
            return Err(IncumbentError::NotServed(ours));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubevirt_and_a_lack_of_our_kinds_are_told_apart() {
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let ours = [
            "virtualmachines",
            "virtualmachineinstances",
            "virtualmachineinstancereplicasets",
            "virtualmachines/status",
        ];
        assert!(judge(&names(&ours)).is_ok());
        assert!(matches!(
            judge(&names(&["kubevirts"])),
            Err(IncumbentError::KubeVirt)
        ));
        assert!(matches!(
            judge(&names(&ours[..1])),
            Err(IncumbentError::NotServed("virtualmachineinstances"))
        ));
        assert!(matches!(
            judge(&[]),
            Err(IncumbentError::NotServed("virtualmachines"))
        ));
    }
}
