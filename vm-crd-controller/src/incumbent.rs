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
    /// A kind of ours is not served.
    #[error(
        "the cluster serves no {0}: install the CustomResourceDefinitions in runtimeclass/crds of this \
         version first"
    )]
    NotServed(String),
    /// The API server did not answer.
    #[error("asking the API server which kinds of {GROUP} it serves failed: {0}")]
    Discovery(#[from] kube::Error),
}

/// What has to be served, by group and version: the controller waits for a list of each kind before it
/// does anything.
const KINDS: [(&str, &[&str]); 3] = [
    (
        "kubevirt.io/v1",
        &[
            "virtualmachines",
            "virtualmachineinstances",
            "virtualmachineinstancereplicasets",
        ],
    ),
    ("pool.kubevirt.io/v1beta1", &["virtualmachinepools"]),
    (
        "instancetype.kubevirt.io/v1beta1",
        &[
            "virtualmachineinstancetypes",
            "virtualmachineclusterinstancetypes",
            "virtualmachinepreferences",
            "virtualmachineclusterpreferences",
        ],
    ),
];

/// Refuses a cluster in which KubeVirt is installed, or in which our kinds are not.
pub async fn refuse(client: &Client) -> Result<(), IncumbentError> {
    for (version, kinds) in KINDS {
        let served = match client.list_api_group_resources(version).await {
            Ok(list) => list.resources,
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let served = served.into_iter().map(|resource| resource.name);
        judge(&served.collect::<Vec<_>>(), version, kinds)?;
    }
    Ok(())
}

fn judge(served: &[String], version: &str, kinds: &[&str]) -> Result<(), IncumbentError> {
    let serves = |name: &str| served.iter().any(|resource| resource == name);
    if version == KINDS[0].0 && serves("kubevirts") {
        return Err(IncumbentError::KubeVirt);
    }
    match kinds.iter().find(|kind| !serves(kind)) {
        Some(missing) => Err(IncumbentError::NotServed(format!("{missing}.{version}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubevirt_and_a_lack_of_our_kinds_are_told_apart() {
        let says = |served: &[&str], which: usize| {
            let served: Vec<_> = served.iter().map(|&name| name.to_owned()).collect();
            let (version, kinds) = KINDS[which];
            judge(&served, version, kinds)
                .err()
                .map(|error| error.to_string())
        };
        for (which, (_, kinds)) in KINDS.iter().enumerate() {
            assert_eq!(
                says(&[*kinds, &["virtualmachines/status"]].concat(), which),
                None
            );
        }
        assert!(says(&["kubevirts"], 0).unwrap().contains("KubeVirt itself"));
        for (served, which, missing) in [
            (
                &["virtualmachines"][..],
                0,
                "no virtualmachineinstances.kubevirt.io/v1:",
            ),
            (&[], 0, "no virtualmachines.kubevirt.io/v1:"),
            (&[], 1, "no virtualmachinepools.pool.kubevirt.io/v1beta1:"),
        ] {
            let said = says(served, which).unwrap();
            assert!(said.contains(missing), "{said}");
        }
    }
}
