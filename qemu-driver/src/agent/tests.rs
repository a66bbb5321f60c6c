//! Agents that answer, lie, flood, and are silent.

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::port::Port;
use super::*;

const SHORT: Duration = Duration::from_millis(300);

/// An agent and the guest's side of its port.
fn pair() -> (Agent, tokio::net::UnixStream) {
    let (host, guest) = UnixStream::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    (
        Agent::new(host, SHORT).unwrap(),
        tokio::net::UnixStream::from_std(guest).unwrap(),
    )
}

/// Behaves like qemu-ga, answering each command by `answer`; None is no answer.
async fn serve(guest: tokio::net::UnixStream, answer: impl Fn(&str, &Value) -> Option<Value>) {
    let mut port = Port::new(guest);
    while let Some((command, arguments)) = port.next().await {
        if let Some(answer) = answer(&command, &arguments) {
            port.say(&answer).await;
        }
    }
}

#[tokio::test]
async fn an_agent_answers() {
    let (agent, guest) = pair();
    tokio::spawn(serve(guest, |command, _| match command {
        "guest-ping" => Some(json!({"return": {}})),
        "guest-info" => Some(
            json!({"return": {"version": "7.2\u{1b}[0m", "supported_commands": [
                {"name": "guest-ping", "enabled": true, "success-response": true},
                {"name": "guest-exec", "enabled": false, "success-response": true},
            ]}}),
        ),
        "guest-network-get-interfaces" => Some(json!({"return": [
            {"name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": [
                {"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}]},
            {"name": "eth0", "hardware-address": "52:54:00:12:34:56", "ip-addresses": [
                {"ip-address": "10.0.2.2", "ip-address-type": "ipv4", "prefix": 24},
                {"ip-address": "not an address", "ip-address-type": "ipv4", "prefix": 24},
                {"ip-address": "10.0.2.3", "ip-address-type": "ipv4", "prefix": 33},
                {"ip-address": "fd00::1", "ip-address-type": "ipv6", "prefix": 64}],
             "statistics": {"rx-bytes": 1}},
            {"name": "down0"},
        ]})),
        "guest-shutdown" => None,
        _ => Some(json!({"error": {"class": "CommandNotFound", "desc": "not allowed\u{7}"}})),
    }));
    agent.ping().await.unwrap();
    let info = agent.info().await.unwrap();
    assert_eq!(
        (info.version.as_str(), info.commands),
        ("7.2[0m", vec!["guest-ping".to_owned()])
    );
    let interfaces = agent.interfaces().await.unwrap();
    assert_eq!(interfaces.len(), 3);
    assert_eq!((&*interfaces[0].name, interfaces[0].mac), ("lo", None));
    assert_eq!(
        interfaces[1].mac,
        Some("52:54:00:12:34:56".parse().unwrap())
    );
    let addresses: Vec<_> = interfaces[1]
        .addresses
        .iter()
        .map(|a| (a.address, a.prefix))
        .collect();
    assert_eq!(
        addresses,
        [
            ("10.0.2.2".parse().unwrap(), 24),
            ("fd00::1".parse().unwrap(), 64)
        ]
    );
    let refused = agent.execute(&qga::guest_get_time {}).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the guest agent refused guest-get-time: not allowed"
    );
    agent.shutdown(GuestShutdownMode::Powerdown).await.unwrap();
    agent.ping().await.unwrap();
}

#[tokio::test]
async fn a_refused_shutdown_is_told() {
    let (agent, guest) = pair();
    tokio::spawn(serve(guest, |_, arguments| {
        assert_eq!(arguments["mode"], "reboot");
        Some(json!({"error": {"class": "GenericError", "desc": "no"}}))
    }));
    let error = agent.shutdown(GuestShutdownMode::Reboot).await.unwrap_err();
    assert!(matches!(error, AgentError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn a_silent_guest_gets_one_question_and_no_command() {
    let (agent, mut guest) = pair();
    for _ in 0..3 {
        let error = agent.shutdown(GuestShutdownMode::Powerdown).await;
        assert!(matches!(error, Err(AgentError::Silent { .. })));
    }
    let mut asked = vec![0; 10_000];
    let read = guest.read(&mut asked).await.unwrap();
    let asked = String::from_utf8_lossy(&asked[..read]);
    assert_eq!(asked.matches("guest-sync-delimited").count(), 1, "{asked}");
    assert!(!asked.contains("guest-shutdown"), "{asked}");
    // The agent starts, finds the question, and all goes on.
    guest.write_all(b"\xff{\"return\": 1}\n").await.unwrap();
    tokio::spawn(serve(guest, |_, _| Some(json!({"return": {}}))));
    agent.ping().await.unwrap();
}

#[tokio::test]
async fn a_late_answer_is_nobodys() {
    let (agent, mut guest) = pair();
    let late = b"{\"return\": {\"version\": \"late\"}}\n\xff{\"return\": 77}\nrubbish\n\xff\n";
    guest.write_all(late).await.unwrap();
    tokio::spawn(serve(guest, |_, _| {
        Some(json!({"return": {"version": "9", "supported_commands": []}}))
    }));
    assert_eq!(agent.info().await.unwrap().version, "9");
}

#[tokio::test]
async fn a_flood_is_bounded_and_can_end() {
    let (agent, mut guest) = pair();
    let flood = tokio::spawn(async move {
        let chunk = vec![b'x'; 1 << 16];
        for _ in 0..40 {
            guest.write_all(&chunk).await.unwrap();
        }
        guest.write_all(b"\n").await.unwrap();
        guest
    });
    assert!(matches!(agent.ping().await, Err(AgentError::Flood(_))));
    let error = loop {
        match agent.ping().await {
            Err(AgentError::Flood(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(error, Err(AgentError::Silent { .. })));
    let guest = flood.await.unwrap();
    tokio::spawn(serve(guest, |_, _| Some(json!({"return": {}}))));
    agent.ping().await.unwrap();
}

#[tokio::test]
async fn rubbish_and_the_end_are_told() {
    let (agent, guest) = pair();
    tokio::spawn(serve(guest, |_, _| Some(json!({"return": [1, 2, 3]}))));
    assert!(matches!(agent.info().await, Err(AgentError::Answer { .. })));
    let (agent, guest) = pair();
    drop(guest);
    assert!(matches!(agent.ping().await, Err(AgentError::Closed)));
}

#[tokio::test]
async fn vcpus_go_online_and_offline_as_far_as_that_is_wanted() {
    let vcpu = |id: u32, online: bool, can_offline: bool| json!({"logical-id": id, "online": online, "can-offline": can_offline});
    for (wanted, ids, online) in [
        (3, vec![], true),
        (4, vec![2], true),
        (9, vec![2, 4], true),
        (2, vec![3], false),
        (0, vec![3, 1], false),
    ] {
        let (agent, guest) = pair();
        let left = usize::from(online) * ids.len() + 3 - usize::from(!online) * ids.len();
        tokio::spawn(serve(guest, move |command, arguments| match command {
            "guest-get-vcpus" => Some(json!({"return": [
                vcpu(0, true, false), vcpu(1, true, true), vcpu(2, false, true),
                vcpu(3, true, true), vcpu(4, false, true),
            ]})),
            "guest-set-vcpus" => {
                let set = arguments["vcpus"].as_array().unwrap();
                let asked: Vec<_> = set.iter().map(|vcpu| &vcpu["logical-id"]).collect();
                assert_eq!(asked, ids);
                assert!(set.iter().all(|vcpu| vcpu["online"] == online));
                Some(json!({"return": set.len()}))
            }
            _ => None,
        }));
        assert_eq!(agent.set_online_vcpus(wanted).await.unwrap(), left);
    }
}

#[tokio::test]
async fn memory_is_accepted_unless_the_guest_decides_for_itself() {
    use std::sync::{Arc, Mutex};
    // "offline\n" and "online_kernel\n", and then what is written for them: "online_movable".
    for (policy, written) in [
        ("b2ZmbGluZQo=", vec!["b25saW5lX21vdmFibGU="]),
        ("b25saW5lX2tlcm5lbAo=", vec![]),
    ] {
        let (agent, guest) = pair();
        let seen = Arc::new(Mutex::new((Vec::new(), 0)));
        let seen_by_guest = Arc::clone(&seen);
        tokio::spawn(serve(guest, move |command, arguments| {
            let mut seen = seen_by_guest.lock().unwrap();
            Some(match command {
                "guest-file-open" => {
                    seen.1 += 1;
                    json!({"return": 7})
                }
                "guest-file-read" => {
                    json!({"return": {"count": 8, "buf-b64": policy, "eof": true}})
                }
                "guest-file-write" => {
                    let text = arguments["buf-b64"].as_str().unwrap();
                    seen.0.push(text.to_owned());
                    json!({"return": {"count": 14, "eof": false}})
                }
                "guest-file-close" => {
                    seen.1 -= 1;
                    json!({"return": {}})
                }
                _ => return None,
            })
        }));
        agent.accept_memory().await.unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!(
            (seen.0.clone(), seen.1),
            (written.into_iter().map(str::to_owned).collect(), 0)
        );
    }
}

/// JSON that has a form which the agent could answer with, or another.
fn lie() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        ".{0,80}",
        "[\n\0\u{1b}x]{0,80}",
        (0..400_usize).prop_map(|length| "\u{7}y".repeat(length)),
        Just("10.0.2.2".to_owned()),
        Just("52:54:00:12:34:56".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.prop_map(Value::from),
    ];
    let keys = prop::sample::select(
        &[
            "version",
            "supported_commands",
            "name",
            "enabled",
            "host-name",
            "id",
            "pretty-name",
            "hardware-address",
            "ip-addresses",
            "ip-address",
            "prefix",
            "pid",
            "exited",
            "exitcode",
        ][..],
    );
    leaf.prop_recursive(3, 8, 4, move |inner| {
        prop_oneof![
            prop::collection::hash_map(keys.clone(), inner.clone(), 0..6).prop_map(|map| {
                map.into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect::<Value>()
            }),
            prop::collection::vec(inner, 0..6).prop_map(Value::from),
        ]
    })
}

/// Answers of the form that is expected, with what does not belong there in one of the places.
fn answer() -> impl Strategy<Value = Value> {
    (lie(), lie(), 0..900_usize, 0..7).prop_map(|(a, b, times, form)| match form {
        0 => {
            let commands = vec![json!({"name": a, "enabled": true}); times];
            json!({"version": "7.2", "supported_commands": commands})
        }
        1 => json!({"version": a, "supported_commands": []}),
        2 => {
            let addresses = vec![json!({"ip-address": "10.0.2.2", "prefix": b}); times];
            json!([{"name": a, "hardware-address": b, "ip-addresses": addresses}])
        }
        3 => json!(vec![json!({ "name": a }); times]),
        4 => json!({ "host-name": a }),
        5 => json!({"id": a, "pretty-name": b}),
        _ => a,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn whatever_the_guest_answers_is_bounded_and_printable(answer in answer(), refuse: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let said = runtime.block_on(async move {
            let (agent, guest) = pair();
            let answer = match refuse {
                false => json!({ "return": answer }),
                true => json!({ "error": { "class": "X", "desc": answer } }),
            };
            tokio::spawn(serve(guest, move |_, _| Some(answer.clone())));
            let mut said = Vec::new();
            match agent.info().await {
                Ok(info) => {
                    assert!(info.commands.len() <= 512);
                    said.push(info.version);
                    said.extend(info.commands);
                }
                Err(error) => said.push(error.to_string()),
            }
            match agent.interfaces().await {
                Ok(interfaces) => {
                    assert!(interfaces.len() <= 64);
                    for interface in interfaces {
                        assert!(interface.addresses.len() <= 64);
                        assert!(interface.addresses.iter().all(|it| it.prefix <= 128));
                        said.push(interface.name);
                    }
                }
                Err(error) => said.push(error.to_string()),
            }
            match agent.os().await {
                Ok(os) => said.extend([os.id, os.pretty_name]),
                Err(error) => said.push(error.to_string()),
            }
            said.push(agent.hostname().await.unwrap_or_else(|error| error.to_string()));
            said
        });
        for text in said {
            prop_assert!(text.chars().count() <= 256, "{}", text);
            prop_assert!(!text.contains(char::is_control), "{:?}", text);
        }
    }

}

proptest! {
    #[test]
    fn no_line_of_the_guest_is_more_than_misunderstood(
        line in prop_oneof![
            any::<Vec<u8>>(),
            "[\n\0\u{1b}x]{0,300}"
                .prop_map(|desc| json!({ "error": { "desc": desc } }).to_string().into_bytes()),
            lie().prop_map(|pid| json!({ "return": { "pid": pid } }).to_string().into_bytes()),
        ]
    ) {
        if let Err(error) = conversation::parse::<qga::GuestExec>("guest-exec", &line) {
            let text = error.to_string();
            prop_assert!(text.chars().count() <= 256 && !text.contains(char::is_control));
        }
    }
}
