//! An object as a store holds it: its JSON, and what tells it from others without reading that.
//!
//! The types of Kubernetes and KubeVirt have hundreds of optional fields, and each takes its room
//! whether it is there or not: a pod of three KiB of JSON is a value of twenty. Stores hold thousands of
//! objects of which a few are looked at, so they are read when they are looked at. One that cannot be
//! read does not hide the others.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::error_boundary::InvalidObject;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// What `kubectl apply` writes into an object for itself: the object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object of kind `K`, packed; a clone is the same.
pub struct Packed<K> {
    metadata: ObjectMeta,
    json: Arc<[u8]>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Resource + DeserializeOwned> Packed<K> {
    /// The object, or why it cannot be read.
    pub fn open(&self) -> Result<K, InvalidObject> {
        serde_json::from_slice(&self.json).map_err(|_| {
            // Once more, for an error without the place in a text that nobody has seen.
            let value = serde_json::from_slice::<Value>(&self.json);
            let error = value.and_then(serde_json::from_value::<K>).err();
            InvalidObject {
                error: error.map_or_else(String::new, |error| error.to_string()),
                metadata: self.metadata.clone(),
            }
        })
    }
}

/// By what an object is known, and who owns it.
fn identity(metadata: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        resource_version: metadata.resource_version,
        owner_references: metadata.owner_references,
        ..ObjectMeta::default()
    }
}

impl<'de, K: Resource> Deserialize<'de> for Packed<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Value::deserialize(deserializer)?;
        // What nobody reads.
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
            if let Some(annotations) = metadata.get_mut("annotations") {
                annotations
                    .as_object_mut()
                    .map(|all| all.remove(LAST_APPLIED));
            }
        }
        let metadata = ObjectMeta::deserialize(&object["metadata"]).map_err(D::Error::custom)?;
        Ok(Self {
            metadata: identity(metadata),
            json: serde_json::to_vec(&object)
                .map_err(D::Error::custom)?
                .into(),
            kind: PhantomData,
        })
    }
}

impl<K> Clone for Packed<K> {
    fn clone(&self) -> Self {
        Self {
            metadata: self.metadata.clone(),
            json: Arc::clone(&self.json),
            kind: PhantomData,
        }
    }
}

impl<K> fmt::Debug for Packed<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed")
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}

impl<K: Resource> Resource for Packed<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(kind: &K::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &K::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &K::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn plural(kind: &K::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::ResourceExt;
    use serde_json::json;

    use super::*;

    fn pack(object: &Value) -> Packed<Pod> {
        serde_json::from_value(object.clone()).unwrap()
    }

    #[test]
    fn an_object_is_read_as_it_was_but_for_who_wrote_it() {
        let mut object = json!({
            "metadata": {
                "name": "p", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "labels": { "a": "b" }, "annotations": { "c": "d", LAST_APPLIED: "{}" },
                "ownerReferences": [{ "apiVersion": "v1", "kind": "K", "name": "o", "uid": "x" }],
                "managedFields": [{ "manager": "somebody" }],
            },
            "spec": { "containers": [{ "name": "c", "image": "i" }] },
            "status": { "phase": "Running", "startTime": "2026-01-01T00:00:00Z" },
        });
        let packed = pack(&object);
        assert_eq!(packed.name_any(), "p");
        assert_eq!(packed.uid().as_deref(), Some("u"));
        assert_eq!(packed.owner_references().len(), 1);
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.remove("managedFields");
        metadata["annotations"]
            .as_object_mut()
            .unwrap()
            .remove(LAST_APPLIED);
        let whole: Pod = serde_json::from_value(object).unwrap();
        assert_eq!(packed.open().unwrap(), whole);
        assert_eq!(Packed::<Pod>::kind(&()), "Pod");
    }

    #[test]
    fn an_object_that_cannot_be_read_says_so_when_it_is_opened() {
        let wrong = pack(&json!({ "metadata": { "name": "p" }, "spec": { "containers": "none" } }));
        let error = wrong.open().unwrap_err();
        assert_eq!(error.metadata.name.as_deref(), Some("p"));
        assert!(error.error.contains("containers") || error.error.contains("sequence"));
        assert!(!error.error.contains("line"), "{error}");
    }
}
