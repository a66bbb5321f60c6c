//! A command in the guest.

use std::io;
use std::time::Duration;

use qemu_driver::exec::{Command, Ended, Guest, Handle, Running, Streams};
use qemu_driver::qmp::{QmpError, RunState};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use vm_api::contract::exit_code::SIGNAL_BASE;

use super::client::{Client, carry, feed, left};
use super::process::{Run, SIGKILL};
use super::{Process, Target};
use crate::stdio::{Input, Sink};
use crate::task::UNKNOWN_STATUS;

/// Exit status of a command that could not be run, as a shell says it.
const CANNOT_RUN: u32 = 126;

/// How long a command may take to end after SIGKILL, until it is given up.
const KILL_BOUND: Duration = Duration::from_secs(8);

/// After this time of waiting for the agent, the client is told so.
const TELL_AFTER: Duration = Duration::from_secs(2);

/// Runs the command; its exit status.
pub(super) async fn run(run: &Run, client: &mut Client) -> u32 {
    tokio::select! {
        // Until it runs, there is nobody in the guest to take a signal.
        status = run.process.ended_by_signal() => return status,
        _ = run.target.member.life.ended() => {
            client.say("the machine has ended").await;
            return CANNOT_RUN;
        }
        ready = ready(run, client) => if let Err(sentence) = ready {
            client.say(&sentence).await;
            return CANNOT_RUN;
        },
    }
    let Target {
        qmp, guest, room, ..
    } = &*run.target;
    let Some(agent) = guest.now() else {
        client.say(NO_AGENT).await;
        return CANNOT_RUN;
    };
    let command = Command {
        args: run.process.args.clone(),
        env: run.process.env.clone(),
        directory: run.process.directory.clone(),
        user: run.target.user.clone(),
        stdin: client.stdin.is_some(),
        terminal: run.process.life.stdio.terminal,
        urgent: !run.patient,
    };
    match command.start(Guest { qmp, agent, room }).await {
        Ok((running, streams)) => match accompany(run, client, running, streams).await {
            Ok(status) => status,
            Err(error) => {
                client.say(&format!("the command's streams: {error}")).await;
                CANNOT_RUN
            }
        },
        Err(error) => {
            client.say(&error.to_string()).await;
            CANNOT_RUN
        }
    }
}

/// What is told of a machine whose processors stand still.
const PAUSED: &str = "the machine is paused: let it run again by the command vm:resume";

const NO_AGENT: &str = "no guest agent runs in the machine: install and start qemu-guest-agent in \
                        the guest, then commands and probes run in it";

/// Waits until the guest can be asked; else, the sentence that says why it cannot.
async fn ready(run: &Run, client: &mut Client) -> Result<(), String> {
    let Target { qmp, guest, .. } = &*run.target;
    if !guest.has_started() {
        return Err(PAUSED.to_owned());
    }
    if guest.now().is_none() && run.patient {
        let soon = guest.soon();
        tokio::pin!(soon);
        if timeout(TELL_AFTER, &mut soon).await.is_err() {
            client
                .say("waiting for the guest's agent while the machine starts")
                .await;
            soon.await;
        }
    }
    if guest.now().is_none() {
        return Err(NO_AGENT.to_owned());
    }
    match qmp.state().await {
        Ok(RunState::paused) => Err(PAUSED.to_owned()),
        Ok(RunState::io_error) => Err(QmpError::WaitsForDisk.to_string()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Carries the command's streams and signals until it ends; its exit status.
async fn accompany(
    run: &Run,
    client: &mut Client,
    mut running: Running,
    streams: Streams,
) -> io::Result<u32> {
    let process = &run.process;
    let Some(agent) = run.target.guest.now() else {
        running.abandoned();
        return Ok(UNKNOWN_STATUS);
    };
    let (out, input) = match streams.stdin {
        Some(input) => (stream(streams.stdout)?, Some(stream(input)?)),
        None if process.life.stdio.terminal => {
            let input = streams.stdout.try_clone()?;
            (stream(streams.stdout)?, Some(stream(input)?))
        }
        None => (stream(streams.stdout)?, None),
    };
    let errors = streams.stderr.map(stream).transpose()?;

    let input = client.stdin.take().zip(input).map(|(stdin, input)| {
        let (closed, terminal) = (process.input_closed(), process.life.stdio.terminal);
        tokio::spawn(feed_command(stdin, closed, input, terminal)).abort_handle()
    });
    let take = |sink: &mut Sink| std::mem::replace(sink, Sink::Nowhere);
    let gone = {
        let process = process.clone();
        move || process.hang_up()
    };
    let out = tokio::spawn(output(out, take(&mut client.stdout), gone.clone()));
    let errors = errors.map(|errors| {
        let sink = take(&mut client.stderr);
        tokio::spawn(output(errors, sink, gone))
    });

    let handle = running.handle();
    let ended = tokio::select! {
        ended = running.ended(agent) => ended,
        () = attend(process, &run.target, &handle) => Ended::Status(SIGNAL_BASE + SIGKILL),
    };
    let (status, sentence) = match ended {
        Ended::Status(status) => {
            running.drained(process.given_up()).await;
            (status, None)
        }
        Ended::Lacking(said) => {
            running.abandoned();
            (CANNOT_RUN, Some(said))
        }
        Ended::Lost(why) => {
            running.abandoned();
            (UNKNOWN_STATUS, Some(format!("the command was lost: {why}")))
        }
    };
    if let Some(input) = input {
        input.abort();
    }
    client.stdout = last(out, process).await;
    if let Some(errors) = errors {
        client.stderr = last(errors, process).await;
    }
    if let Some(sentence) = sentence {
        client.say(&sentence).await;
    }
    Ok(status)
}

/// Carries what the command writes; the sink again.
async fn output(source: UnixStream, sink: Sink, gone: impl Fn()) -> Sink {
    let (sink, ended) = carry(source, sink, gone).await;
    if let Err(error) = ended.or_else(left) {
        tracing::warn!(%error, "a command's output ended badly");
    }
    sink
}

/// Feeds the command, and tells it the end of its input; a terminal has none.
async fn feed_command(
    stdin: Input,
    closed: watch::Receiver<bool>,
    mut input: UnixStream,
    terminal: bool,
) {
    if let Err(error) = feed(stdin, closed, &mut input).await {
        tracing::debug!(%error, "a command takes no more input");
    }
    if !terminal {
        // The command may have ended before.
        drop(input.shutdown().await);
    }
    // QEMU would drop what it has not read yet of a socket that is closed.
    std::future::pending().await
}

/// The sink of a stream that has ended, once all of it is written there.
async fn last(mut carried: JoinHandle<Sink>, process: &Process) -> Sink {
    let sink = tokio::select! {
        sink = &mut carried => sink.ok(),
        () = process.given_up() => None,
    };
    carried.abort();
    sink.unwrap_or(Sink::Nowhere)
}

/// Passes signals and sizes on. Returns when the command does not end though it was killed.
async fn attend(process: &Process, target: &Target, handle: &Handle) {
    let (mut signals, mut size) = (process.signals(), process.size());
    let mut sent = 0;
    let mut sized = None;
    loop {
        let new = signals.borrow_and_update()[sent..].to_vec();
        let wanted = *size.borrow_and_update();
        let Some(agent) = target.guest.now() else {
            // Without it nothing can be passed on; its return is a new try.
            if new.contains(&SIGKILL) {
                return;
            }
            sleep(KILL_BOUND).await;
            continue;
        };
        for signal in &new {
            if let Err(error) = handle.kill(agent, *signal).await {
                tracing::warn!(%error, signal, "a signal did not reach its command");
            }
        }
        if new.contains(&SIGKILL) {
            sleep(KILL_BOUND).await;
            return;
        }
        sent += new.len();
        if let Some(wanted) = wanted.filter(|wanted| sized != Some(*wanted)) {
            tokio::select! {
                resized = handle.resize(agent, wanted) => {
                    if let Err(error) = resized {
                        tracing::debug!(%error, "a terminal was not resized");
                    }
                    sized = Some(wanted);
                }
                // It may wait for the guest, which must hold up no signal.
                _ = signals.changed() => {}
            }
            continue;
        }
        tokio::select! {
            _ = signals.changed() => {}
            _ = size.changed() => {}
        }
    }
}

fn stream(stream: std::os::unix::net::UnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
