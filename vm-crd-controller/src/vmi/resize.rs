//! The size of a running machine, changed by the pod's `resize` subresource.
//!
//! The shim knows a machine's new size by its container's limits alone: a guest has as much more or
//! less than at its start as the limits are. So the limits here follow from those at the start and
//! from what the spec asks for now. Relies on the pod's annotation for the spec at the start, and on
//! kubelet for what has come of a change.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use kube::ResourceExt;
use vm_api::Quantity;
use vm_api::contract::VMI_SPEC_ANNOTATION;
use vm_api::machine::{Topology, guest_memory_bytes, hugepages, topology};
use vm_api::v1::{
    Condition, CpuTopology, Phase, VirtualMachineInstance, VirtualMachineInstanceSpec,
    VirtualMachineInstanceStatus,
};

use super::decide::Observed;
use super::pod;
use crate::conditions::{condition, kind};
use crate::render;

/// Thousandths of a processor.
const MILLIS: i128 = 1000;

/// Reason of a change that the API server refused.
const REFUSED: &str = "Refused";

/// What is asked of a running machine that it does not have yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    processors: bool,
    memory: bool,
    /// What its container is to have.
    wanted: Amounts,
}

/// Requests and limits of processors and memory.
#[derive(Clone, Debug, Default, PartialEq)]
struct Amounts {
    requests: BTreeMap<String, ApiQuantity>,
    limits: BTreeMap<String, ApiQuantity>,
}

/// How far a change is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    /// The container is to get other resources.
    Open,
    /// Kubelet is at it, and said so.
    UnderWay(Option<(String, String)>),
    /// It does not work, as things are; why.
    Failed(String, String),
    /// The machine has it.
    Done,
}

/// What `instance`, whose machine runs in `pod`, lacks of what its spec asks for.
pub(super) fn change(instance: &VirtualMachineInstance, pod: &Pod) -> Option<Change> {
    let status = instance.status.as_ref()?;
    if status.phase != Some(Phase::Running) || pod::is_terminating(pod) {
        return None;
    }
    let spec = &instance.spec;
    let now = topology(spec, None).ok()?;
    let processors = status.current_cpu_topology.as_ref() != Some(&in_status(now));
    let guest = guest_memory_bytes(spec, None).ok()?;
    let current = status.memory.as_ref()?.guest_current.as_ref()?;
    let in_hugepages = hugepages(spec).ok()?.is_some();
    let memory = !in_hugepages && current.bytes().ok() != Some(guest);
    if !processors && !memory {
        return None;
    }
    let start = pod.annotations().get(VMI_SPEC_ANNOTATION)?;
    let start: VirtualMachineInstanceSpec = serde_json::from_str(start).ok()?;
    let vcpus = i128::from(now.vcpus()) - i128::from(topology(&start, None).ok()?.vcpus());
    let bytes = match in_hugepages {
        true => 0,
        false => i128::from(guest) - i128::from(guest_memory_bytes(&start, None).ok()?),
    };
    let given = render::resources(&start).ok()?;
    Some(Change {
        processors,
        memory,
        wanted: amounts(&given, now.vcpus(), vcpus, bytes),
    })
}

/// What a container that started with `given` is to have when its machine has `vcpus` more or less,
/// `all` in all, and so many `bytes` more or less.
fn amounts(given: &ResourceRequirements, all: u32, vcpus: i128, bytes: i128) -> Amounts {
    let parsed = |list: &Option<BTreeMap<String, ApiQuantity>>, name: &str| -> Option<Quantity> {
        Some(list.as_ref()?.get(name)?.0.as_str().into())
    };
    let cpu = |list| {
        let millis = parsed(list, "cpu")?.millis().ok()?;
        Some(i128::from(millis))
    };
    let memory = |list| {
        let amount = parsed(list, "memory")?.bytes().ok()?;
        Some(i128::from(amount) + bytes)
    };
    let (request, limit) = (cpu(&given.requests), cpu(&given.limits));
    // Without a limit at the start, the first one is the number of processors.
    let new_limit = match limit {
        Some(limit) => limit + vcpus * MILLIS,
        None => i128::from(all) * MILLIS,
    };
    // A pod's class of quality cannot change: a request that was the limit stays it.
    let new_request = match request {
        Some(request) if limit != Some(request) => {
            request + vcpus * i128::from(render::MILLICORES_PER_VCPU)
        }
        _ => new_limit,
    };
    let millis = |amount: i128| Quantity::from_millis(positive(amount)).into();
    let size = |amount: i128| Quantity::from_bytes(positive(amount)).into();
    let collect = |cpu: i128, memory: Option<i128>| {
        let mut amounts = BTreeMap::from([("cpu".to_owned(), millis(cpu))]);
        amounts.extend(memory.map(|bytes| ("memory".to_owned(), size(bytes))));
        amounts
    };
    Amounts {
        requests: collect(new_request.min(new_limit), memory(&given.requests)),
        limits: collect(new_limit, memory(&given.limits)),
    }
}

fn positive(amount: i128) -> u64 {
    u64::try_from(amount.max(1)).unwrap_or(u64::MAX)
}

impl Change {
    /// The container's new resources, as far as the pod does not ask for them yet.
    pub(super) fn patch(&self, pod: &Pod) -> Option<(String, ResourceRequirements)> {
        let container = container(pod)?;
        let asked = container.resources.clone().unwrap_or_default();
        if self
            .wanted
            .is_in(asked.requests.as_ref(), asked.limits.as_ref())
        {
            return None;
        }
        let resources = ResourceRequirements {
            requests: Some(self.wanted.requests.clone()),
            limits: Some(self.wanted.limits.clone()),
            ..ResourceRequirements::default()
        };
        Some((container.name.clone(), resources))
    }

    fn progress(&self, pod: &Pod, refused: Option<&str>) -> Progress {
        if let Some(message) = refused {
            return Progress::Failed(REFUSED.to_owned(), message.to_owned());
        }
        if self.patch(pod).is_some() {
            return Progress::Open;
        }
        let said = |kind, reason: &str| {
            let condition = pod::condition(pod, kind).filter(|it| it.status == "True")?;
            let given = condition.reason.as_deref().unwrap_or_default();
            let said = (
                given.to_owned(),
                condition.message.clone().unwrap_or_default(),
            );
            Some((given == reason, said))
        };
        let pending = said("PodResizePending", "Infeasible");
        let under_way = said("PodResizeInProgress", "Error");
        match pending.or(under_way) {
            Some((true, (reason, message))) => Progress::Failed(reason, message),
            Some((false, said)) => {
                Progress::UnderWay(Some(said).filter(|(why, _)| !why.is_empty()))
            }
            None if self.is_done(pod) => Progress::Done,
            None => Progress::UnderWay(None),
        }
    }

    fn is_done(&self, pod: &Pod) -> bool {
        let actual = status(pod).and_then(|status| status.resources.as_ref());
        actual.is_some_and(|actual| {
            self.wanted
                .is_in(actual.requests.as_ref(), actual.limits.as_ref())
        })
    }
}

impl Amounts {
    fn is_in(
        &self,
        requests: Option<&BTreeMap<String, ApiQuantity>>,
        limits: Option<&BTreeMap<String, ApiQuantity>>,
    ) -> bool {
        has_all(requests, &self.requests) && has_all(limits, &self.limits)
    }
}

fn has_all(
    given: Option<&BTreeMap<String, ApiQuantity>>,
    wanted: &BTreeMap<String, ApiQuantity>,
) -> bool {
    let millis = |quantity: &ApiQuantity| Quantity::from(quantity.0.as_str()).millis().ok();
    wanted.iter().all(|(name, amount)| {
        let given = given.and_then(|given| given.get(name));
        given.is_some_and(|given| millis(given).is_some() && millis(given) == millis(amount))
    })
}

fn container(pod: &Pod) -> Option<&Container> {
    let name = pod::machine_container(pod);
    let mut containers = pod.spec.as_ref()?.containers.iter();
    containers.find(|container| container.name == name)
}

fn status(pod: &Pod) -> Option<&ContainerStatus> {
    let name = pod::machine_container(pod);
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == name)
}

/// The conditions that tell of a change under way.
pub(super) fn conditions(observed: &Observed<'_>) -> Vec<Condition> {
    let Some((change, pod)) = observed.change().zip(observed.pod) else {
        return Vec::new();
    };
    let changing = [
        (change.processors, kind::HOT_VCPU_CHANGE),
        (change.memory, kind::HOT_MEMORY_CHANGE),
    ];
    let tell = |kind| match change.progress(pod, observed.resize_refused) {
        Progress::Done => None,
        Progress::Open | Progress::UnderWay(None) => Some(condition(kind, true, None, None)),
        Progress::UnderWay(Some((reason, message))) => {
            Some(condition(kind, true, Some(&reason), Some(&message)))
        }
        Progress::Failed(reason, message) => {
            Some(condition(kind, false, Some(&reason), Some(&message)))
        }
    };
    let changing = changing.into_iter().filter(|(changes, _)| *changes);
    changing.filter_map(|(_, kind)| tell(kind)).collect()
}

/// Writes into `status` what a change that is done brought, and what is asked for.
pub(super) fn describe(status: &mut VirtualMachineInstanceStatus, observed: &Observed<'_>) {
    let Some((change, pod)) = observed.change().zip(observed.pod) else {
        return;
    };
    let spec = &observed.instance.spec;
    let done = change.progress(pod, observed.resize_refused) == Progress::Done;
    if done && let Ok(topology) = topology(spec, None) {
        status.current_cpu_topology = Some(in_status(topology));
    }
    if change.memory
        && let Some(memory) = &mut status.memory
        && let Ok(bytes) = guest_memory_bytes(spec, None)
    {
        let bytes = Quantity::from_bytes(bytes);
        if done {
            memory.guest_current = Some(bytes.clone());
        }
        memory.guest_requested = Some(bytes);
    }
}

/// An arrangement of processors, as the status has it.
pub(super) fn in_status(topology: Topology) -> CpuTopology {
    CpuTopology {
        sockets: Some(topology.sockets),
        cores: Some(topology.cores),
        threads: Some(topology.threads),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn given(domain: &Value) -> ResourceRequirements {
        let spec = serde_json::from_value(json!({ "domain": domain })).unwrap();
        render::resources(&spec).unwrap()
    }

    fn texts(amounts: &Amounts) -> Value {
        let list = |list: &BTreeMap<String, ApiQuantity>| -> Value {
            let entry = |(name, amount): (&String, &ApiQuantity)| {
                let amount = Quantity::from(amount.0.as_str());
                let number = if name == "cpu" {
                    amount.millis().unwrap()
                } else {
                    amount.bytes().unwrap() >> 20
                };
                (name.clone(), json!(number))
            };
            list.iter().map(entry).collect()
        };
        json!([list(&amounts.requests), list(&amounts.limits)])
    }

    #[test]
    fn limits_grow_by_what_the_guest_gets() {
        let memory = json!({ "guest": "2Gi" });
        // Shared processors: no limit at the start.
        let shared = given(&json!({ "cpu": { "sockets": 1 }, "memory": memory }));
        let more = amounts(&shared, 3, 2, 1 << 30);
        // 2 GiB, 8 MiB of page tables, 1 MiB for the processor; 1 GiB more.
        let expected = json!([
            { "cpu": 300, "memory": 3081 },
            { "cpu": 3000, "memory": 3081 },
        ]);
        assert_eq!(texts(&more), expected);
        // With a limit, its relation to the number of processors stays.
        let limited = given(&json!({
            "cpu": { "sockets": 2 }, "memory": memory,
            "resources": { "limits": { "cpu": "1500m" } },
        }));
        let more = texts(&amounts(&limited, 3, 1, 0));
        assert_eq!(
            (&more[0]["cpu"], &more[1]["cpu"]),
            (&json!(2500), &json!(2500))
        );
        // Processors of their own: the pod stays Guaranteed.
        let own = given(&json!({
            "cpu": { "sockets": 2, "dedicatedCpuPlacement": true }, "memory": memory,
        }));
        let more = texts(&amounts(&own, 4, 2, 0));
        assert_eq!(more[0], more[1]);
        assert_eq!(more[0]["cpu"], 4000);
    }

    fn instance(sockets: u32, memory: &str) -> VirtualMachineInstance {
        serde_json::from_value(json!({
            "metadata": { "name": "tl", "namespace": "default" },
            "spec": { "domain": { "cpu": { "sockets": sockets }, "memory": { "guest": memory } } },
            "status": {
                "phase": "Running",
                "currentCPUTopology": { "sockets": 1, "cores": 1, "threads": 1 },
                "memory": { "guestAtBoot": "2Gi", "guestCurrent": "2Gi" },
            },
        }))
        .unwrap()
    }

    fn pod(limits: &Value, actual: &Value, conditions: &Value) -> Pod {
        let start = json!({ "domain": { "cpu": { "sockets": 1 }, "memory": { "guest": "2Gi" } } });
        let resources = |limits: &Value| {
            json!({ "requests": { "cpu": "200m", "memory": "2057Mi" },
            "limits": limits })
        };
        serde_json::from_value(json!({
            "metadata": { "annotations": { VMI_SPEC_ANNOTATION: start.to_string() } },
            "spec": { "containers": [{ "name": "compute", "resources": resources(limits) }] },
            "status": { "conditions": conditions, "containerStatuses": [{ "name": "compute",
                "ready": true, "restartCount": 0, "image": "", "imageID": "",
                "resources": resources(actual) }] },
        }))
        .unwrap()
    }

    #[test]
    fn a_change_is_followed_from_the_pods_own_words() {
        let (old, new) = (
            json!({ "memory": "2057Mi" }),
            json!({ "memory": "2057Mi", "cpu": "2" }),
        );
        let none = json!([]);
        let said = |kind: &str, reason: &str| json!([{ "type": kind, "status": "True", "reason": reason, "message": "why" }]);
        let why = |reason: &str| (reason.to_owned(), "why".to_owned());
        let two = instance(2, "2Gi");
        assert_eq!(change(&instance(1, "2Gi"), &pod(&old, &old, &none)), None);
        let table = [
            (pod(&old, &old, &none), Progress::Open),
            (pod(&new, &old, &none), Progress::UnderWay(None)),
            (
                pod(&new, &old, &said("PodResizePending", "Deferred")),
                Progress::UnderWay(Some(why("Deferred"))),
            ),
            (
                pod(&new, &old, &said("PodResizePending", "Infeasible")),
                Progress::Failed("Infeasible".to_owned(), "why".to_owned()),
            ),
            (
                pod(&new, &old, &said("PodResizeInProgress", "Error")),
                Progress::Failed("Error".to_owned(), "why".to_owned()),
            ),
            (
                pod(&new, &old, &said("PodResizeInProgress", "")),
                Progress::UnderWay(None),
            ),
            (pod(&new, &new, &none), Progress::Done),
        ];
        for (pod, expected) in table {
            let change = change(&two, &pod).unwrap();
            assert!(change.processors && !change.memory);
            assert_eq!(change.progress(&pod, None), expected, "{:?}", pod.status);
            let refused = change.progress(&pod, Some("quota"));
            assert_eq!(
                refused,
                Progress::Failed(REFUSED.to_owned(), "quota".to_owned())
            );
        }
    }
}
