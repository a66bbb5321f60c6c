//! Monitors that answer, lie, flood, and are silent.

use std::io::{Read, Seek};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::*;
use qapi::qmp;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::broadcast::error::RecvError;

use super::*;

const SHORT: Duration = Duration::from_millis(500);

fn greeting(major: i64) -> String {
    let version = json!({"qemu": {"major": major, "minor": 2, "micro": 1}, "package": ""});
    format!(
        "{}\r\n",
        json!({"QMP": {"version": version, "capabilities": ["oob"]}})
    )
}

/// A monitor that greets, and after that lets `answer` write what it wants for each command.
async fn monitor(
    answer: impl AsyncFn(&mut OwnedWriteHalf, &str, &Value) + 'static,
) -> Result<(Qmp, broadcast::Receiver<Event>), QmpError> {
    let (host, qemu) = UnixStream::pair().unwrap();
    qemu.set_nonblocking(true).unwrap();
    let qemu = tokio::net::UnixStream::from_std(qemu).unwrap();
    tokio::task::spawn_local(async move {
        let (read, mut write) = qemu.into_split();
        write.write_all(greeting(8).as_bytes()).await.unwrap();
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let request: Value = serde_json::from_str(&line).unwrap();
            answer(
                &mut write,
                request["execute"].as_str().unwrap(),
                &request["id"],
            )
            .await;
        }
    });
    Qmp::connect(host, SHORT).await
}

async fn write(write: &mut OwnedWriteHalf, value: Value) {
    // The other side may have given up.
    let _ = write.write_all(format!("{value}\r\n").as_bytes()).await;
}

async fn obey(to: &mut OwnedWriteHalf, id: &Value) {
    write(to, json!({"return": {}, "id": id})).await;
}

/// Runs `test` where tasks can be spawned that stay on one thread.
async fn local(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn answers_find_their_calls_between_events() {
    local(async {
        let (qmp, mut events) = monitor(async |to, command, id| {
            write(to, json!({"event": "RESUME", "timestamp": {}})).await;
            write(
                to,
                json!({"event": "NEWS_FROM_QEMU_99", "data": {"x": [1]}}),
            )
            .await;
            write(to, json!({"return": {}, "id": 77_777})).await;
            match command {
                "stop" => {
                    write(
                        to,
                        json!({"error": {"class": "GenericError", "desc": "no"}, "id": id}),
                    )
                    .await;
                }
                _ => obey(to, id).await,
            }
        })
        .await
        .unwrap();
        assert_eq!(qmp.version().to_string(), "8.2.1");
        qmp.cont().await.unwrap();
        assert_eq!(
            qmp.stop().await.unwrap_err().to_string(),
            "QEMU refused stop: no"
        );
        for _ in 0..3 {
            assert_eq!(events.recv().await.unwrap(), Event::Resumed);
        }
    })
    .await;
}

#[tokio::test]
async fn a_silent_monitor_is_not_awaited_for_ever() {
    let (host, _qemu) = UnixStream::pair().unwrap();
    let error = Qmp::connect(host, SHORT).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "QEMU did not answer greeting within 500ms"
    );
    local(async {
        let (qmp, _events) = monitor(async |to, command, id| {
            if command != "query-status" {
                obey(to, id).await;
            }
        })
        .await
        .unwrap();
        assert!(matches!(qmp.state().await, Err(QmpError::TimeOut { .. })));
        qmp.cont().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_monitor_may_come_late_and_is_bounded_then() {
    let (host, qemu) = UnixStream::pair().unwrap();
    let mut theirs = qemu.try_clone().unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(SHORT * 2);
        std::io::Write::write_all(&mut theirs, greeting(8).as_bytes()).unwrap();
        std::thread::sleep(SHORT * 2);
        std::io::Write::write_all(&mut theirs, b"{\"return\": {}, \"id\": 0}\n").unwrap();
    });
    let connected = Qmp::connect_within(host, SHORT * 20, SHORT).await;
    let (qmp, _events) = connected.unwrap();
    let error = qmp.cont().await.unwrap_err().to_string();
    assert_eq!(error, "QEMU did not answer cont within 500ms");
    drop(qemu);
}

#[tokio::test]
async fn a_monitor_that_does_not_read_is_not_awaited_for_ever() {
    let (host, qemu) = UnixStream::pair().unwrap();
    std::io::Write::write_all(&mut &qemu, greeting(8).as_bytes()).unwrap();
    std::io::Write::write_all(&mut &qemu, b"{\"return\": {}, \"id\": 0}\n").unwrap();
    let (qmp, _events) = Qmp::connect(host, SHORT).await.unwrap();
    let path = "x".repeat(1 << 20);
    let command = qmp::qom_get {
        path,
        property: String::new(),
    };
    assert!(matches!(
        qmp.execute(&command).await,
        Err(QmpError::TimeOut { .. })
    ));
    // Half of that line is sent: whatever came after it would be part of it.
    assert!(matches!(qmp.cont().await, Err(QmpError::Closed { .. })));
}

#[tokio::test]
async fn a_line_of_which_nothing_was_sent_does_no_harm() {
    let (host, qemu) = UnixStream::pair().unwrap();
    std::io::Write::write_all(&mut &qemu, greeting(8).as_bytes()).unwrap();
    std::io::Write::write_all(&mut &qemu, b"{\"return\": {}, \"id\": 0}\n").unwrap();
    let full = host.try_clone().unwrap();
    let (qmp, _events) = Qmp::connect(host, SHORT).await.unwrap();
    while std::io::Write::write(&mut &full, &[b'\n'; 4096]).is_ok() {}
    while std::io::Write::write(&mut &full, b"\n").is_ok() {}
    assert!(matches!(qmp.cont().await, Err(QmpError::TimeOut { .. })));
    let descriptor = std::fs::File::open("/dev/null").unwrap().into();
    let viewer = qmp.add_viewer("v", descriptor).await;
    assert!(matches!(viewer, Err(QmpError::TimeOut { .. })));
    // The monitor reads again: it was busy, no more.
    qemu.set_nonblocking(true).unwrap();
    let mut rest = Vec::new();
    assert!((&qemu).read_to_end(&mut rest).is_err());
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.contains("qmp_capabilities") && !rest.contains("cont"));
    assert!(!rest.contains("getfd"));
    qemu.set_nonblocking(false).unwrap();
    std::thread::spawn(move || {
        let mut line = String::new();
        let mut lines = std::io::BufReader::new(&qemu);
        std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
        let request: Value = serde_json::from_str(&line).unwrap();
        let answer = format!("{}\n", json!({"return": {}, "id": request["id"]}));
        std::io::Write::write_all(&mut &qemu, answer.as_bytes()).unwrap();
    });
    qmp.cont().await.unwrap();
}

#[tokio::test]
async fn a_picture_that_nobody_waits_for_leaves_nothing() {
    local(async {
        let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
        let (qmp, _events) = monitor(async move |to, command, id| {
            say.send(command.to_owned()).unwrap();
            match command {
                "add-fd" => write(to, json!({"return": {"fdset-id": 7, "fd": 1}, "id": id})).await,
                _ => obey(to, id).await,
            }
        })
        .await
        .unwrap();
        assert_eq!(said.recv().await.unwrap(), "qmp_capabilities");
        let given_up = tokio::task::spawn_local({
            let qmp = qmp.clone();
            async move { qmp.screenshot().await.map(drop) }
        });
        assert_eq!(said.recv().await.unwrap(), "add-fd");
        given_up.abort();
        assert_eq!(said.recv().await.unwrap(), "screendump");
        assert_eq!(said.recv().await.unwrap(), "remove-fd");
    })
    .await;
}

#[tokio::test]
async fn rubbish_does_not_fill_the_log() {
    let mut log = tempfile::tempfile().unwrap();
    let warnings = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(log.try_clone().unwrap());
    let _guard = tracing::subscriber::set_default(warnings.finish());
    // Where there is but one subscriber, whether a warning is heard is decided by the thread that
    // makes it first, which may be another test's.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let (host, qemu) = UnixStream::pair().unwrap();
    let mut said = greeting(8);
    said.push_str("{\"return\": {}, \"id\": 0}\n");
    said.push_str(&"rubbish\n".repeat(1000));
    std::io::Write::write_all(&mut &qemu, said.as_bytes()).unwrap();
    let (qmp, _events) = Qmp::connect(host, SHORT).await.unwrap();
    drop(qemu);
    qmp.ended().await;
    let mut lines = String::new();
    log.rewind().unwrap();
    log.read_to_string(&mut lines).unwrap();
    assert_eq!(lines.lines().count(), 100);
}

#[tokio::test]
async fn an_old_qemu_is_refused() {
    let (host, qemu) = UnixStream::pair().unwrap();
    std::io::Write::write_all(&mut &qemu, greeting(6).as_bytes()).unwrap();
    let error = Qmp::connect(host, SHORT).await.unwrap_err();
    assert!(
        error.to_string().starts_with("QEMU 6.2.1 is too old"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_no_monitor_is_told() {
    for greeting in ["hello\n", "{}\n", "{\"QMP\": {\"version\": 7}}\n"] {
        let (host, qemu) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut &qemu, greeting.as_bytes()).unwrap();
        let error = Qmp::connect(host, SHORT).await.unwrap_err();
        assert!(
            matches!(error, QmpError::Answer { .. }),
            "{greeting}: {error}"
        );
    }
    let (host, qemu) = UnixStream::pair().unwrap();
    drop(qemu);
    let error = Qmp::connect(host, SHORT).await.unwrap_err();
    assert_eq!(error.to_string(), "QEMU ended before it answered greeting");
}

#[tokio::test]
async fn rubbish_and_floods_are_bounded() {
    local(async {
        let (qmp, mut events) = monitor(async |to, command, id| {
            if command == "stop" {
                for _ in 0..1000 {
                    write(to, json!({"event": "STOP"})).await;
                }
            }
            to.write_all(b"\xff\xfe rubbish\n[[[[\n{\"return\"\n\n")
                .await
                .unwrap();
            obey(to, id).await;
        })
        .await
        .unwrap();
        qmp.stop().await.unwrap();
        assert!(matches!(events.recv().await, Err(RecvError::Lagged(_))));
        assert_eq!(events.recv().await.unwrap(), Event::Stopped);
    })
    .await;
    local(async {
        let (qmp, mut events) = monitor(async |to, command, id| {
            if command == "stop" {
                while to.write_all(&[b'x'; 4096]).await.is_ok() {}
            }
            obey(to, id).await;
        })
        .await
        .unwrap();
        assert!(matches!(qmp.stop().await, Err(QmpError::Closed { .. })));
        assert!(matches!(events.recv().await, Err(RecvError::Closed)));
        assert_eq!(qmp.ended().await, Ending::default());
        assert!(matches!(qmp.events().recv().await, Err(RecvError::Closed)));
    })
    .await;
}

#[tokio::test]
async fn the_reason_of_the_end_outlives_a_flood_of_events() {
    local(async {
        let (qmp, _events) = monitor(async |to, command, id| {
            obey(to, id).await;
            if command == "quit" {
                let data = json!({"guest": true, "reason": "guest-shutdown"});
                write(to, json!({"event": "SHUTDOWN", "data": data})).await;
                for _ in 0..1000 {
                    write(to, json!({"event": "STOP"})).await;
                }
                to.shutdown().await.unwrap();
            }
        })
        .await
        .unwrap();
        qmp.quit().await.unwrap();
        assert!(qmp.ended().await.powered_off());
    })
    .await;
}

/// Lines that a broken QEMU could send: bytes, messages with what does not belong in them, depth.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let word = ".{0,60}|[\n\0\u{1b}x]{0,60}";
    let names = prop::sample::select(
        &[
            "event", "data", "return", "error", "id", "desc", "class", "guest", "reason",
        ][..],
    );
    let value = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        word.prop_map(Value::from),
        prop::sample::select(&["STOP", "SHUTDOWN", "RESET", "VSERPORT_CHANGE"][..])
            .prop_map(Value::from),
    ];
    let value = value.prop_recursive(3, 12, 5, move |inner| {
        prop::collection::hash_map(names.clone(), inner, 0..5).prop_map(|map| {
            let map = map.into_iter();
            map.map(|(key, value)| (key.to_owned(), value))
                .collect::<Value>()
        })
    });
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        value.prop_map(|value| value.to_string().into_bytes()),
        (0..100_000_usize).prop_map(|depth| b"{\"data\":".repeat(depth / 8)),
        (0..100_000_usize).prop_map(|depth| [b"{\"data\":", &b"[".repeat(depth)[..]].concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn noise_of_qemus_neither_hides_answers_nor_comes_through(
        noise in prop::collection::vec(noise(), 0..6), refusal in ".{0,60}|[\n\0\u{1b}x]{0,2000}"
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(async move {
            let mut error = None;
            local(async {
                let (qmp, _events) = monitor(async move |to, command, id| {
                    for line in &noise {
                        // What answers this call by chance is no noise.
                        let answers = serde_json::from_slice::<Value>(line)
                            .is_ok_and(|value| value.get("id").is_some());
                        if !answers {
                            let _ = to.write_all(&[line, &b"\n"[..]].concat()).await;
                        }
                    }
                    let refusal = json!({"error": {"class": "X", "desc": refusal}, "id": id});
                    match command {
                        "stop" => write(to, refusal).await,
                        _ => obey(to, id).await,
                    }
                })
                .await
                .unwrap();
                qmp.cont().await.unwrap();
                error = Some(qmp.stop().await.unwrap_err());
                qmp.cont().await.unwrap();
            })
            .await;
            error.unwrap()
        });
        prop_assert!(matches!(error, QmpError::Refused { .. }), "{}", error);
        let text = error.to_string();
        prop_assert!(text.chars().count() <= 600 && !text.contains(char::is_control), "{:?}", text);
    }
}
