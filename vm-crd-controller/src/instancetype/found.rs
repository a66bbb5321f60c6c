//! An instance type or a preference, whichever of the four kinds it is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use vm_api::instancetype::{
    Family, InstancetypeSpec, ObjectKind, PreferenceSpec, Scope, VirtualMachineClusterInstancetype,
    VirtualMachineClusterPreference, VirtualMachineInstancetype, VirtualMachinePreference,
};

use super::problem::Problem;
use crate::watch::Guarded;

/// What an object of the four kinds holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    /// That of an instance type.
    Instancetype(Box<InstancetypeSpec>),
    /// That of a preference.
    Preference(Box<PreferenceSpec>),
}

/// An object that was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Which of the four kinds.
    pub(crate) kind: ObjectKind,
    /// Its metadata.
    pub(crate) metadata: ObjectMeta,
    /// What it holds.
    pub(crate) content: Content,
}

/// One of the four kinds.
pub(super) trait Typed: Resource<DynamicType = ()> + Clone {
    /// Which.
    const KIND: ObjectKind;

    /// What the object holds.
    fn content(&self) -> Content;
}

macro_rules! kind {
    ($name:ident, $family:ident, $scope:ident) => {
        impl Typed for $name {
            const KIND: ObjectKind = ObjectKind {
                family: Family::$family,
                scope: Scope::$scope,
            };

            fn content(&self) -> Content {
                Content::$family(Box::new(self.spec.clone()))
            }
        }
    };
}

kind!(VirtualMachineInstancetype, Instancetype, Namespace);
kind!(VirtualMachineClusterInstancetype, Instancetype, Cluster);
kind!(VirtualMachinePreference, Preference, Namespace);
kind!(VirtualMachineClusterPreference, Preference, Cluster);

/// What was found, or that it cannot be read.
pub(super) fn read<K: Typed>(object: &Guarded<K>) -> Result<Found, Problem> {
    match &object.0 {
        Ok(object) => Ok(Found {
            kind: K::KIND,
            metadata: object.meta().clone(),
            content: object.content(),
        }),
        Err(error) => Err(Problem::Unreadable {
            family: K::KIND.family,
            what: format!(
                "{} {}",
                K::KIND.name(),
                error.metadata.name.as_deref().unwrap_or_default()
            ),
            message: error.error.clone(),
        }),
    }
}
