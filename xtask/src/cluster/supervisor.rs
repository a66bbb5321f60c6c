//! PID 1 of a place: sets up its namespaces, starts its services, and starts each one again when it
//! ends. It is what an init system is on a real node, and nothing more: SIGTERM to a service means
//! "restart". Killing the supervisor is the power cut: the kernel ends every process with it.

use std::fs;
use std::fs::OpenOptions;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname};
use serde::{Deserialize, Serialize};

use super::mounts::NodeRoot;
use super::{cgroup, forward, mounts, process};

/// A service that ran at least this long is started again at once.
const HEALTHY: Duration = Duration::from_secs(5);
/// Pause before the next start of a service that ended sooner than that.
const BACK_OFF: Duration = Duration::from_secs(1);
/// How often ended children are looked for: well below the second that "restarts it at once" means.
const TICK: Duration = Duration::from_millis(100);

/// What a supervisor is told, as a JSON file.
#[derive(Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Host name of the place.
    pub(crate) hostname: String,
    /// The network namespace to enter.
    pub(crate) netns: PathBuf,
    /// The cgroup to enter, relative to the root of each hierarchy.
    pub(crate) cgroup: String,
    /// Where to write the supervisor's identity, as the host sees it.
    pub(crate) pid_file: PathBuf,
    /// The place's own directories; none for a place that shares the host's.
    pub(crate) root: Option<NodeRoot>,
    /// Directory of the services' logs, as seen inside.
    pub(crate) logs: PathBuf,
    /// A port of the host's loopback that leads into the place.
    pub(crate) forward: Option<Forward>,
    /// What to run.
    pub(crate) services: Vec<Service>,
}

/// A way from the host into the place.
#[derive(Serialize, Deserialize)]
pub(crate) struct Forward {
    /// Address on the host.
    pub(crate) listen: SocketAddr,
    /// Address in the place's network.
    pub(crate) to: SocketAddr,
}

/// A program that always runs.
#[derive(Serialize, Deserialize)]
pub(crate) struct Service {
    /// Its name, which is also its log's.
    pub(crate) name: String,
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// What must answer before it is started.
    pub(crate) needs: Option<Endpoint>,
}

/// Where another service listens.
#[derive(Serialize, Deserialize)]
pub(crate) enum Endpoint {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    fn answers(&self) -> bool {
        match self {
            Self::Tcp(address) => TcpStream::connect(address).is_ok(),
            Self::Unix(path) => UnixStream::connect(path).is_ok(),
        }
    }
}

/// Search path of everything that runs in a place: the local administrator's programs first.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Due(Instant),
    Running { pid: Pid, since: Instant },
}

/// The state after a service has ended at `now`.
fn ended(since: Instant, now: Instant) -> State {
    if now.duration_since(since) >= HEALTHY {
        State::Due(now)
    } else {
        State::Due(now + BACK_OFF)
    }
}

/// Runs the place that the file `spec` describes; never returns unless setting it up failed.
pub(crate) fn run(spec: &Path) -> Result<()> {
    let text = fs::read(spec).with_context(|| format!("read {}", spec.display()))?;
    let spec: Spec = serde_json::from_slice(&text)?;
    enter(&spec)?;
    let mut states = vec![State::Due(Instant::now()); spec.services.len()];
    loop {
        reap(&spec, &mut states);
        for (service, state) in spec.services.iter().zip(&mut states) {
            if matches!(state, State::Due(when) if *when <= Instant::now()) {
                *state = start(service, &spec.logs);
            }
        }
        std::thread::sleep(TICK);
    }
}

fn enter(spec: &Spec) -> Result<()> {
    cgroup::enter(&spec.cgroup)?;
    // The host's /proc is still mounted: this is the PID that the host sees.
    let identity = process::Identity::of_self()?;
    let listener = match &spec.forward {
        // Bound before the change of network: this socket stays the host's.
        Some(forward) => Some(
            TcpListener::bind(forward.listen)
                .with_context(|| format!("listen on {}", forward.listen))?,
        ),
        None => None,
    };
    let netns =
        fs::File::open(&spec.netns).with_context(|| format!("open {}", spec.netns.display()))?;
    setns(netns, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
    sethostname(&spec.hostname).context("set the host name")?;
    // Written before the host's directories vanish, read only once the services are there.
    fs::write(&spec.pid_file, format!("{identity}\n"))
        .with_context(|| format!("write {}", spec.pid_file.display()))?;
    mounts::set_up(spec.root.as_ref())?;
    std::env::set_current_dir("/")?;
    if let (Some(listener), Some(forward)) = (listener, &spec.forward) {
        forward::serve(listener, forward.to);
    }
    Ok(())
}

/// Takes in every child that has ended, orphans of others included.
fn reap(spec: &Spec, states: &mut [State]) {
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
            Ok(status) => status,
            Err(Errno::EINTR) => continue,
            Err(error) => {
                eprintln!("wait for children: {error}");
                return;
            }
        };
        let Some(gone) = status.pid() else { continue };
        for (service, state) in spec.services.iter().zip(states.iter_mut()) {
            if let State::Running { pid, since } = *state
                && pid == gone
            {
                eprintln!("{} ended: {status:?}", service.name);
                *state = ended(since, Instant::now());
            }
        }
    }
}

fn start(service: &Service, logs: &Path) -> State {
    let now = Instant::now();
    if service.needs.as_ref().is_some_and(|need| !need.answers()) {
        return State::Due(now + TICK);
    }
    match spawn(service, logs) {
        Ok(pid) => {
            eprintln!("{} started: {pid}", service.name);
            State::Running { pid, since: now }
        }
        Err(error) => {
            eprintln!("start {}: {error:#}", service.name);
            State::Due(now + BACK_OFF)
        }
    }
}

fn spawn(service: &Service, logs: &Path) -> Result<Pid> {
    let path = logs.join(format!("{}.log", service.name));
    let log = OpenOptions::new().create(true).append(true).open(&path)?;
    let (program, arguments) = service.argv.split_first().context("no program")?;
    // Its end is seen by `reap`, which waits for every child: nothing may wait for this one alone.
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("run {program}"))?;
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_fails_at_once_is_not_spun() {
        let since = Instant::now();
        for (ran, pause) in [
            (Duration::ZERO, BACK_OFF),
            (HEALTHY - TICK, BACK_OFF),
            (HEALTHY, Duration::ZERO),
            (HEALTHY * 100, Duration::ZERO),
        ] {
            let now = since + ran;
            assert_eq!(ended(since, now), State::Due(now + pause), "after {ran:?}");
        }
    }

    #[test]
    fn a_socket_answers_only_while_somebody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(Endpoint::Tcp(address).answers());
        drop(listener);
        assert!(!Endpoint::Tcp(address).answers());
        assert!(!Endpoint::Unix("/nonexistent/socket".into()).answers());
    }
}
