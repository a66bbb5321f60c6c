//! Which objects are controlled by whom: an index beside a store, kept by the changes that its watch
//! shows. With it, a set of a few replicas costs the same whatever else the cluster holds.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};

use crate::owner;

/// The index; a clone is the same.
#[derive(Clone)]
pub struct Children {
    /// The kind of owners that count.
    kind: &'static str,
    /// Objects without a controller are kept too, by their namespace.
    orphans: bool,
    index: Arc<Mutex<Index>>,
}

#[derive(Default)]
struct Index {
    filled: bool,
    parents: HashMap<Name, Parent>,
    children: HashMap<Parent, BTreeSet<String>>,
}

/// Namespace and name.
type Name = (String, String);

/// Under whom an object is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Parent {
    /// Its controller.
    Owner {
        namespace: String,
        name: String,
        uid: String,
    },
    /// Nobody.
    Orphans { namespace: String },
}

impl Children {
    /// Objects that are controlled by objects of `kind`.
    pub fn of_kind(kind: &'static str) -> Self {
        Self {
            kind,
            orphans: false,
            index: Arc::default(),
        }
    }

    /// And those that nobody controls.
    pub fn with_orphans(self) -> Self {
        Self {
            orphans: true,
            ..self
        }
    }

    /// `object` changed or is gone, as `store` shows. The names of the owners in its namespace that
    /// are to look: the one from before too.
    pub fn changed<K>(&self, store: &Store<K>, object: &K) -> BTreeSet<String>
    where
        K: Resource<DynamicType = ()> + Clone + Debug,
        (): Eq + Hash,
    {
        let there = store.get(&ObjectRef::from_obj(object)).is_some();
        self.put(object, there)
    }

    fn put<K: Resource>(&self, object: &K, there: bool) -> BTreeSet<String> {
        let parent = self.parent(object);
        self.index().put(name(object), parent, there)
    }

    /// All objects were listed anew.
    pub fn listed<K>(&self, store: &Store<K>)
    where
        K: Resource<DynamicType = ()> + Clone,
        (): Eq + Hash,
    {
        let mut new = Index {
            filled: true,
            ..Index::default()
        };
        for object in store.state() {
            new.put(name(&*object), self.parent(&*object), true);
        }
        // At once: who looks in between would miss children and make others.
        *self.index() = new;
    }

    /// Whether the objects were listed: before, nothing is known to be missing.
    pub fn is_filled(&self) -> bool {
        self.index().filled
    }

    /// Names of the objects in `namespace` that are controlled by the object with the UID `uid`.
    pub fn of(&self, namespace: &str, name: &str, uid: &str) -> Vec<String> {
        self.names(&Parent::Owner {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        })
    }

    /// Names of the objects in `namespace` that nobody controls.
    pub fn orphans(&self, namespace: &str) -> Vec<String> {
        self.names(&Parent::Orphans {
            namespace: namespace.to_owned(),
        })
    }

    fn names(&self, parent: &Parent) -> Vec<String> {
        let index = self.index();
        let children = index.children.get(parent);
        children.into_iter().flatten().cloned().collect()
    }

    fn parent<K: Resource>(&self, object: &K) -> Option<Parent> {
        let namespace = object.namespace().unwrap_or_default();
        match owner::controller(object) {
            Some(owner) if owner.kind == self.kind => Some(Parent::Owner {
                namespace,
                name: owner.name.clone(),
                uid: owner.uid.clone(),
            }),
            None if self.orphans => Some(Parent::Orphans { namespace }),
            _ => None,
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parent {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Owner { name, .. } => Some(name),
            Self::Orphans { .. } => None,
        }
    }
}

fn name<K: Resource>(object: &K) -> Name {
    (object.namespace().unwrap_or_default(), object.name_any())
}

impl Index {
    /// Keeps an object under `parent` if it is `there`; names of the owners from before and now.
    fn put(&mut self, name: Name, parent: Option<Parent>, there: bool) -> BTreeSet<String> {
        let before = self.parents.remove(&name);
        if let Some(before) = &before {
            self.forget(before, &name.1);
        }
        let concerned = before.iter().chain(&parent).filter_map(Parent::name);
        let concerned = concerned.map(str::to_owned).collect();
        if let Some(parent) = parent.filter(|_| there) {
            let children = self.children.entry(parent.clone()).or_default();
            children.insert(name.1.clone());
            self.parents.insert(name, parent);
        }
        concerned
    }

    fn forget(&mut self, parent: &Parent, name: &str) {
        if let Some(children) = self.children.get_mut(parent) {
            children.remove(name);
            if children.is_empty() {
                self.children.remove(parent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, owner: Option<(&str, &str)>) -> Pod {
        let owners: Vec<_> = owner
            .into_iter()
            .map(|(kind, name)| {
                json!({ "apiVersion": "v1", "kind": kind, "name": name, "uid": format!("uid-{name}"),
                "controller": true })
            })
            .collect();
        let metadata = json!({ "name": name, "namespace": "default", "ownerReferences": owners });
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    #[test]
    fn children_follow_their_owner() {
        let children = Children::of_kind("Set").with_orphans();
        let of = |name: &str| children.of("default", name, &format!("uid-{name}"));
        let put = |pod: Pod, there| Vec::from_iter(children.put(&pod, there));
        assert_eq!(put(pod("a", Some(("Set", "one"))), true), ["one"]);
        put(pod("b", Some(("Set", "one"))), true);
        put(pod("c", Some(("Other", "one"))), true);
        assert!(put(pod("d", None), true).is_empty());
        assert_eq!(of("one"), ["a", "b"]);
        assert_eq!(children.orphans("default"), ["d"]);
        assert_eq!(
            put(pod("a", Some(("Set", "two"))), true),
            ["one", "two"],
            "both look"
        );
        assert_eq!((of("one"), of("two")), (vec!["b".into()], vec!["a".into()]));
        assert_eq!(put(pod("b", None), true), ["one"], "released");
        assert_eq!(children.orphans("default"), ["b", "d"]);
        assert_eq!(put(pod("a", Some(("Set", "two"))), false), ["two"]);
        assert!(of("two").is_empty(), "gone");
        let namesake = children.of("default", "one", "another");
        assert!(namesake.is_empty(), "an owner of the same name");
    }

    #[test]
    fn nobodys_objects_are_kept_only_where_they_matter() {
        let children = Children::of_kind("Set");
        children.put(&pod("a", None), true);
        assert!(children.orphans("default").is_empty());
    }
}
