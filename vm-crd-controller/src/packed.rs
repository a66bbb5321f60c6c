//! Objects packed as text, for stores of many of which few are looked at at a time: a pod takes a third
//! of what it takes as types.

use std::borrow::Cow;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::watch::LAST_APPLIED;

/// An object of kind `K` as JSON.
#[derive(Clone, Debug)]
pub struct Packed<K> {
    /// Its name, namespace, UID, version and owners: what it is found by.
    metadata: ObjectMeta,
    json: Box<str>,
    kind: PhantomData<K>,
}

impl<K: DeserializeOwned> Packed<K> {
    /// The object, without the fields' managers and what was applied last.
    ///
    /// # Errors
    /// When it is not what its kind's types say.
    pub fn unpack(&self) -> serde_json::Result<K> {
        serde_json::from_str(&self.json)
    }
}

impl<'de, K> Deserialize<'de> for Packed<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Value::deserialize(deserializer)?;
        let metadata = object.get_mut("metadata");
        if let Some(metadata) = metadata.and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
            let annotations = metadata.get_mut("annotations");
            if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
                annotations.remove(LAST_APPLIED);
            }
        }
        let all = ObjectMeta::deserialize(&object["metadata"]).map_err(D::Error::custom)?;
        let metadata = ObjectMeta {
            name: all.name,
            namespace: all.namespace,
            uid: all.uid,
            resource_version: all.resource_version,
            owner_references: all.owner_references,
            ..ObjectMeta::default()
        };
        Ok(Self {
            metadata,
            json: object.to_string().into_boxed_str(),
            kind: PhantomData,
        })
    }
}

impl<K: Resource> Resource for Packed<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &Self::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &Self::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(of)
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
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_unpacked_as_it_was() {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "p", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "labels": { "a": "b" },
                "annotations": { "c": "d", LAST_APPLIED: "{}" },
                "ownerReferences": [{ "apiVersion": "v1", "kind": "K", "name": "o", "uid": "w" }],
                "deletionTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{ "manager": "m" }],
            },
            "spec": { "containers": [{ "name": "compute", "env": [{ "name": "A", "value": "1" }] }] },
            "status": { "phase": "Running" },
        });
        let packed: Packed<Pod> = serde_json::from_value(pod.clone()).unwrap();
        let metadata = pod["metadata"].as_object_mut().unwrap();
        metadata.remove("managedFields");
        let annotations = metadata["annotations"].as_object_mut().unwrap();
        annotations.remove(LAST_APPLIED);
        let unpacked = packed.unpack().unwrap();
        assert_eq!(serde_json::to_value(&unpacked).unwrap(), pod);
        for key in ["labels", "annotations", "deletionTimestamp"] {
            pod["metadata"].as_object_mut().unwrap().remove(key);
        }
        let found_by = serde_json::to_value(packed.meta()).unwrap();
        assert_eq!(found_by, pod["metadata"]);
    }

    #[test]
    fn one_that_cannot_be_read_hides_no_other() {
        let odd =
            json!([{ "metadata": { "name": "a" }, "spec": 7 }, { "metadata": { "name": "b" } }]);
        let all: Vec<Packed<Pod>> = serde_json::from_value(odd).unwrap();
        assert_eq!(all[0].meta().name.as_deref(), Some("a"));
        all[0].unpack().unwrap_err();
        all[1].unpack().unwrap();
    }
}
