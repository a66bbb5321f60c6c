//! The bench: three network namespaces, a wire between pod and peer, and a relay of frames
//! between the machine's tap and the guest's own.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::geteuid,
};
use tokio::sync::oneshot;

use vm_api::machine::MachineDhcp;

use crate::network::{
    Binding, DEFAULT_INTERFACE, Dns, Inbound, Network, NetworkError, NetworkUndo, Port, Protocol,
    Request, derive_mac, namespace::Namespace, set_up, tap, undo,
};

pub(super) const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);
pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
pub(super) const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 7);
pub(super) const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1);
pub(super) const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 2);
pub(super) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 1);
/// Less than the peer's, which is Ethernet's.
pub(super) const POD_MTU: u16 = 1400;

/// How long anything may take that shall happen, and how long nothing may happen that shall not.
pub(super) const SOON: Duration = Duration::from_secs(5);
pub(super) const LONG_ENOUGH: Duration = Duration::from_millis(700);

/// Whether to go on. Nothing passes in silence: without root, this ends the test in failure.
pub(super) fn may_run() -> bool {
    if geteuid().is_root() {
        return true;
    }
    let skip = std::env::var("KUBEVIRT_TESTS_WITHOUT_ROOT").is_ok_and(|value| value == "skip");
    assert!(
        skip,
        "network tests make network namespaces: run them as root, or set KUBEVIRT_TESTS_WITHOUT_ROOT=skip"
    );
    eprintln!("skipped: not root");
    false
}

/// Runs a command that has to succeed, and returns what it prints.
pub(super) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command}: {error}{out}");
    out.into_owned()
}

/// A network namespace that ends with this value.
pub(super) struct Netns {
    pub(super) name: String,
}

impl Netns {
    pub(super) fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nettest-{}-{number}-{role}", std::process::id());
        run(&format!("ip netns add {name}"));
        let netns = Self { name };
        netns.run("ip link set lo up");
        netns
    }

    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    pub(super) fn run(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.name))
    }

    /// Does `work` inside: its sockets stay there.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        Namespace::open(&self.path())
            .unwrap()
            .run(|| Ok(work()))
            .unwrap()
    }

    /// The kernel adds IPv6 addresses and routes by itself, once it knows that nobody has them.
    pub(super) fn wait_until_settled(&self) {
        let start = Instant::now();
        while !self.run("ip -o addr show tentative").is_empty() {
            assert!(start.elapsed() < SOON, "addresses stay tentative");
            thread::sleep(SOON / 100);
        }
    }

    /// Answers every TCP connection to `address` with `greeting` and the client's address.
    pub(super) fn greet(&self, address: impl Into<IpAddr>, port: u16, greeting: &'static str) {
        let address = address.into();
        let listener = self
            .within(|| TcpListener::bind((address, port)))
            .unwrap_or_else(|error| panic!("{address}:{port} in {}: {error}", self.name));
        // Ends with the test's process.
        thread::spawn(move || {
            while let Ok((mut stream, client)) = listener.accept() {
                let _ = write!(stream, "{greeting} {}", client.ip());
            }
        });
    }

    /// What is said to who connects from here, or why nothing is.
    pub(super) fn hear(
        &self,
        address: impl Into<IpAddr>,
        port: u16,
    ) -> Result<String, std::io::ErrorKind> {
        self.hear_within(address, port, SOON)
    }

    pub(super) fn hear_within(
        &self,
        address: impl Into<IpAddr>,
        port: u16,
        limit: Duration,
    ) -> Result<String, std::io::ErrorKind> {
        let to = SocketAddr::new(address.into(), port);
        let heard = || {
            let mut stream = self.within(|| TcpStream::connect_timeout(&to, limit))?;
            stream.set_read_timeout(Some(limit))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        heard().map_err(|error: std::io::Error| error.kind())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

/// A pod with its interface, and a peer at the other end of its wire.
pub(super) struct Bench {
    pub(super) pod: Netns,
    pub(super) peer: Netns,
}

impl Bench {
    pub(super) fn new() -> Self {
        let (pod, peer) = (Netns::new("pod"), Netns::new("peer"));
        run(&format!(
            "ip -n {} link add eth0 mtu {POD_MTU} type veth peer name eth0 mtu 1500 netns {}",
            pod.name, peer.name
        ));
        for (netns, address) in [(&pod, POD), (&peer, PEER)] {
            netns.run(&format!("ip addr add {address}/24 dev eth0"));
            netns.run("ip link set eth0 up");
        }
        pod.run(&format!("ip route add default via {PEER}"));
        Self { pod, peer }
    }

    /// The same with addresses of both families.
    pub(super) fn dual_stack() -> Self {
        let bench = Self::new();
        for (netns, address) in [(&bench.pod, POD6), (&bench.peer, PEER6)] {
            netns.run(&format!("ip addr add {address}/64 dev eth0 nodad"));
        }
        bench
            .pod
            .run(&format!("ip -6 route add default via {PEER6}"));
        bench
    }

    /// The same with IPv6 alone.
    pub(super) fn only_ipv6() -> Self {
        let bench = Self::dual_stack();
        for netns in [&bench.pod, &bench.peer] {
            netns.run("ip -4 addr flush dev eth0");
        }
        bench
    }

    pub(super) fn request(&self) -> Request {
        Request {
            namespace: self.pod.path(),
            interfaces: vec![DEFAULT_INTERFACE.into()],
            binding: Binding::Masquerade,
            mac: Some(derive_mac("test")),
            queues: 1,
            primary: true,
            guest_network: None,
            guest_network6: None,
            inbound: Inbound::All,
            others: vec![],
            dns: Dns::parse("search shop.svc.cluster.local cluster.local\nnameserver 10.96.0.10"),
            hostname: "web-0".into(),
            dhcp: MachineDhcp::default(),
        }
    }

    pub(super) fn set_up(&self, request: &Request) -> Result<Network, NetworkError> {
        set_up(request, &mut |_| Ok(()))
    }

    /// A process that another test is just forking has the tap's descriptor for a moment.
    pub(super) fn wait_until_tapless(&self) {
        let start = Instant::now();
        while self.pod.run("ip -o link").contains("tap-eth0") {
            assert!(start.elapsed() < SOON, "the tap outlives its descriptor");
        }
    }

    /// A machine whose guest has its address already.
    pub(super) fn machine(&self, change: impl FnOnce(&mut Request)) -> Machine {
        let machine = self.machine_without_lease(change);
        machine
            .guest
            .run(&format!("ip addr add {GUEST}/24 dev eth0"));
        machine
            .guest
            .run(&format!("ip route add default via {GATEWAY}"));
        machine
    }

    /// The same for IPv6: the guest knows the way out from its router.
    pub(super) fn machine6(&self, change: impl FnOnce(&mut Request)) -> Machine {
        let machine = self.machine_without_lease(change);
        machine
            .guest
            .run(&format!("ip addr add {GUEST6}/128 dev eth0 nodad"));
        let start = Instant::now();
        while !machine.guest.run("ip -6 route").contains("default") {
            assert!(start.elapsed() < SOON, "no router makes itself known");
            thread::sleep(SOON / 100);
        }
        machine
    }

    pub(super) fn machine_without_lease(&self, change: impl FnOnce(&mut Request)) -> Machine {
        let mut request = self.request();
        change(&mut request);
        Machine::start(self.set_up(&request).unwrap())
    }
}

pub(super) fn tcp(number: u16) -> Port {
    Port {
        protocol: Protocol::Tcp,
        number: number.try_into().unwrap(),
    }
}

/// A guest with its network, in place of QEMU.
pub(super) struct Machine {
    pub(super) guest: Netns,
    pub(super) undo: NetworkUndo,
    stop: Arc<AtomicBool>,
    relay: Option<JoinHandle<()>>,
    services: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Machine {
    fn start(network: Network) -> Self {
        let guest = Netns::new("guest");
        let nic = guest.within(|| tap::create("eth0", 1)).unwrap().remove(0);
        guest.run(&format!("ip link set eth0 address {} up", network.mac));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let tap = network.tap.into_iter().next().unwrap();
        let ends = [tap, nic];
        let (stop_services, services_stopped) = oneshot::channel();
        let services = network.services;
        let serving = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    end = services.serve() => panic!("a server ended: {end:?}"),
                    _ = services_stopped => {}
                }
            });
        });
        Self {
            guest,
            undo: network.undo,
            stop,
            relay: Some(thread::spawn(move || relay(&ends, &stopped))),
            services: Some((stop_services, serving)),
        }
    }

    /// The guest's end as when QEMU is killed: nothing is undone, but the tap's descriptor is
    /// closed.
    pub(super) fn kill(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(relay) = self.relay.take() {
            relay.join().unwrap();
        }
        if let Some((stop, serving)) = self.services.take() {
            stop.send(()).ok();
            serving.join().unwrap();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.kill();
            assert!(undo(&self.undo).is_ok());
        }
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Carries frames from each end to the other. Both have virtio headers, which pass as they are.
fn relay(ends: &[OwnedFd; 2], stop: &AtomicBool) {
    let tick = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    let mut frame = vec![0; 70_000];
    while !stop.load(Ordering::Relaxed) {
        let mut polled = ends.each_ref().map(|end| PollFd::new(end, PollFlags::IN));
        poll(&mut polled, Some(&tick)).unwrap();
        let readable = polled.map(|end| end.revents().contains(PollFlags::IN));
        for (from, to, ready) in [
            (&ends[0], &ends[1], readable[0]),
            (&ends[1], &ends[0], readable[1]),
        ] {
            if ready {
                // An end that went down meanwhile takes or gives nothing; so does a cable.
                if let Ok(size) = rustix::io::read(from.as_fd(), &mut frame[..]) {
                    let _ = rustix::io::write(to.as_fd(), &frame[..size]);
                }
            }
        }
    }
}

/// All that set-up could change in a network namespace, as text.
pub(super) fn snapshot(netns: &Netns) -> String {
    netns.wait_until_settled();
    let mut text = netns.run("nft list ruleset");
    text += &netns.run("ip -o addr");
    text += &netns.run("ip -o link");
    text += &netns.run("ip route show table all");
    text += &netns.within(|| {
        let mut parameters = String::new();
        for directory in ["ipv4", "ipv4/conf", "ipv6/conf", "netfilter"] {
            collect(
                &PathBuf::from("/proc/sys/net").join(directory),
                &mut parameters,
            );
        }
        parameters
    });
    text
}

fn collect(directory: &std::path::Path, text: &mut String) {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, text);
        } else if let Ok(value) = fs::read_to_string(&path)
            // A counter, not a setting.
            && !path.ends_with("nf_conntrack_count")
        {
            *text += &format!("{} = {value}", path.display());
        }
    }
}
