//! `objectgraph`: the objects that a machine or an instance refers to, as a tree.
//!
//! A pure function of what was read: whether the objects are there is not asked.

use serde_json::{Value, json};

use super::options::Graph;

/// Label of each node: what it is to the machine; KubeVirt's name.
const LABEL: &str = "kubevirt.io/dependency-type";

/// A kind of object that can stand in it: group, kind, what it is to the machine.
#[derive(Clone, Copy)]
struct Kind(&'static str, &'static str, &'static str);

const MACHINE: Kind = Kind("kubevirt.io", "VirtualMachine", "compute");
const INSTANCE: Kind = Kind("kubevirt.io", "VirtualMachineInstance", "compute");
const POD: Kind = Kind("", "Pod", "compute");
const CLAIM: Kind = Kind("", "PersistentVolumeClaim", "storage");
const DATA_VOLUME: Kind = Kind("cdi.kubevirt.io", "DataVolume", "storage");
const CONFIG_MAP: Kind = Kind("", "ConfigMap", "config");
const SECRET: Kind = Kind("", "Secret", "config");
const SERVICE_ACCOUNT: Kind = Kind("", "ServiceAccount", "network");
const NETWORK: Kind = Kind("k8s.cni.cncf.io", "NetworkAttachmentDefinition", "network");
const REVISION: Kind = Kind("apps", "ControllerRevision", "config");

/// The kinds of instance types and preferences by the words that refer to them.
const TYPES: [Kind; 4] = [
    Kind(
        "instancetype.kubevirt.io",
        "VirtualMachineInstancetype",
        "config",
    ),
    Kind(
        "instancetype.kubevirt.io",
        "VirtualMachineClusterInstancetype",
        "config",
    ),
    Kind(
        "instancetype.kubevirt.io",
        "VirtualMachinePreference",
        "config",
    ),
    Kind(
        "instancetype.kubevirt.io",
        "VirtualMachineClusterPreference",
        "config",
    ),
];

/// Where a graph begins.
pub(super) struct Root<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// The machine's whole spec, if it begins with a machine.
    pub(super) machine: Option<&'a Value>,
    /// The instance's spec, or that of the machine's template.
    pub(super) spec: &'a Value,
    /// Whether there is an instance.
    pub(super) has_instance: bool,
    /// The instance's pod.
    pub(super) pod: Option<&'a str>,
}

/// The graph, as `options` want it.
pub(super) fn graph(root: &Root<'_>, options: &Graph) -> Value {
    let mut children = Vec::new();
    let pod = root.pod.map(|pod| root.node(POD, pod));
    match root.machine {
        Some(machine) => {
            if root.has_instance {
                let mut instance = root.node(INSTANCE, root.name);
                with(&mut instance, pod.into_iter().collect());
                children.push(instance);
            }
            children.extend(types(root, machine));
        }
        None => children.extend(pod),
    }
    children.extend(credentials(root));
    children.extend(volumes(root));
    children.extend(networks(root));
    let kind = match root.machine {
        Some(_) => MACHINE,
        None => INSTANCE,
    };
    let mut node = root.node(kind, root.name);
    with(&mut node, wanted(children, options));
    node
}

impl Root<'_> {
    fn node(&self, kind: Kind, name: &str) -> Value {
        let Kind(group, kind, is) = kind;
        json!({
            "objectReference": {
                "apiGroup": group, "kind": kind, "name": name, "namespace": self.namespace,
            },
            "labels": { LABEL: is },
        })
    }

    fn optional(&self, kind: Kind, name: &str) -> Value {
        let mut node = self.node(kind, name);
        node["optional"] = json!(true);
        node
    }
}

fn with(node: &mut Value, children: Vec<Value>) {
    if !children.is_empty() {
        node["children"] = children.into();
    }
}

/// Those of `nodes` that `options` want, with those of their children.
fn wanted(nodes: Vec<Value>, options: &Graph) -> Vec<Value> {
    let is_wanted = |node: &Value| {
        let left_out = options.include_optional_nodes == Some(false) && node["optional"] == true;
        let labels = options.label_selector.iter();
        let mut labels = labels.flat_map(|selector| &selector.match_labels);
        !left_out && labels.all(|(key, value)| node["labels"][key] == json!(value))
    };
    let nodes = nodes.into_iter().filter(is_wanted);
    nodes
        .map(|mut node| {
            if let Value::Array(children) = node["children"].take() {
                with(&mut node, wanted(children, options));
            }
            if let Value::Object(fields) = &mut node {
                fields.retain(|_, field| !field.is_null());
            }
            node
        })
        .collect()
}

fn list<'a>(spec: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    spec[field].as_array().into_iter().flatten()
}

fn types(root: &Root<'_>, machine: &Value) -> Vec<Value> {
    let mut nodes = Vec::new();
    for (field, default) in [("instancetype", TYPES[1]), ("preference", TYPES[3])] {
        let matcher = &machine[field];
        let Some(name) = matcher["name"].as_str() else {
            continue;
        };
        let word = matcher["kind"].as_str().unwrap_or_default();
        let named = |Kind(_, kind, _): &&Kind| kind.eq_ignore_ascii_case(word);
        let kind = TYPES.iter().find(named).copied().unwrap_or(default);
        let mut node = root.optional(kind, name);
        if kind.1.contains("Cluster") {
            node["objectReference"]["namespace"] = json!("");
        }
        nodes.push(node);
        if let Some(revision) = matcher["revisionName"].as_str() {
            nodes.push(root.node(REVISION, revision));
        }
    }
    nodes
}

fn credentials(root: &Root<'_>) -> Vec<Value> {
    let all = list(root.spec, "accessCredentials");
    all.flat_map(|credential| ["sshPublicKey", "userPassword"].map(|kind| &credential[kind]))
        .filter_map(|credential| credential["source"]["secret"]["secretName"].as_str())
        .map(|name| root.node(SECRET, name))
        .collect()
}

fn volumes(root: &Root<'_>) -> Vec<Value> {
    /// Sources by their field, with the field in them that holds a name.
    const SOURCES: [(&str, &str, Kind); 12] = [
        ("persistentVolumeClaim", "/claimName", CLAIM),
        ("ephemeral", "/persistentVolumeClaim/claimName", CLAIM),
        ("memoryDump", "/claimName", CLAIM),
        ("configMap", "/name", CONFIG_MAP),
        ("sysprep", "/configMap/name", CONFIG_MAP),
        ("sysprep", "/secret/name", SECRET),
        ("secret", "/secretName", SECRET),
        ("serviceAccount", "/serviceAccountName", SERVICE_ACCOUNT),
        ("cloudInitNoCloud", "/secretRef/name", SECRET),
        ("cloudInitNoCloud", "/networkDataSecretRef/name", SECRET),
        ("cloudInitConfigDrive", "/secretRef/name", SECRET),
        ("cloudInitConfigDrive", "/networkDataSecretRef/name", SECRET),
    ];
    let mut nodes = Vec::new();
    for volume in list(root.spec, "volumes") {
        if let Some(name) = volume["dataVolume"]["name"].as_str() {
            let mut node = root.node(DATA_VOLUME, name);
            with(&mut node, vec![root.node(CLAIM, name)]);
            nodes.push(node);
        }
        for (source, field, kind) in SOURCES {
            if let Some(name) = volume[source].pointer(field).and_then(Value::as_str) {
                nodes.push(root.node(kind, name));
            }
        }
    }
    nodes
}

fn networks(root: &Root<'_>) -> Vec<Value> {
    let names =
        list(root.spec, "networks").filter_map(|network| network["multus"]["networkName"].as_str());
    names
        .map(|name| match name.split_once('/') {
            Some((namespace, name)) => {
                let mut node = root.node(NETWORK, name);
                node["objectReference"]["namespace"] = json!(namespace);
                node
            }
            None => root.node(NETWORK, name),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(node: &Value) -> Vec<String> {
        let children = node["children"].as_array().into_iter().flatten();
        let mut all = Vec::new();
        for child in children {
            let reference = &child["objectReference"];
            let word = |field: &str| reference[field].as_str().unwrap_or_default().to_owned();
            all.push(format!("{} {}", word("kind"), word("name")));
            all.extend(names(child).into_iter().map(|name| format!("  {name}")));
        }
        all
    }

    fn of(options: Graph) -> Vec<String> {
        let machine = json!({ "preference": { "name": "fedora" } });
        let spec = json!({
            "accessCredentials": [{ "sshPublicKey": { "source": { "secret": { "secretName": "key" } } } }],
            "networks": [{ "name": "n", "multus": { "networkName": "other/lan" } }],
            "volumes": [
                { "name": "a", "dataVolume": { "name": "disk" } },
                { "name": "b", "cloudInitNoCloud": { "secretRef": { "name": "user" } } },
                { "name": "c", "containerDisk": { "image": "i" } },
                { "name": "d", "configMap": { "name": "map" } },
            ],
        });
        let root = Root {
            namespace: "n",
            name: "tl",
            machine: Some(&machine),
            spec: &spec,
            has_instance: true,
            pod: Some("virt-launcher-tl-x"),
        };
        names(&graph(&root, &options))
    }

    #[test]
    fn what_a_machine_refers_to_is_in_its_graph() {
        let expected = [
            "VirtualMachineInstance tl",
            "  Pod virt-launcher-tl-x",
            "VirtualMachineClusterPreference fedora",
            "Secret key",
            "DataVolume disk",
            "  PersistentVolumeClaim disk",
            "Secret user",
            "ConfigMap map",
            "NetworkAttachmentDefinition lan",
        ];
        assert_eq!(of(Graph::default()), expected);
    }

    #[test]
    fn a_graph_can_be_narrowed() {
        let mut options = Graph::default();
        options.include_optional_nodes = Some(false);
        assert!(!of(options).iter().any(|name| name.contains("Preference")));
        let body =
            br#"{"labelSelector":{"matchLabels":{"kubevirt.io/dependency-type":"storage"}}}"#;
        let options: Graph = super::super::options::read(body).unwrap();
        assert_eq!(
            of(options),
            ["DataVolume disk", "  PersistentVolumeClaim disk"]
        );
    }
}
