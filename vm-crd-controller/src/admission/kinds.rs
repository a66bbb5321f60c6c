//! The kinds that are reviewed, and what there is to know of each.

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use vm_api::contract::GROUP;
use vm_api::defaults::{self, Identity};
use vm_api::instancetype::{self, InstancetypeSpec, PreferenceSpec};
use vm_api::pool::{self, VirtualMachinePoolSpec};
use vm_api::v1::{
    VirtualMachineInstanceReplicaSetSpec, VirtualMachineInstanceSpec, VirtualMachineSpec,
};
use vm_api::{FieldError, support, validate};

use super::Webhook;
use super::judge::{Verdict, reviewed};
use super::request::Request;

/// The namespace of the UUIDs that are derived from those of requests.
const NAMESPACE: Uuid = Uuid::from_u128(0x8f2b_6c1e_5a0d_4a86_9d53_0c7e_61b4_a2f9);

/// The spec of a kind.
pub(super) trait Reviewed: DeserializeOwned + Serialize {
    /// Nobody but the controller changes it once it is there.
    const IS_FIXED: bool = false;

    /// It refers to objects that must go together with it.
    const REFERS: bool = false;

    /// Writes the defaults into it. `old` is what it was before; `request` is the request's UID,
    /// another one each time.
    fn fill(&mut self, old: Option<&Self>, request: &str);

    /// What is wrong with it.
    fn wrong(&self) -> Vec<FieldError>;

    /// What is right and does not work.
    fn unsupported(&self) -> Vec<FieldError>;
}

type Review = fn(Webhook, &Request<'_>) -> Verdict;

/// What reviews the objects of a kind.
const KINDS: &[(&str, &str, Review)] = &[
    (GROUP, "VirtualMachine", reviewed::<VirtualMachineSpec>),
    (
        GROUP,
        "VirtualMachineInstance",
        reviewed::<VirtualMachineInstanceSpec>,
    ),
    (
        GROUP,
        "VirtualMachineInstanceReplicaSet",
        reviewed::<VirtualMachineInstanceReplicaSetSpec>,
    ),
    (
        pool::GROUP,
        "VirtualMachinePool",
        reviewed::<VirtualMachinePoolSpec>,
    ),
    (
        instancetype::GROUP,
        "VirtualMachineInstancetype",
        reviewed::<InstancetypeSpec>,
    ),
    (
        instancetype::GROUP,
        "VirtualMachineClusterInstancetype",
        reviewed::<InstancetypeSpec>,
    ),
    (
        instancetype::GROUP,
        "VirtualMachinePreference",
        reviewed::<PreferenceSpec>,
    ),
    (
        instancetype::GROUP,
        "VirtualMachineClusterPreference",
        reviewed::<PreferenceSpec>,
    ),
];

/// What reviews objects of this group and kind, if anything does.
pub(super) fn find((group, kind): (&str, &str)) -> Option<Review> {
    let found = KINDS.iter().find(|(g, k, _)| (*g, *k) == (group, kind));
    found.map(|(_, _, review)| *review)
}

impl Reviewed for VirtualMachineSpec {
    const REFERS: bool = true;

    fn fill(&mut self, old: Option<&Self>, request: &str) {
        // A machine stays who it is when it is written anew without its name.
        let identity = match old {
            Some(old) => identity_of(old),
            None => Identity {
                uuid: Some(derived(request, "uuid")),
                serial: Some(derived(request, "serial")),
            },
        };
        defaults::machine(self, &identity);
    }

    fn wrong(&self) -> Vec<FieldError> {
        validate::machine(self)
    }

    fn unsupported(&self) -> Vec<FieldError> {
        let mut errors = support::machine(self);
        let whole = self.instancetype.is_none() && self.preference.is_none();
        if let Some(template) = self.template.spec.as_ref().filter(|_| whole) {
            let missing = validate::memory_missing(template);
            errors.extend(missing.map(|error| error.under("template.spec")));
        }
        errors
    }
}

fn identity_of(spec: &VirtualMachineSpec) -> Identity {
    let template = spec.template.spec.as_ref();
    let firmware = template.and_then(|template| template.domain.firmware.as_ref());
    Identity {
        uuid: firmware.and_then(|firmware| firmware.uuid.clone()),
        serial: firmware.and_then(|firmware| firmware.serial.clone()),
    }
}

impl Reviewed for VirtualMachineInstanceSpec {
    const IS_FIXED: bool = true;

    fn fill(&mut self, _: Option<&Self>, request: &str) {
        let identity = Identity {
            uuid: Some(derived(request, "uuid")),
            serial: None,
        };
        identity.give(self);
        defaults::instance(self);
    }

    fn wrong(&self) -> Vec<FieldError> {
        validate::instance(self)
    }

    fn unsupported(&self) -> Vec<FieldError> {
        support::instance(self)
    }
}

/// Kinds into which nothing is filled: what is open in a template is filled in when something is made
/// of it.
macro_rules! as_it_is {
    ($spec:ident, $wrong:path, $unsupported:path) => {
        impl Reviewed for $spec {
            fn fill(&mut self, _: Option<&Self>, _: &str) {}

            fn wrong(&self) -> Vec<FieldError> {
                $wrong(self)
            }

            fn unsupported(&self) -> Vec<FieldError> {
                $unsupported(self)
            }
        }
    };
}

as_it_is!(
    VirtualMachineInstanceReplicaSetSpec,
    validate::replica_set,
    support::replica_set
);
as_it_is!(VirtualMachinePoolSpec, validate::pool, support::pool);
as_it_is!(
    InstancetypeSpec,
    instancetype::instancetype,
    support::instancetype
);
as_it_is!(
    PreferenceSpec,
    instancetype::preference,
    support::preference
);

fn derived(request: &str, what: &str) -> String {
    Uuid::new_v5(&NAMESPACE, format!("{what} {request}").as_bytes()).to_string()
}
