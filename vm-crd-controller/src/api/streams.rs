//! Subresources that are streams: console, VNC, ports of the guest, pictures of its screen.
//!
//! The verb is begun before the client is answered, so that what can't be had is an HTTP error which
//! says why. Streams are bounded in number; each holds its place until it ends.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::StatusCode;
use hyper::body::{Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use kube::{Client as Kubernetes, ResourceExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use vm_api::v1::{Phase, VirtualMachineInstance};

use super::answer::{Answer, empty};
use super::failure::{Failure, INSTANCE};
use super::instances::failure;
use super::objects;
use super::routes::Call;
use super::socket::{Client, Form};
use crate::verbs::{self, Ending, Machine, Piece, Verbs};

/// Streams of one replica.
const STREAMS: usize = 512;

/// Time within which a stream's other end must be there.
const BEGIN: Duration = Duration::from_secs(15);

/// Time within which a picture must have been read.
const PICTURE: Duration = Duration::from_secs(60);

/// What the shim says when the guest has taken a connection (`vm:connect --announce`).
const CONNECTED: &str = "connected";

/// The room for streams.
#[derive(Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS)))
    }
}

impl Room {
    fn enter(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let place = self.0.clone().try_acquire_owned();
        place.map_err(|_| {
            Failure::too_many(format!(
                "{STREAMS} streams are open already: close one, or try again"
            ))
        })
    }
}

/// How it shows that the other end is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// Nothing shows it.
    None,
    /// It speaks first.
    Words,
    /// The shim says so.
    Announced,
}

/// What streams need.
pub(super) struct Streams<'a> {
    pub(super) client: &'a Kubernetes,
    pub(super) verbs: &'a Verbs,
    pub(super) room: &'a Room,
}

/// A port of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    number: u16,
    datagrams: bool,
}

impl Port {
    /// The port in what follows `portforward/`.
    pub(super) fn read(rest: &[String]) -> Result<Self, Failure> {
        let wrong = || {
            Failure::bad_request(
                "use portforward/PORT, or portforward/PORT/tcp or /udp: a port is \
                                  a number from 1 to 65535",
            )
        };
        let (number, protocol) = match rest {
            [number] => (number, "tcp"),
            [number, protocol] => (number, protocol.as_str()),
            _ => return Err(wrong()),
        };
        let number = number.parse().ok().filter(|number| *number != 0);
        let datagrams = match protocol {
            "tcp" => false,
            "udp" => true,
            _ => return Err(wrong()),
        };
        Ok(Self {
            number: number.ok_or_else(wrong)?,
            datagrams,
        })
    }
}

impl Streams<'_> {
    /// `console`.
    pub(super) async fn console(
        &self,
        call: &mut Call,
        instance: &VirtualMachineInstance,
    ) -> Result<Answer, Failure> {
        if instance.spec.domain.devices.autoattach_serial_console == Some(false) {
            return Err(Failure::bad_request("No serial consoles are present."));
        }
        if objects::phase(instance) == Phase::Failed {
            let why = "VMI is in failed status";
            return Err(Failure::conflict(INSTANCE, &instance.name_any(), why));
        }
        self.stream(call, instance, &["vm:console"], Sign::None, Form::Bytes)
            .await
    }

    /// `vnc`.
    pub(super) async fn vnc(
        &self,
        call: &mut Call,
        instance: &VirtualMachineInstance,
    ) -> Result<Answer, Failure> {
        has_display(instance)?;
        self.stream(call, instance, &["vm:vnc"], Sign::Words, Form::Bytes)
            .await
    }

    /// `portforward`.
    pub(super) async fn port(
        &self,
        call: &mut Call,
        instance: &VirtualMachineInstance,
        port: Port,
    ) -> Result<Answer, Failure> {
        let number = port.number.to_string();
        let (words, form) = if port.datagrams {
            let words = ["vm:connect", "--announce", "--framed", "udp", &number];
            (words.to_vec(), Form::Datagrams)
        } else {
            let words = ["vm:connect", "--announce", "tcp", &number];
            (words.to_vec(), Form::Bytes)
        };
        self.stream(call, instance, &words, Sign::Announced, form)
            .await
    }

    async fn stream(
        &self,
        call: &mut Call,
        instance: &VirtualMachineInstance,
        words: &[&str],
        sign: Sign,
        form: Form,
    ) -> Result<Answer, Failure> {
        reachable(instance)?;
        let client = Client::of(call)?;
        let place = self.room.enter()?;
        let machine = objects::running_machine(self.client, instance).await?;
        let name = instance.name_any();
        let begin = async {
            let mut stream = self.verbs.stream(&machine, words).await?;
            let first = await_sign(&mut stream, &machine, sign).await?;
            Ok((stream, first))
        };
        let begun = timeout(BEGIN, begin).await;
        let begun = begun.map_err(|_| Failure::timeout("the machine does not answer in time"))?;
        let (stream, first) = begun.map_err(|error| failure(error, &name))?;
        client.connect(stream, first, form, place)
    }

    /// `vnc/screenshot`: a PNG, which is handed on as it comes. Where `wake` is wanted, the pointer is
    /// moved first, so that a screen which went dark is lit.
    pub(super) async fn screenshot(
        &self,
        instance: &VirtualMachineInstance,
        wake: bool,
    ) -> Result<Answer, Failure> {
        has_display(instance)?;
        reachable(instance)?;
        let place = self.room.enter()?;
        let machine = objects::running_machine(self.client, instance).await?;
        let name = instance.name_any();
        let words: &[&str] = if wake {
            &["vm:screenshot", "--wake"]
        } else {
            &["vm:screenshot"]
        };
        let begin = async {
            let mut stream = self.verbs.stream(&machine, words).await?;
            let first = await_sign(&mut stream, &machine, Sign::Words).await?;
            Ok((stream, first))
        };
        let begun = timeout(BEGIN, begin).await;
        let begun = begun.map_err(|_| Failure::timeout("the machine does not answer in time"))?;
        let (stream, first) = begun.map_err(|error| failure(error, &name))?;
        Ok(picture(stream, first, place))
    }
}

fn has_display(instance: &VirtualMachineInstance) -> Result<(), Failure> {
    if instance.spec.domain.devices.autoattach_graphics_device == Some(false) {
        return Err(Failure::bad_request("No graphics devices are present."));
    }
    Ok(())
}

/// Clients try again for a while only where this is a "bad request", as KubeVirt has it.
fn reachable(instance: &VirtualMachineInstance) -> Result<(), Failure> {
    match objects::phase(instance) {
        Phase::Running => Ok(()),
        phase => Err(Failure::bad_request(format!(
            "Unable to connect to VirtualMachineInstance because phase is {phase} instead of Running"
        ))),
    }
}

/// Waits until the other end of `stream` shows that it is there; what it said so far.
async fn await_sign(
    stream: &mut verbs::Stream,
    machine: &Machine,
    sign: Sign,
) -> Result<Vec<Bytes>, verbs::VerbError> {
    let mut said = Vec::new();
    if sign == Sign::None {
        return Ok(Vec::new());
    }
    loop {
        let piece = stream.output.next().await;
        match piece.map_err(|error| machine.broken(error))? {
            Piece::Out(bytes) => return Ok(vec![bytes]),
            Piece::Err(bytes) => {
                verbs::keep(&mut said, &bytes);
                if sign == Sign::Announced && verbs::shown(&said) == CONNECTED {
                    return Ok(Vec::new());
                }
            }
            Piece::Ended(ending) => return Err(verbs::refused(machine, &said, ending)),
        }
    }
}

/// The rest of `stream` as a body; `place` is held until it was read, or for as long as it may take.
fn picture(stream: verbs::Stream, first: Vec<Bytes>, place: OwnedSemaphorePermit) -> Answer {
    let (to_body, body) = mpsc::channel::<std::io::Result<Bytes>>(1);
    tokio::spawn(timeout(PICTURE, async move {
        let _place = place;
        // Its input stays open until it is done.
        let verbs::Stream {
            input: _input,
            mut output,
        } = stream;
        for bytes in first {
            if to_body.send(Ok(bytes)).await.is_err() {
                return;
            }
        }
        loop {
            let next = match output.next().await {
                Ok(Piece::Out(bytes)) => Ok(bytes),
                Ok(Piece::Err(_)) => continue,
                Ok(Piece::Ended(Ending::Done)) => return,
                // A client must see that the picture is not whole.
                Ok(Piece::Ended(_)) | Err(_) => Err(std::io::ErrorKind::UnexpectedEof.into()),
            };
            let failed = next.is_err();
            if to_body.send(next).await.is_err() || failed {
                return;
            }
        }
    }));
    let pieces = futures::stream::unfold(body, |mut body| async {
        let piece = body.recv().await?;
        Some((piece.map(Frame::data), body))
    });
    let mut answer = empty(StatusCode::OK);
    *answer.body_mut() = StreamBody::new(pieces.boxed()).boxed_unsync();
    let png = HeaderValue::from_static("image/png");
    answer.headers_mut().insert(CONTENT_TYPE, png);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        let read = |rest: &[&str]| {
            let rest: Vec<_> = rest.iter().map(|word| (*word).to_owned()).collect();
            Port::read(&rest)
                .map(|port| (port.number, port.datagrams))
                .ok()
        };
        assert_eq!(read(&["22"]), Some((22, false)));
        assert_eq!(read(&["22", "tcp"]), Some((22, false)));
        assert_eq!(read(&["53", "udp"]), Some((53, true)));
        for wrong in [&["0"][..], &["65536"], &["ssh"], &["22", "sctp"], &[]] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }
}
