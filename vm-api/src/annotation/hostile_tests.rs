//! Annotations made to deceive, to flood, and at random.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::*;
use crate::contract::{VOLUMES_DIRECTORY, volume_path};
use crate::machine;
use crate::validate::MAXIMUM_VOLUMES;

/// The longest message: eight mistakes, each with its path, and what is said around them.
const MOST: usize = 8 * 2 * 512 + 512;

fn refused(json: &str) -> String {
    let error = read(json).unwrap_err().to_string();
    assert!(!error.contains(char::is_control), "{error:?}");
    assert!(error.chars().count() <= MOST, "{}", error.len());
    error
}

/// A spec with something of everything that works.
fn valid() -> Value {
    json!({
        "hostname": "a",
        "domain": {
            "cpu": { "cores": 2, "model": "host-model" },
            "memory": { "guest": "256Mi" },
            "machine": { "type": "q35" },
            "firmware": { "serial": "s1" },
            "resources": { "limits": { "memory": "300Mi", "cpu": 2 } },
            "devices": {
                "disks": [
                    { "name": "root", "disk": { "bus": "virtio" }, "bootOrder": 1, "serial": "D1" },
                    { "name": "data", "disk": { "bus": "scsi" }, "cache": "none" },
                ],
                "interfaces": [
                    { "name": "default", "masquerade": {}, "ports": [{ "name": "web", "port": 80 }] },
                ],
                "filesystems": [{ "name": "settings", "virtiofs": {} }],
                "gpus": [{ "name": "g", "deviceName": "x.com/gpu" }],
                "watchdog": { "name": "w", "i6300esb": { "action": "reset" } },
            },
        },
        "networks": [{ "name": "default", "pod": {} }],
        "volumes": [
            { "name": "root", "containerDisk": { "image": "x", "path": "/disk/a.img" } },
            { "name": "data", "persistentVolumeClaim": { "claimName": "c" } },
            { "name": "seed", "cloudInitNoCloud": { "userData": "x" } },
            { "name": "scratch", "emptyDisk": { "capacity": "1Gi" } },
            { "name": "settings", "configMap": { "name": "m" } },
        ],
    })
}

/// All places in `value`, as JSON pointers.
fn places(value: &Value, at: String, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                places(value, format!("{at}/{key}"), into);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                places(value, format!("{at}/{index}"), into);
            }
        }
        _ => {}
    }
    into.push(at);
}

/// Words that mean something to a shell, a path, QEMU, a log or JSON.
fn hostile() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "",
        ".",
        "..",
        "../..",
        "/",
        "/etc/shadow",
        "a,b",
        "a=b",
        "a,format=raw",
        "a\nb",
        "a\0b",
        "\u{1b}[2J",
        "a b",
        "-a",
        "'",
        "\"",
        "\\",
        "$(x)",
        "ä",
        "\u{202e}x",
        "fd:3",
        "json:{}",
        "-1",
        "1e99",
        "99999999999999999999",
        "0x10",
        "1Ei",
        "null",
    ];
    prop_oneof![
        prop::sample::select(KNOWN).prop_map(str::to_owned),
        "\\PC{0,80}",
        any::<String>(),
        (200_usize..20_000).prop_map(|length| "x".repeat(length)),
    ]
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        hostile().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(hostile(), inner, 0..4)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// What holds of every spec that is let through.
fn check_accepted(spec: &VirtualMachineInstanceSpec) {
    let again = parse(&serde_json::to_string(spec).unwrap()).unwrap();
    assert_eq!(&again, spec);
    let disks = machine::disks(spec).unwrap();
    assert!(disks.len() <= 2 * MAXIMUM_VOLUMES);
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    for name in disks.iter().map(|disk| disk.name) {
        assert!(name.bytes().all(plain), "{name:?}");
        let path = volume_path(name);
        let path = std::path::Path::new(&path);
        assert_eq!(path.parent(), Some(VOLUMES_DIRECTORY.as_ref()));
        assert_eq!(path.file_name(), Some(name.as_ref()));
    }
    for interface in machine::interfaces(spec).unwrap() {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        assert!(interface.name.bytes().all(plain), "{:?}", interface.name);
    }
    for filesystem in machine::filesystems(spec).unwrap() {
        assert!(filesystem.name.bytes().all(plain), "{:?}", filesystem.name);
    }
    if let Some(hostname) = &spec.hostname {
        assert!(hostname.bytes().all(plain), "{hostname:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_text_is_more_than_refused(text in any::<String>()) {
        if let Err(error) = read(&text) {
            prop_assert!(!error.to_string().contains(char::is_control));
        }
    }

    #[test]
    fn a_spec_with_something_else_in_it_is_whole_or_refused_on_one_line(
        changes in prop::collection::vec((any::<Index>(), anything()), 1..3)
    ) {
        let mut spec = valid();
        for (place, value) in changes {
            let mut all = Vec::new();
            places(&spec, String::new(), &mut all);
            if let Some(found) = spec.pointer_mut(&all[place.index(all.len())]) {
                *found = value;
            }
        }
        match read(&spec.to_string()) {
            Ok(spec) => check_accepted(&spec),
            Err(_) => drop(refused(&spec.to_string())),
        }
    }

    #[test]
    fn a_hostile_word_in_place_of_another_is_harmless_or_refused(
        place: Index, word in hostile()
    ) {
        let mut spec = valid();
        let mut all = Vec::new();
        places(&spec, String::new(), &mut all);
        all.retain(|it| spec.pointer(it).is_some_and(Value::is_string));
        *spec.pointer_mut(&all[place.index(all.len())]).unwrap() = word.into();
        match read(&spec.to_string()) {
            Ok(spec) => check_accepted(&spec),
            Err(_) => drop(refused(&spec.to_string())),
        }
    }

    #[test]
    fn a_spec_that_was_cut_or_bent_is_refused_on_one_line(
        cut in any::<Index>(), bent in any::<Index>(), c in any::<char>()
    ) {
        let text = valid().to_string();
        refused(&text[..cut.index(text.len())]);
        let mut bent_text: Vec<char> = text.chars().collect();
        let place = bent.index(bent_text.len());
        bent_text[place] = c;
        match read(&bent_text.iter().collect::<String>()) {
            Ok(spec) => check_accepted(&spec),
            Err(error) => prop_assert!(!error.to_string().contains(char::is_control)),
        }
    }
}

#[test]
fn the_spec_that_is_bent_is_itself_accepted() {
    check_accepted(&read(&valid().to_string()).unwrap());
}

#[test]
fn depth_does_not_matter() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = open.repeat(100_000 / open.len()) + "1" + &close.repeat(100_000 / open.len());
        for json in [
            deep.clone(),
            format!("{{\"unknown\":{deep}}}"),
            format!("{{\"domain\":{{\"devices\":{{\"disks\":{deep}}}}}}}"),
            format!("{{\"affinity\":{deep}}}"),
        ] {
            refused(&json);
        }
    }
    refused(&"[".repeat(MAXIMUM_BYTES));
}

#[test]
fn an_annotation_full_of_items_is_refused_at_once() {
    let fill = |item: &str, begin: &str, end: &str| {
        let items = (MAXIMUM_BYTES - begin.len() - end.len()) / (item.len() + 1);
        format!("{begin}{}{end}", vec![item; items].join(","))
    };
    for (json, words) in [
        (
            fill(r#"{"name":"a"}"#, r#"{"volumes":["#, "]}"),
            "volumes: there are more than 256",
        ),
        (
            fill(
                r#"{"name":"a"}"#,
                r#"{"domain":{"devices":{"disks":["#,
                "]}}}",
            ),
            "domain.devices.disks: there are more than 256",
        ),
        (
            fill("1", r#"{"volumes":["#, "]}"),
            "volumes[0]: invalid type",
        ),
        (fill(r#""x":1"#, "{", "}"), "no such field: x, x"),
        (
            fill("{}", r#"{"domain":{"devices":{"disks":["#, "]}}}"),
            "missing field `name`",
        ),
    ] {
        let begun = Instant::now();
        let error = refused(&json);
        assert!(error.contains(words), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{words}");
    }
    let million = format!("{{\"volumes\":[{}{{}}]}}", "{},".repeat(1_000_000));
    assert!(refused(&million).contains("at most"), "a million");
}

#[test]
fn a_name_cannot_hold_another_option_a_path_or_a_line() {
    for name in [
        "a,b",
        "a=b",
        "a\nb",
        "a\0b",
        "a/b",
        "..",
        "a b",
        "a\u{1b}[0m",
        "-a",
        "",
    ] {
        for (json, path) in [
            (
                json!({ "volumes": [{ "name": name, "emptyDisk": { "capacity": "1Mi" } }] }),
                "volumes[0].name",
            ),
            (
                json!({ "domain": { "devices": { "disks": [{ "name": name }] } } }),
                "domain.devices.disks[0].name",
            ),
            (
                json!({ "domain": { "devices": { "filesystems": [{ "name": name, "virtiofs": {} }] } } }),
                "domain.devices.filesystems[0].name",
            ),
            (
                json!({ "hostname": name, "domain": { "machine": { "type": "x" } } }),
                "domain.machine.type",
            ),
        ] {
            if name != "-a" || !path.contains("filesystems") {
                let error = refused(&json.to_string());
                assert!(error.contains(path), "{name:?}: {error}");
            }
        }
    }
    for machine_type in ["pc-q35-7.2,usb=on", "q35,accel=x", "q35\n", "q35\0"] {
        let json = json!({ "domain": { "machine": { "type": machine_type } } });
        assert!(refused(&json.to_string()).contains("domain.machine.type"));
    }
}

#[test]
fn what_is_quoted_is_short_and_on_one_line() {
    let long = format!("a\r\n{}", "x".repeat(200_000));
    for json in [
        json!({ "volumes": [{ "name": long }] }),
        json!({ &long: 1 }),
        json!({ "domain": { &long: 1 } }),
        json!({ "domain": { "resources": { "limits": { &long: "x" } } } }),
        json!({ "domain": { "resources": { "limits": { &long: [] } } } }),
        json!({ "domain": { "memory": { "guest": long } } }),
        json!({ "domain": { "firmware": { "uuid": long } } }),
        json!({ "domain": &long }),
        json!({ "dnsConfig": { "nameservers": [long] } }),
    ] {
        refused(&json.to_string());
    }
}
