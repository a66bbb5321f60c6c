//! KubeVirt's subresource API as its clients speak it: the wire of `virtctl`, by a client of our own.
//!
//! `kubectl proxy` lends the client the user's rights; the rest of the way (API server, front proxy,
//! controller, exec, shim) is the one that `virtctl` takes.

use std::net::TcpStream;

use serde_json::{Value, json};
use tests::{
    Manifest, Node, Proxy, SOON, STARTED, TestNamespace, eventually, image, kubectl, on_both_nodes,
};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket};

on_both_nodes!(
    a_machine_is_started_changed_and_stopped,
    streams_reach_the_guest,
    what_the_agent_tells_is_told,
);

/// The machine `vm` in its namespace, and the API's way to it.
struct Machine {
    namespace: TestNamespace,
    proxy: Proxy,
}

impl Machine {
    fn new(case: &str, node: Node, strategy: &str) -> Self {
        let namespace = TestNamespace::new(case);
        let vm = Manifest::virtual_machine("vm", image::TINY, node);
        namespace.apply(&vm.with("/spec/runStrategy", json!(strategy)));
        Self {
            namespace,
            proxy: Proxy::start(),
        }
    }

    fn path(&self, resource: &str, subresource: &str) -> String {
        format!(
            "/apis/subresources.kubevirt.io/v1/namespaces/{}/{resource}/vm/{subresource}",
            self.namespace.name()
        )
    }

    fn status(&self, wanted: &str) {
        self.namespace
            .wait_for("vm", "vm", "/status/printableStatus", wanted);
    }

    /// A verb on the machine; the message of its answer.
    #[track_caller]
    fn vm(&self, verb: &str, body: Value, code: u16) -> String {
        self.put("virtualmachines", verb, &body, code)
    }

    #[track_caller]
    fn vmi(&self, verb: &str, code: u16) -> String {
        self.put("virtualmachineinstances", verb, &json!({}), code)
    }

    #[track_caller]
    fn put(&self, resource: &str, verb: &str, body: &Value, code: u16) -> String {
        let (got, answer) = self.proxy.ask("PUT", &self.path(resource, verb), body);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!(got, code, "{verb}: {answer}");
        answer
    }

    fn get(&self, subresource: &str) -> (u16, Vec<u8>) {
        let path = self.path("virtualmachineinstances", subresource);
        self.proxy.ask("GET", &path, &Value::Null)
    }

    /// Waits until the guest is up for the `count`th time on its console.
    fn ready(&self, count: usize) {
        let pods = self.namespace.list("pod", "vm.kubevirt.io/name=vm");
        let pod = pods[0]["metadata"]["name"]
            .as_str()
            .expect("a name")
            .to_owned();
        eventually(STARTED, || {
            let log = self.namespace.kubectl(&["logs", &pod]).text();
            match log.matches(image::TINY_READY).count() {
                got if got >= count => Ok(()),
                got => Err(format!("it was ready {got} times: {log}")),
            }
        });
    }

    fn stream(&self, subresource: &str) -> WebSocket<TcpStream> {
        let path = self.path("virtualmachineinstances", subresource);
        self.proxy
            .stream(&path)
            .unwrap_or_else(|error| panic!("{subresource}: {}", told(error)))
    }

    fn event(&self, reason: &str) {
        let selector = format!("involvedObject.name=vm,reason={reason}");
        eventually(SOON, || {
            let events = self
                .namespace
                .kubectl(&["get", "events", "--field-selector", &selector, "-o", "name"])
                .expect_success();
            if events.trim().is_empty() {
                return Err(format!("no event {reason}"));
            }
            Ok(())
        });
    }
}

/// What a refused handshake was answered.
fn told(error: Error) -> String {
    match error {
        Error::Http(answer) => {
            let body = answer.body().clone().unwrap_or_default();
            format!(
                "{} {}",
                answer.status().as_u16(),
                String::from_utf8_lossy(&body)
            )
        }
        error => error.to_string(),
    }
}

/// Reads messages until they hold `wanted`.
#[track_caller]
fn says(socket: &mut WebSocket<TcpStream>, wanted: &[u8]) {
    let mut said = Vec::new();
    while !said.windows(wanted.len()).any(|piece| piece == wanted) {
        match socket.read() {
            Ok(Message::Binary(bytes)) => said.extend_from_slice(&bytes),
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&said)),
        }
    }
}

fn a_machine_is_started_changed_and_stopped(node: Node) {
    let machine = Machine::new("sub-life", node, "Halted");
    machine.status("Stopped");
    assert!(
        machine
            .vm("restart", json!({}), 409)
            .contains("Halted does not support")
    );
    assert!(machine.vmi("pause", 404).contains("not found"));
    machine.vm("start", json!({}), 202);
    machine.status("Running");
    machine.ready(1);

    assert!(machine.vmi("unpause", 409).contains("VMI is not paused"));
    machine.vmi("pause", 200);
    assert!(machine.vmi("pause", 409).contains("VMI is already paused"));
    machine.vmi("unpause", 200);
    machine.event("Paused");
    machine.event("Unpaused");

    machine.vmi("reset", 200);
    machine.ready(2);
    machine.vmi("softreboot", 200);
    machine.event("SoftRebooted");
    machine.ready(3);

    machine.vm("stop", json!({ "gracePeriod": 0 }), 202);
    machine.status("Stopped");
    assert!(
        machine
            .vm("stop", json!({}), 409)
            .contains("VM is not running")
    );
}

fn streams_reach_the_guest(node: Node) {
    let machine = Machine::new("sub-streams", node, "Always");
    // A client tries again for as long as it is answered this.
    let early = machine.get("console");
    assert!(
        matches!(early.0, 400 | 404),
        "{}",
        String::from_utf8_lossy(&early.1)
    );
    machine.status("Running");
    machine.ready(1);

    let mut console = machine.stream("console");
    let typed = b"\n\necho over the cons''ole\n";
    console
        .send(Message::binary(&typed[..]))
        .expect("it takes keys");
    says(&mut console, b"over the console");
    console.close(None).expect("it can be left");

    let mut display = machine.stream("vnc");
    says(&mut display, b"RFB 003.008\n");
    drop(display);
    let (code, picture) = machine.get("vnc/screenshot?moveCursor=true");
    assert_eq!(code, 200, "{}", String::from_utf8_lossy(&picture));
    assert!(
        picture.starts_with(b"\x89PNG\r\n") && picture.ends_with(b"IEND\xaeB`\x82"),
        "no PNG"
    );

    let mut ssh = machine.stream("portforward/22");
    says(&mut ssh, b"SSH-2.0-dropbear");
    ssh.send(Message::binary(&b"no ssh\r\n"[..]))
        .expect("it takes bytes");
    // The guest hangs up, which is the stream's end.
    loop {
        match ssh.read() {
            Ok(Message::Close(Some(frame))) => break assert_eq!(frame.code, CloseCode::Normal),
            Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    let path = machine.path("virtualmachines", "portforward/22/tcp");
    let mut ssh = machine
        .proxy
        .stream(&path)
        .map_err(told)
        .expect("by the machine too");
    says(&mut ssh, b"SSH-2.0-dropbear");

    // Datagrams stay what they are, however fast they come.
    let mut echo = machine.stream("portforward/7/udp");
    let datagrams: [&[u8]; 3] = [b"one", b"two datagrams", b"three"];
    for datagram in datagrams {
        echo.send(Message::binary(datagram))
            .expect("it takes datagrams");
    }
    let mut back = Vec::new();
    while back.len() < datagrams.len() {
        if let Message::Binary(bytes) = echo.read().expect("they come back") {
            back.push(bytes.to_vec());
        }
    }
    back.sort();
    let mut sent = datagrams.map(<[u8]>::to_vec).to_vec();
    sent.sort();
    assert_eq!(back, sent);

    let path = machine.path("virtualmachineinstances", "portforward/23");
    let refused = machine.proxy.stream(&path).map(drop).map_err(told);
    let refused = refused.expect_err("nothing listens there");
    assert!(
        refused.contains("does not take the connection"),
        "{refused}"
    );
}

fn what_the_agent_tells_is_told(node: Node) {
    let machine = Machine::new("sub-agent", node, "Always");
    machine.status("Running");
    machine.ready(1);
    let answer = |subresource: &str| {
        eventually(SOON, || {
            let (code, body) = machine.get(subresource);
            let text = String::from_utf8_lossy(&body).into_owned();
            match (code, serde_json::from_slice::<Value>(&body)) {
                (200, Ok(value)) => Ok(value),
                _ => Err(format!("{code} {text}")),
            }
        })
    };
    let info = answer("guestosinfo");
    assert!(info["guestAgentVersion"].is_string(), "{info:#}");
    assert_eq!(info["hostname"], "vm", "{info:#}");
    assert_eq!(
        info["kind"], "VirtualMachineInstanceGuestAgentInfo",
        "{info:#}"
    );
    assert!(info["os"]["kernelRelease"].is_string(), "{info:#}");
    let users = answer("userlist");
    assert_eq!(
        users["kind"], "VirtualMachineInstanceGuestOSUserList",
        "{users:#}"
    );
    assert!(users["items"].is_array(), "{users:#}");
    let filesystems = answer("filesystemlist");
    assert!(filesystems["items"].is_array(), "{filesystems:#}");
    // What every user may ask.
    let version = kubectl(&["get", "--raw", "/apis/subresources.kubevirt.io/v1/version"]);
    assert!(version.expect_success().contains("v1.9."));
}
