//! A verb on the machine.

use std::io::{self, Read};

use cri_glue::verbs::{self, Connection, Help, Outcome, Verb};
use qemu_driver::qmp::Picture;
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UdpSocket;
use vm_api::datagrams::{Datagrams, framed as frame};

use super::client::{CHUNK, Client, Typed, left};
use super::process::Run;
use super::{console, stream};
use crate::stdio::Sink;

/// Exit status of a verb that was not done, and of one with wrong words.
const FAILED: u32 = 1;
const WRONG: u32 = 2;

/// What is said once a connection is there, to whom asked for it.
const CONNECTED: &str = "connected";

/// Does the verb `name`; its exit status.
pub(super) async fn run(run: &Run, name: &str, client: &mut Client) -> u32 {
    let verb = match verbs::parse(name, &run.process.args[1..]) {
        Ok(verb) => verb,
        Err(Help::Wanted(text)) => {
            return say_all(client, text.as_bytes()).await;
        }
        Err(Help::Usage(text)) => {
            client.say(text.trim_end()).await;
            return WRONG;
        }
    };
    let verb = match verb {
        Verb::Vnc { .. } => Verb::Vnc { number: run.number },
        other => other,
    };
    tokio::select! {
        status = run.process.ended_by_signal() => status,
        _ = run.target.member.life.ended() => FAILED,
        status = do_it(run, verb, client) => status,
    }
}

async fn do_it(run: &Run, verb: Verb, client: &mut Client) -> u32 {
    let credentials = run.target.credentials.get();
    let target = verbs::Target {
        qmp: &run.target.qmp,
        agent: run.target.guest.now(),
        network_namespace: &run.target.network_namespace,
        loopback6: run.target.loopback6.as_ref(),
        vsock_cid: run.target.vsock_cid,
        credentials: credentials.as_ref(),
    };
    let (framed, announce) = match &verb {
        Verb::Connect {
            framed, announce, ..
        } => (*framed, *announce),
        _ => (false, false),
    };
    let outcome = match verb.run(target).await {
        Ok(outcome) => outcome,
        Err(error) => {
            client.say(&error.to_string()).await;
            return FAILED;
        }
    };
    if announce {
        client.say(CONNECTED).await;
    }
    let done = match outcome {
        Outcome::Bytes(bytes) => return say_all(client, &bytes).await,
        Outcome::Picture(picture) => return show(client, picture).await,
        Outcome::PowerButton(said) => {
            if let Err(error) = run.target.button.press_once().await {
                client.say(&error.to_string()).await;
                return FAILED;
            }
            return say_all(client, &said).await;
        }
        Outcome::Plug(said) => {
            // Said first: with the machine, this process ends.
            let status = say_all(client, &said).await;
            if let Err(fault) = run.target.member.send(Signal::KILL) {
                client.say(&fault.to_string()).await;
                return FAILED;
            }
            return status;
        }
        Outcome::Freeze {
            frozen,
            thaw_after,
            said,
        } => {
            let guest = &run.target.guest;
            let done = if frozen {
                let member = run.target.member.clone();
                let ended = async move { _ = member.life.ended().await };
                run.target.frozen.freeze(guest, thaw_after, ended).await
            } else {
                run.target.frozen.thaw(guest).await
            };
            if let Err(error) = done {
                client.say(&error.to_string()).await;
                return FAILED;
            }
            return say_all(client, &said).await;
        }
        Outcome::Stream(stream) => {
            let (read, write) = stream.into_split();
            both_ways(run, client, read, write).await.or_else(left)
        }
        Outcome::Connection(Connection::Tcp(stream)) => {
            let (read, write) = stream.into_split();
            both_ways(run, client, read, write).await
        }
        Outcome::Connection(Connection::Udp(socket)) => {
            datagrams(run, client, &socket, framed).await
        }
        Outcome::Console => {
            let terminal = run.process.life.stdio.terminal;
            if terminal {
                client.say(console::WELCOME).await;
            }
            let typed = Typed::of(run, client);
            console::attach(&run.target.console, typed, &mut client.stdout, terminal).await
        }
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            client.say(&format!("the connection broke: {error}")).await;
            FAILED
        }
    }
}

async fn say_all(client: &mut Client, bytes: &[u8]) -> u32 {
    match client.stdout.write_all(bytes).await {
        Ok(()) => 0,
        Err(error) => {
            tracing::debug!(%error, "a verb's answer was not read");
            FAILED
        }
    }
}

/// Gives the client a picture, as fast as it takes it.
async fn show(client: &mut Client, mut picture: Picture) -> u32 {
    let mut chunk = vec![0; CHUNK];
    loop {
        // It is in memory already.
        match picture.read(&mut chunk) {
            Ok(0) => return 0,
            Ok(count) => match say_all(client, &chunk[..count]).await {
                0 => {}
                failed => return failed,
            },
            Err(error) => {
                client.say(&format!("the picture: {error}")).await;
                return FAILED;
            }
        }
    }
}

/// Connects the client with a stream until the stream ends.
async fn both_ways(
    run: &Run,
    client: &mut Client,
    read: impl AsyncRead + Unpin,
    write: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let typed = Typed::of(run, client);
    let sink = std::mem::replace(&mut client.stdout, Sink::Nowhere);
    let (sink, ended) = stream::join(read, write, typed, sink, || run.process.hang_up()).await;
    client.stdout = sink;
    ended
}

/// Connects the client with a port that speaks in datagrams, until the client's input ends. Where they
/// are not `framed`, each piece of the input is one.
async fn datagrams(
    run: &Run,
    client: &mut Client,
    socket: &UdpSocket,
    framed: bool,
) -> io::Result<()> {
    let mut typed = Typed::of(run, client);
    let (mut piece, mut answer) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut cut = Datagrams::default();
    loop {
        tokio::select! {
            count = typed.next(&mut piece) => match count? {
                0 => return Ok(()),
                count if framed => {
                    cut.add(&piece[..count]);
                    while let Some(datagram) = cut.pop() {
                        socket.send(&datagram).await?;
                    }
                }
                count => drop(socket.send(&piece[..count]).await?),
            },
            count = socket.recv(&mut answer) => {
                let datagram = &answer[..count?];
                match framed {
                    true => if let Some(framed) = frame(datagram) {
                        client.stdout.write_all(&framed).await?;
                    },
                    false => client.stdout.write_all(datagram).await?,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use cri_glue::verbs::VerbError;

    use super::*;
    use crate::machine::monitor::monitor;

    /// Does the verb on a machine that has not run yet, and has no display.
    async fn run(verb: &str) -> Result<Outcome, VerbError> {
        let answer = |line: &str| {
            if line.contains("query-status") {
                let state = r#"{"status": "prelaunch", "running": false, "singlestep": false}"#;
                return Some(format!("\"return\": {state}"));
            }
            line.contains("query-vnc")
                .then(|| "\"return\": []".to_owned())
        };
        let qmp = monitor(Duration::from_secs(10), answer).await;
        let target = verbs::Target {
            qmp: &qmp,
            agent: None,
            network_namespace: Path::new("/proc/self/ns/net"),
            loopback6: None,
            vsock_cid: None,
            credentials: None,
        };
        verbs::parse(verb, &[]).unwrap().run(target).await
    }

    #[tokio::test]
    async fn a_machine_that_never_ran_is_switched_off_or_left() {
        match run("shutdown").await.unwrap() {
            Outcome::Plug(said) => {
                let said = String::from_utf8(said).unwrap();
                assert_eq!(said, "switched off; the machine is shutdown\n");
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(run("reboot").await, Err(VerbError::Paused)));
    }

    #[tokio::test]
    async fn a_viewer_needs_a_display() {
        assert!(matches!(run("vnc").await, Err(VerbError::NoDisplay)));
    }
}
