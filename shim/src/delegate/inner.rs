//! The pod's inner shim: started with the first ordinary container, in the dialect in which
//! containerd started us for that container, and shut down with the last.
//!
//! It lives in a directory of its own within the sandbox's bundle: in a container's bundle it would
//! write over our address, and remove our socket when it ends.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_shim::api::{Empty, ShutdownRequest};
use containerd_shim::protos::protobuf::Message;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::leftover;
use super::link::Link;
use super::program::{InnerError, Program};
use super::stray;
use crate::frame::Dialect;

/// Longest time for the inner shim to end after `Shutdown`, as containerd gives.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Its directory within the sandbox's bundle.
pub(super) const HOME: &str = "ordinary";

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    containers: usize,
}

/// The pod's inner shim, running or not.
pub(crate) struct InnerShim {
    program: Program,
    id: String,
    sandbox: PathBuf,
    state: Mutex<State>,
}

impl InnerShim {
    /// An inner shim for the pod whose sandbox has the bundle `sandbox`, started when the first
    /// container needs it.
    pub(crate) fn new(program: Program, sandbox: PathBuf) -> Self {
        let pod = sandbox.file_name().unwrap_or_default().to_string_lossy();
        Self {
            program,
            // It groups by this id, and would find our socket under the pod's.
            id: format!("{pod}-{HOME}"),
            sandbox,
            state: Mutex::default(),
        }
    }

    /// The shim for one more container, that of `bundle`; give it back with [`Self::release`].
    pub(super) async fn acquire(&self, bundle: &Path) -> Result<Arc<Link>, InnerError> {
        let mut state = self.state.lock().await;
        let running = state.link.clone().filter(|link| !link.is_dead());
        let link = match running {
            Some(link) => link,
            None => {
                let link = Arc::new(self.start(bundle).await?);
                state.containers = 0;
                state.link.insert(link).clone()
            }
        };
        if let Err(error) = leftover::note(bundle, &link, &self.program.path) {
            if state.containers == 0 {
                state.link = None;
                link.kill();
            }
            return Err(error);
        }
        state.containers += 1;
        Ok(link)
    }

    /// One container less; without any, the shim is ended.
    pub(super) async fn release(&self, link: &Arc<Link>) {
        let mut state = self.state.lock().await;
        // A shim that died was replaced, and its containers count no more.
        if !state
            .link
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, link))
        {
            return;
        }
        state.containers = state.containers.saturating_sub(1);
        if state.containers > 0 {
            return;
        }
        state.link = None;
        let question = ShutdownRequest {
            now: true,
            ..ShutdownRequest::default()
        };
        let limit = Some(SHUTDOWN_TIMEOUT);
        let shutdown = async {
            // The answer may be lost when the process ends: its end is what counts.
            let _: Result<Empty, _> = link
                .call("Shutdown", HashMap::new(), &question, limit)
                .await;
            link.died().await;
        };
        if timeout(SHUTDOWN_TIMEOUT, shutdown).await.is_err() {
            let pid = link.process.pid();
            tracing::warn!(pid, "the node's own shim did not shut down");
            link.kill();
        }
    }

    /// Cleans up after container `id` of `bundle`, whose shim died.
    pub(super) async fn delete(&self, id: &str, bundle: &Path) -> Result<(), InnerError> {
        self.program.delete(id, bundle).await
    }

    async fn start(&self, bundle: &Path) -> Result<Link, InnerError> {
        let dialect =
            Dialect::load(bundle).map_err(|error| InnerError::Dialect(error.to_string()))?;
        let input = match dialect {
            Dialect::Flags => Vec::new(),
            Dialect::Params(mut params) => {
                params.instance_id = self.id.clone();
                params.write_to_bytes().unwrap_or_default()
            }
        };
        let home = self.sandbox.join(HOME);
        furnish(&home).map_err(|source| InnerError::File {
            path: home.clone(),
            source,
        })?;
        let link = self.connect(&home, &input).await;
        match &link {
            Ok(link) => {
                let (pid, address) = (link.process.pid(), &link.address);
                tracing::info!(pid, address, "started the node's own shim");
            }
            // What it had started by then would stay behind.
            Err(_) => drop(tokio::task::spawn_blocking(move || stray::end(&home)).await),
        }
        link
    }

    async fn connect(&self, home: &Path, input: &[u8]) -> Result<Link, InnerError> {
        let answer = self.program.start(&self.id, home, input).await?;
        let address = answer.address.clone();
        let link = Link::connect(answer, &self.program.daemon().namespace).await;
        link.map_err(|error| InnerError::Connect {
            program: self.program.path.clone(),
            reason: format!("{error} (at {address})"),
        })
    }
}

/// Makes `home` what a shim expects of its bundle: a spec, here an empty one, and a `log` that
/// somebody reads, here ours.
fn furnish(home: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(home) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir(home)?;
    std::fs::write(home.join("config.json"), "{}")?;
    symlink("../log", home.join("log"))
}
