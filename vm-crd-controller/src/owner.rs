//! The reference of what the controller makes to what it is made for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

/// The reference to `owner`, which alone controls what carries it.
pub(crate) fn reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether `object` is controlled by the object with the UID `uid`.
pub(crate) fn is_of<K: Resource>(object: &K, uid: Option<&str>) -> bool {
    controller(object).is_some_and(|owner| Some(owner.uid.as_str()) == uid)
}

/// The owner that controls `object`.
pub(crate) fn controller<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))
}
