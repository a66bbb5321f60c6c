//! Rules of the node about a pod's traffic hold for the guest as for any container.
//!
//! This is what an engine of NetworkPolicies relies on, but no engine itself: none can be had here.
//! The cases put into the node's own network the rules that an engine would make of a policy, and
//! compare machines with an ordinary pod.

use std::collections::BTreeSet;

use serde_json::json;
use tests::{Addresses, Manifest, Node, SOON, TestNamespace, eventually, image, on_both_nodes};

on_both_nodes!(nothing_gets_past_the_nodes_rules);

/// The pods whose traffic is ruled: an ordinary one, and a machine of each binding.
const SUBJECTS: [&str; 3] = ["plain", "masquerade", "bridge"];

const SERVER: &str = "hostname > /tmp/index.html; exec httpd -f -p 80 -h /tmp";

fn machine(binding: &str, node: Node) -> Manifest {
    let spec = json!({
        "domain": { "devices": { "interfaces": [{ "name": "default", binding: {} }] } },
        "networks": [{ "name": "default", "pod": {} }],
    });
    Manifest::machine_pod(binding, image::TINY, node).with(
        "/metadata/annotations",
        json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
    )
}

/// A table of nftables on a node; gone with the value.
struct Rules {
    node: Node,
    table: String,
}

impl Rules {
    /// Puts `rules` where the node forwards, which is where packets from and to its pods pass, also
    /// those between two of them.
    #[track_caller]
    fn new(namespace: &TestNamespace, node: Node, rules: &[String]) -> Self {
        let table = format!("inet {}", namespace.name());
        let rules = rules.join("\n");
        let this = Self { node, table };
        let script = format!(
            "nft -f - <<'END'\ntable {} {{ chain forward {{\n\
             type filter hook forward priority filter; policy accept;\n\
             ct state established accept\nicmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept\n\
             {rules}\n}}\n}}\nEND",
            this.table
        );
        node.shell(&script).expect_success();
        this
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        let (node, delete) = (self.node, format!("nft delete table {}", self.table));
        let _ = std::panic::catch_unwind(|| node.shell(&delete));
    }
}

/// A drop of everything from or to `pod` (`direction` is the pod's side: saddr or daddr), but for
/// `other` at the other side.
fn only(pod: &Addresses, direction: &str, other: &Addresses) -> [String; 2] {
    let opposite = if direction == "saddr" {
        "daddr"
    } else {
        "saddr"
    };
    [("ip", &pod.v4, &other.v4), ("ip6", &pod.v6, &other.v6)].map(|(family, pod, other)| {
        format!("{family} {direction} {pod} {family} {opposite} != {other} drop")
    })
}

fn nothing_gets_past_the_nodes_rules(node: Node) {
    let namespace = TestNamespace::new("policy");
    namespace.apply(&Manifest::shell_pod("plain", SERVER, node));
    for binding in ["masquerade", "bridge"] {
        namespace.apply(&machine(binding, node));
    }
    // One who may, and those who may not: one on the other node, one on the same.
    namespace.apply(&Manifest::shell_pod("friend", SERVER, node.other()));
    namespace.apply(&Manifest::shell_pod("far", SERVER, node.other()));
    namespace.apply(&Manifest::shell_pod("near", SERVER, node));
    for binding in ["masquerade", "bridge"] {
        namespace.wait_for_log(binding, "machine", image::TINY_READY);
    }
    let addresses = |name| namespace.addresses(name);
    let subjects = SUBJECTS.map(addresses);
    let [friend, far, near] = ["friend", "far", "near"].map(addresses);
    let hosts = |of: &[&Addresses]| -> Vec<String> {
        of.iter()
            .flat_map(|pod| [pod.v4.clone(), pod.v6.clone()])
            .collect()
    };
    let set = |hosts: Vec<String>| hosts.into_iter().collect::<BTreeSet<_>>();
    let reached = |client: &str, hosts: &[String]| {
        namespace.reached(
            client,
            &hosts.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    };
    // A guest in emulation may be late; who is reached and must not be is so at every look.
    let become_reached = |client: &str, hosts: &[String], wanted: &BTreeSet<String>| {
        eventually(SOON, || match reached(client, hosts) {
            seen if seen == *wanted => Ok(()),
            seen => Err(format!("{client} reaches {seen:?}, not {wanted:?}")),
        });
    };

    // Without rules everybody reaches everybody; a guest on its bridge has IPv4 alone.
    let servers = hosts(&subjects.each_ref());
    let mut all = set(servers.clone());
    all.remove(&subjects[2].v6);
    let others = hosts(&[&friend, &far, &near]);
    for client in ["friend", "far", "near"] {
        become_reached(client, &servers, &all);
    }
    let beyond = |subject: &str, others: &[String]| {
        let v4 = |host: &&String| subject != "bridge" || !host.contains(':');
        set(others.iter().filter(v4).cloned().collect())
    };
    for subject in SUBJECTS {
        become_reached(subject, &others, &beyond(subject, &others));
    }

    // Inwards.
    let rules = subjects.iter().flat_map(|pod| only(pod, "daddr", &friend));
    let inwards = Rules::new(&namespace, node, &rules.collect::<Vec<_>>());
    become_reached("friend", &servers, &all);
    for client in ["far", "near"] {
        assert_eq!(reached(client, &servers), BTreeSet::new(), "{client}");
    }
    for subject in SUBJECTS {
        become_reached(subject, &others, &beyond(subject, &others));
    }
    drop(inwards);

    // Outwards.
    let rules = subjects.iter().flat_map(|pod| only(pod, "saddr", &friend));
    let _outwards = Rules::new(&namespace, node, &rules.collect::<Vec<_>>());
    for subject in SUBJECTS {
        let friends = beyond(subject, &hosts(&[&friend]));
        become_reached(subject, &others, &friends);
    }
    for client in ["friend", "far", "near"] {
        become_reached(client, &servers, &all);
    }
}
