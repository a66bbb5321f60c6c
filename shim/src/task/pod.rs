//! What the containers of one pod share: the node's configuration, containerd's addresses, the
//! event queue, and who is who.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cri_glue::config::{ConfigError, NodeConfig};
use cri_glue::launch::{MachineNetwork, Worker};
use cri_glue::network::Port;
use cri_glue::sandbox::Sandbox;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Container, Fault, Member, blocking};
use crate::delegate::{InnerShim, Program};
use crate::events::Publisher;

/// How containerd called the server, which the node's own shim is called like.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    /// Its namespace, `k8s.io` for CRI.
    pub(crate) namespace: String,
    /// Address of its main socket.
    pub(crate) address: String,
    /// Address of its ttrpc socket, if there is one.
    pub(crate) ttrpc_address: Option<String>,
    /// Its program, for publishing events.
    pub(crate) publish_binary: String,
    /// Whether it debugs.
    pub(crate) debug: bool,
}

/// A container on its way into the pod, or in it.
#[derive(Clone)]
enum Slot {
    /// `Create` is under way.
    Creating,
    /// `Create` failed; what it had done is undone.
    Failed,
    /// It is there.
    Ready(Container),
}

/// The holder, once it is there.
#[derive(Clone)]
pub(crate) struct Holder {
    /// The sandbox that it holds.
    pub(crate) sandbox: Arc<Sandbox>,
    /// Its pid in the shim's PID namespace.
    pub(crate) pid: u32,
    /// Its life.
    pub(crate) member: Arc<Member>,
}

/// The root of a container that is an image, mounted.
struct MountedImage {
    id: String,
    rootfs: PathBuf,
}

/// One pod.
pub(crate) struct Pod {
    /// Containerd.
    pub(crate) daemon: Daemon,
    /// The node's configuration as the pod found it.
    pub(crate) node: Arc<NodeConfig>,
    /// The file of that, if one is named.
    configuration: Option<PathBuf>,
    /// Task events.
    pub(crate) events: Publisher,
    /// The node's own shim, for ordinary containers.
    pub(crate) inner: InnerShim,
    /// What makes the pod's machine.
    pub(crate) worker: Worker,
    slots: Mutex<HashMap<String, watch::Receiver<Slot>>>,
    holder: Mutex<Option<Holder>>,
    machine: Mutex<Option<String>>,
    ports: Mutex<HashMap<String, Vec<Port>>>,
    images: Mutex<HashMap<String, MountedImage>>,
    network: Mutex<Weak<MachineNetwork>>,
    /// Wakes who waits for the end of the last container.
    pub(crate) gone: watch::Sender<bool>,
    /// Whether the server's socket is removed.
    pub(crate) closed: watch::Sender<bool>,
}

/// The right to make one container; whoever drops it without a result has failed.
pub(crate) struct Creation {
    pod: Arc<Pod>,
    id: String,
    slot: watch::Sender<Slot>,
    done: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these; if it did, the data would still be whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pod {
    /// A pod without containers; `sandbox` is the bundle of its sandbox, the server's directory.
    ///
    /// # Errors
    /// When the node's configuration, in the file that is named or in the default one, is wrong.
    pub(crate) fn new(
        daemon: Daemon,
        configuration: Option<PathBuf>,
        sandbox: PathBuf,
    ) -> Result<Self, ConfigError> {
        let node = NodeConfig::load(configuration.as_deref())?;
        let events = Publisher::new(daemon.namespace.clone(), daemon.ttrpc_address.clone());
        let program = Program::new(daemon.clone(), node.runtime.ordinary_shim.clone());
        let inner = InnerShim::new(program, sandbox);
        Ok(Self {
            daemon,
            node: Arc::new(node),
            configuration,
            events,
            inner,
            worker: Worker::default(),
            slots: Mutex::default(),
            holder: Mutex::default(),
            machine: Mutex::default(),
            ports: Mutex::default(),
            images: Mutex::default(),
            network: Mutex::default(),
            gone: watch::Sender::new(false),
            closed: watch::Sender::new(false),
        })
    }

    /// The node's configuration for a machine that starts now: QEMU is looked up anew, so that a
    /// container that kubelet tries again finds a mended node; the rest stays as the pod found it.
    pub(crate) fn node_now(&self) -> Result<Arc<NodeConfig>, ConfigError> {
        let qemu = NodeConfig::load(self.configuration.as_deref())?.qemu;
        Ok(Arc::new(NodeConfig {
            qemu,
            ..(*self.node).clone()
        }))
    }

    /// Begins the creation of container `id`.
    pub(crate) fn begin(self: &Arc<Self>, id: &str) -> Result<Creation, Fault> {
        let mut slots = lock(&self.slots);
        if slots.contains_key(id) {
            return Err(Fault::Exists(id.to_owned()));
        }
        let slot = watch::Sender::new(Slot::Creating);
        slots.insert(id.to_owned(), slot.subscribe());
        Ok(Creation {
            pod: self.clone(),
            id: id.to_owned(),
            slot,
            done: false,
        })
    }

    /// The container `id`, if it is there by now.
    pub(crate) fn now(&self, id: &str) -> Result<Container, Fault> {
        match lock(&self.slots).get(id).map(|slot| slot.borrow().clone()) {
            Some(Slot::Ready(container)) => Ok(container),
            _ => Err(Fault::NotFound(format!("container {id}"))),
        }
    }

    /// The container `id`, after its creation if that is under way.
    pub(crate) async fn settled(&self, id: &str) -> Result<Container, Fault> {
        let missing = || Fault::NotFound(format!("container {id}"));
        let mut slot = lock(&self.slots).get(id).cloned().ok_or_else(missing)?;
        let settled = slot.wait_for(|slot| !matches!(slot, Slot::Creating)).await;
        match settled.as_deref() {
            Ok(Slot::Ready(container)) => Ok(container.clone()),
            _ => Err(missing()),
        }
    }

    /// Forgets container `id`, which was deleted.
    pub(crate) fn forget(&self, id: &str) {
        lock(&self.ports).remove(id);
        lock(&self.images).retain(|_, image| image.id != id);
        lock(&self.slots).remove(id);
    }

    /// Whether the pod has no container; if it has one, `since` becomes now.
    pub(crate) fn idle_since(&self, since: &mut Instant) -> bool {
        let empty = self.is_empty();
        if !empty {
            *since = Instant::now();
        }
        empty
    }

    /// Whether the pod has no container, not even one on its way.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.slots).is_empty()
    }

    /// The pod's holder.
    pub(crate) fn holder(&self) -> Result<Holder, Fault> {
        lock(&self.holder).clone().ok_or_else(|| {
            Fault::Precondition("the pod's sandbox must be created before its containers".into())
        })
    }

    /// Sets, or at its end takes away, the holder.
    pub(crate) fn set_holder(&self, holder: Option<Holder>) {
        *lock(&self.holder) = holder;
    }

    /// The name of the container that is the pod's machine, if that is known.
    pub(crate) fn machine(&self) -> Option<String> {
        lock(&self.machine).clone()
    }

    /// Remembers which container is the machine.
    pub(crate) fn set_machine(&self, name: &str) {
        *lock(&self.machine) = Some(name.to_owned());
    }

    /// The root of the container `name`, an image with this `id`, is mounted at `rootfs`; a restart of it
    /// takes its place.
    pub(crate) fn set_image(&self, name: &str, id: &str, rootfs: PathBuf) {
        let id = id.to_owned();
        let image = MountedImage { id, rootfs };
        lock(&self.images).insert(name.to_owned(), image);
    }

    /// The roots of containers that are images, by name.
    pub(crate) fn images(&self) -> BTreeMap<String, PathBuf> {
        let images = lock(&self.images);
        let roots = images.iter();
        let roots = roots.map(|(name, image)| (name.clone(), image.rootfs.clone()));
        roots.collect()
    }

    /// Keeps the ports that the ordinary container `id` declares from the guest: from one that runs,
    /// and from one to come.
    pub(crate) async fn declare(&self, id: &str, ports: Vec<Port>) -> Result<(), Fault> {
        lock(&self.ports).insert(id.to_owned(), ports);
        self.keep_declared().await
    }

    /// The machine has a network: what other containers declared until now is kept from it.
    pub(crate) async fn attach(&self, network: &Arc<MachineNetwork>) -> Result<(), Fault> {
        *lock(&self.network) = Arc::downgrade(network);
        self.keep_declared().await
    }

    async fn keep_declared(&self) -> Result<(), Fault> {
        let Some(network) = lock(&self.network).upgrade() else {
            return Ok(());
        };
        let ports = self.declared();
        blocking(move || network.reserve(&ports).map_err(Fault::failed)).await
    }

    /// All ports that ordinary containers declare: never the guest's.
    pub(crate) fn declared(&self) -> Vec<Port> {
        lock(&self.ports).values().flatten().cloned().collect()
    }
}

impl Creation {
    /// The container is there.
    pub(crate) fn succeed(mut self, container: Container) {
        self.done = true;
        self.slot.send_replace(Slot::Ready(container));
    }
}

impl Drop for Creation {
    fn drop(&mut self) {
        if !self.done {
            self.slot.send_replace(Slot::Failed);
            self.pod.forget(&self.id);
        }
    }
}
