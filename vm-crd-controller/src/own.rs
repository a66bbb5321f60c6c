//! What this replica wrote itself and its watches have not shown yet.
//!
//! A decision over an object that was changed a moment ago by ourselves would undo or repeat that
//! change. Relies on versions being compared for equality alone. Entries that no watch confirms
//! expire: then the API server's own check of versions is what remains.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};

/// How long a watch may lag before it is no longer waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Own writes; a clone knows the same.
#[derive(Clone, Default)]
pub struct OwnWrites(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    by_key: HashMap<String, Entry>,
    /// When expired entries were last taken out: once in a while, not at each write.
    swept: Option<Instant>,
}

struct Entry {
    /// The version that was replaced; none for an object that was made.
    replaced: Option<String>,
    when: Instant,
}

impl OwnWrites {
    /// The version of `object` that was seen is replaced by `new`, as far as that differs.
    pub fn replaced<K: Resource<DynamicType = ()>>(&self, object: &K, new: Option<&str>) {
        let old = object.resource_version();
        if old.as_deref() != new {
            self.note(uid(object), old);
        }
    }

    /// `object` was made.
    pub fn made<K: Resource<DynamicType = ()>>(&self, object: &K) {
        self.note(name(object), None);
    }

    /// `object` was asked to go.
    pub fn deleted<K: Resource<DynamicType = ()>>(&self, object: &K) {
        self.note(going(object), None);
    }

    /// Whether `object` was asked to go a moment ago.
    pub fn is_going<K: Resource<DynamicType = ()>>(&self, object: &K) -> bool {
        self.ask(&going(object), |_| true)
    }

    /// A watch shows `object`.
    pub fn appeared<K: Resource<DynamicType = ()>>(&self, object: &K) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.by_key.remove(&name(object));
    }

    /// Whether this very version of `object` is known to be replaced.
    pub fn is_stale<K: Resource<DynamicType = ()>>(&self, object: &K) -> bool {
        let version = object.resource_version();
        self.ask(&uid(object), |entry| entry.replaced == version)
    }

    /// Whether an object with the name of `object` was made and is still to appear.
    pub fn is_coming<K: Resource<DynamicType = ()>>(&self, object: &K) -> bool {
        self.ask(&name(object), |entry| entry.replaced.is_none())
    }

    fn note(&self, key: String, replaced: Option<String>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let when = Instant::now();
        let due = |at| when.saturating_duration_since(at) >= PATIENCE;
        if entries.swept.is_none_or(due) {
            entries.by_key.retain(|_, entry| !due(entry.when));
            entries.swept = Some(when);
        }
        entries.by_key.insert(key, Entry { replaced, when });
    }

    fn ask(&self, key: &str, holds: impl Fn(&Entry) -> bool) -> bool {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.by_key.get(key);
        entry.is_some_and(|entry| entry.when.elapsed() < PATIENCE && holds(entry))
    }
}

fn uid<K: Resource<DynamicType = ()>>(object: &K) -> String {
    object.uid().unwrap_or_default()
}

/// Neither a UID nor a name.
fn going<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("going {}", uid(object))
}

/// Unique among all kinds, and no UID.
fn name<K: Resource<DynamicType = ()>>(object: &K) -> String {
    ObjectRef::from_obj(object).to_string()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn pod(version: &str) -> Pod {
        let metadata = json!({ "name": "p", "uid": "u", "resourceVersion": version });
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    #[test]
    fn only_the_replaced_version_is_stale() {
        let own = OwnWrites::default();
        assert!(!own.is_stale(&pod("1")));
        own.replaced(&pod("1"), Some("1"));
        assert!(!own.is_stale(&pod("1")), "nothing changed");
        own.replaced(&pod("1"), Some("2"));
        assert!(own.is_stale(&pod("1")));
        assert!(!own.is_stale(&pod("2")));
    }

    #[test]
    fn what_was_deleted_goes_whatever_its_version() {
        let own = OwnWrites::default();
        assert!(!own.is_going(&pod("1")));
        own.deleted(&pod("1"));
        assert!(own.is_going(&pod("1")) && own.is_going(&pod("2")));
    }

    #[test]
    fn what_was_made_is_coming_until_it_appears() {
        let own = OwnWrites::default();
        assert!(!own.is_coming(&pod("1")));
        own.made(&pod("1"));
        assert!(own.is_coming(&pod("1")));
        own.appeared(&pod("1"));
        assert!(!own.is_coming(&pod("1")));
    }
}
