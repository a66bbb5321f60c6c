//! Agents that are slower than anybody waits for them.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::sleep;

use crate::Qmp;
use crate::agent::port::Port;
use crate::agent::{Agent, AgentError};
use crate::exec::{Command, Ended, ExecError, Guest, Room};

/// The longest wait for an answer, and more than that.
const BOUND: Duration = Duration::from_millis(200);
const TOO_LATE: Duration = Duration::from_millis(700);

/// The process that the command is.
const PID: i64 = 4321;

fn command() -> Command {
    Command {
        args: vec!["true".into()],
        env: Vec::new(),
        directory: "/".into(),
        user: None,
        stdin: false,
        terminal: false,
        urgent: false,
    }
}

fn tokio_pair() -> (UnixStream, tokio::net::UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours, tokio::net::UnixStream::from_std(theirs).unwrap())
}

/// A QEMU that does all it is asked to, and in whose guest the agent's port is open.
async fn monitor() -> Qmp {
    let (ours, theirs) = tokio_pair();
    tokio::spawn(async move {
        let (read, mut write) = theirs.into_split();
        let version = json!({"qemu": {"major": 8, "minor": 2, "micro": 1}, "package": ""});
        let mut said = json!({"QMP": {"version": version, "capabilities": []}});
        let mut lines = BufReader::new(read).lines();
        loop {
            write
                .write_all(format!("{said}\n").as_bytes())
                .await
                .unwrap();
            let Ok(Some(line)) = lines.next_line().await else {
                return;
            };
            let request: Value = serde_json::from_str(&line).unwrap();
            let answer = match request["execute"].as_str() {
                Some("query-chardev") => {
                    json!([{"label": "agent", "filename": "", "frontend-open": true}])
                }
                _ => json!({}),
            };
            said = json!({"return": answer, "id": request["id"]});
        }
    });
    Qmp::connect(ours, Duration::from_secs(20)).await.unwrap().0
}

/// What an agent was asked to do: the names of the commands, and the arguments of `guest-exec`.
type Seen = Arc<Mutex<Vec<(String, Value)>>>;

/// An agent that answers each command as `answer` says, after that time.
fn agent(answer: impl Fn(&str, &Value) -> (Duration, Value) + Send + 'static) -> (Agent, Seen) {
    let (ours, theirs) = tokio_pair();
    let seen = Seen::default();
    let all = Arc::clone(&seen);
    tokio::spawn(async move {
        let mut port = Port::new(theirs);
        while let Some((command, arguments)) = port.next().await {
            let seen = (command.clone(), arguments["arg"].clone());
            all.lock().unwrap().push(seen);
            let (after, answer) = answer(&command, &arguments);
            sleep(after).await;
            port.say(&answer).await;
        }
    });
    (Agent::new(ours, BOUND).unwrap(), seen)
}

#[tokio::test]
async fn a_command_that_starts_too_late_is_killed() {
    let first = Mutex::new(true);
    let (agent, seen) = agent(move |command, _| {
        if command == "guest-exec-status" {
            return (
                Duration::ZERO,
                json!({"return": {"exited": true, "exitcode": 0}}),
            );
        }
        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
        let after = if *first { TOO_LATE } else { Duration::ZERO };
        let pid = if *first { PID } else { PID + 1 };
        *first = false;
        (after, json!({"return": {"pid": pid}}))
    });
    let (qmp, room) = (monitor().await, Room::default());
    let guest = Guest {
        qmp: &qmp,
        agent: &agent,
        room: &room,
    };
    let error = command().start(guest).await.unwrap_err();
    assert!(
        matches!(error, ExecError::Agent(AgentError::Silent { .. })),
        "{error}"
    );
    let killed = async {
        loop {
            let all = seen.lock().unwrap().clone();
            let kill = all.iter().any(|(command, arguments)| {
                let arguments: Vec<_> = arguments.as_array().into_iter().flatten().collect();
                command == "guest-exec" && arguments.contains(&&json!(PID.to_string()))
            });
            let reaped = all
                .iter()
                .filter(|(command, _)| command == "guest-exec-status");
            if kill && reaped.count() == 2 {
                return;
            }
            sleep(BOUND / 10).await;
        }
    };
    let killed = tokio::time::timeout(Duration::from_secs(20), killed).await;
    assert!(killed.is_ok(), "{:?}", seen.lock().unwrap());
}

#[tokio::test]
async fn an_exit_code_that_comes_late_is_not_lost() {
    let told = Mutex::new(false);
    let (agent, _) = agent(move |command, _| {
        if command == "guest-exec" {
            return (Duration::ZERO, json!({"return": {"pid": PID}}));
        }
        // As the agent does: it tells the end once.
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *told, true) {
            let refusal = json!({"class": "GenericError", "desc": "Invalid parameter 'pid'"});
            return (Duration::ZERO, json!({"error": refusal}));
        }
        (TOO_LATE, json!({"return": {"exited": true, "exitcode": 7}}))
    });
    let (qmp, room) = (monitor().await, Room::default());
    let guest = Guest {
        qmp: &qmp,
        agent: &agent,
        room: &room,
    };
    let (mut running, _streams) = command().start(guest).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), running.ended(&agent)).await;
    assert_eq!(ended, Ok(Ended::Status(7)));
}
