//! Builds a machine's network in its pod's network namespace: reads what is there, decides, has the
//! undoing recorded, and only then changes anything.

use std::{io, os::fd::OwnedFd, time::Instant};

use netlink_socket2::NetlinkSocket;
use tracing::{debug, warn};

use super::{
    Binding, MacAddress, NetworkError, NetworkUndo, Request, Services, bridge, link, masquerade,
    namespace::Namespace, pod::PodInterface, tap,
};

/// Smallest and largest MTU of a tap: what IPv4 demands of every link (RFC 791, 3.2), and what the
/// kernel's driver takes (65,535 octets with the Ethernet header, drivers/net/tun.c).
const TAP_MTU: (u32, u32) = (68, 65_521);

/// A machine's network, ready for QEMU.
#[derive(Debug)]
pub struct Network {
    /// The tap, for QEMU: a descriptor for each queue. It ends with its last descriptor: drop these
    /// as soon as QEMU has its own.
    pub tap: Vec<OwnedFd>,
    /// The address of the machine's network interface.
    pub mac: MacAddress,
    /// The MTU of the machine's network interface, in octets.
    pub mtu: u16,
    /// Gives the guest its addresses, among other things; to be served as long as the machine runs.
    pub services: Services,
    /// How to take it all down; the same that was recorded.
    pub undo: NetworkUndo,
}

/// Called with the way to undo everything, before anything is done.
pub type Record<'a> = dyn FnMut(&NetworkUndo) -> io::Result<()> + Send + 'a;

/// Sets the network of a machine up. `record` is called once, before the first change, and has to
/// make its argument outlive the shim.
///
/// Blocks for some milliseconds. The calling thread's own network namespace stays as it is.
///
/// # Errors
/// On any error, all that was changed is undone already.
pub fn set_up(request: &Request, record: &mut Record<'_>) -> Result<Network, NetworkError> {
    let started = Instant::now();
    let namespace = Namespace::open(&request.namespace)?;
    if namespace.is_own()? {
        return Err(NetworkError::HostNamespace {
            path: request.namespace.clone(),
        });
    }
    let network = namespace.run(|| {
        let mut netlink = NetlinkSocket::new();
        let site = Site::look(&mut netlink, request, &namespace)?;
        let plan = Plan::make(&site)?;
        let undo = plan.undo()?;
        record(&undo).map_err(NetworkError::Record)?;
        let built = plan.build(&mut netlink);
        if built.is_err() {
            for error in undo.in_this_namespace(&mut netlink) {
                warn!(%error, "could not undo a part of the machine's network");
            }
        }
        let (tap, services) = built?;
        Ok(Network {
            tap,
            mac: site.mac,
            mtu: site.mtu,
            services,
            undo,
        })
    })?;
    debug!(interfaces = ?request.interfaces, mac = %network.mac, mtu = network.mtu, elapsed = ?started.elapsed(), "set up the machine's network");
    Ok(network)
}

/// Where the network is to be built, and what it is to be.
pub(super) struct Site<'a> {
    pub(super) request: &'a Request,
    pub(super) namespace: &'a Namespace,
    pub(super) pod: PodInterface,
    pub(super) tap: String,
    pub(super) mac: MacAddress,
    pub(super) mtu: u16,
}

impl<'a> Site<'a> {
    fn look(
        netlink: &mut NetlinkSocket,
        request: &'a Request,
        namespace: &'a Namespace,
    ) -> Result<Self, NetworkError> {
        let pod = PodInterface::read(netlink, &request.interfaces)?;
        let tap = tap::name_for(&pod.name);
        if link::exists(netlink, &tap)? {
            return Err(NetworkError::TapExists { tap });
        }
        let mtu =
            u16::try_from(pod.mtu.clamp(TAP_MTU.0, TAP_MTU.1)).expect("a tap's MTU fits 16 bits");
        let mac = match request.mac {
            Some(mac) => mac,
            None => pod.mac()?,
        };
        Ok(Self {
            request,
            namespace,
            pod,
            tap,
            mac,
            mtu,
        })
    }

    /// An undoing of what every network has.
    pub(super) fn undo(&self, table: &str) -> NetworkUndo {
        NetworkUndo {
            namespace: self.request.namespace.clone(),
            id: self.namespace.id,
            tap: self.tap.clone(),
            table: table.to_owned(),
            sysctls: vec![],
            addresses: vec![],
            listening: None,
        }
    }
}

/// What is going to be built, decided from what the pod has and what was asked for.
enum Plan<'a> {
    Masquerade(masquerade::Plan<'a>),
    Bridge(bridge::Plan<'a>),
}

impl<'a> Plan<'a> {
    fn make(site: &'a Site<'a>) -> Result<Self, NetworkError> {
        Ok(match site.request.binding {
            Binding::Masquerade => Self::Masquerade(masquerade::Plan::make(site)?),
            Binding::Bridge => Self::Bridge(bridge::Plan::make(site)),
        })
    }

    fn undo(&self) -> Result<NetworkUndo, NetworkError> {
        match self {
            Self::Masquerade(plan) => plan.undo(),
            Self::Bridge(plan) => Ok(plan.undo()),
        }
    }

    fn build(&self, netlink: &mut NetlinkSocket) -> Result<(Vec<OwnedFd>, Services), NetworkError> {
        match self {
            Self::Masquerade(plan) => plan.build(netlink),
            Self::Bridge(plan) => plan.build(netlink),
        }
    }
}
