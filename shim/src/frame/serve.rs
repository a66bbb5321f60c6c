//! The server of one pod: the Task service under the names of both protocol versions, on the
//! socket that `start` handed over, until the last container is gone.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_shim::Flags;
use containerd_shim::protos::shim_async::create_task;
use containerd_shim::protos::ttrpc::r#async::Server;
use containerd_shim::protos::ttrpc::r#async::transport::Listener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::traces::{self, Spans};
use super::{log, socket, start};
use crate::task::{Daemon, Pod, Router};

/// The service's name in protocol version 3, which the generated code registers.
const TASK_V3: &str = "containerd.task.v3.Task";
/// The same service in protocol version 2.
const TASK_V2: &str = "containerd.task.v2.Task";

/// How long a server without any container waits for one. A daemon that died between `start` and
/// `Create`, or between `Delete` and `Shutdown`, never comes back to it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Time for the answer to the last `Shutdown` to leave.
const LAST_ANSWER: Duration = Duration::from_millis(50);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Config(#[from] cri_glue::config::ConfigError),
    #[error("cannot set up the shim's server: {0}")]
    Process(#[from] io::Error),
    #[error("cannot serve on the shim's socket: {0}")]
    Ttrpc(#[from] containerd_shim::protos::ttrpc::Error),
}

/// Runs the server to its end. What went wrong before it served is told to `start`, who spawned it.
pub(crate) fn serve(flags: &Flags) -> io::Result<()> {
    match prepare().map_err(ServeError::from).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(8)
            .thread_keep_alive(Duration::from_secs(1))
            .thread_stack_size(512 << 10)
            .build()?;
        let ended = runtime.block_on(run(flags));
        // Not to wait for what is stuck: the process ends with all its threads.
        runtime.shutdown_background();
        ended
    }) {
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::error!(%error, "the server ends");
            // `start` may have stopped listening.
            drop(say(&error.to_string()));
            Err(io::Error::other(error))
        }
    }
}

/// Makes the process a daemon that is the parent of every orphan below it.
fn prepare() -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

async fn run(flags: &Flags) -> Result<(), ServeError> {
    ignore_signals()?;
    let listener = take_listener()?;
    let ttrpc_address = std::env::var("TTRPC_ADDRESS")
        .ok()
        .filter(|address| !address.is_empty());
    let daemon = Daemon {
        namespace: flags.namespace.clone(),
        address: flags.address.clone(),
        ttrpc_address,
        publish_binary: flags.publish_binary.clone(),
        debug: flags.debug,
    };
    let configuration = std::env::var_os(start::CONFIG_VARIABLE).map(PathBuf::from);
    let pod = Arc::new(Pod::new(daemon, configuration, std::env::current_dir()?)?);
    let log = &pod.node.log;
    let spans = log.traces.as_deref();
    log::init(
        Path::new("."),
        log::level(log.level.as_str(), flags.debug),
        spans.map(|path| Spans::new(path, &flags.id, traces::parent_of(Path::new(".")))),
    );

    let mut services = create_task(Arc::new(Router::new(pod.clone())));
    let mut older = create_task(Arc::new(Router::new(pod.clone())));
    if let Some(service) = older.remove(TASK_V3) {
        services.insert(TASK_V2.to_owned(), service);
    }
    let mut server = Server::new()
        .add_listener(Listener::try_from(listener)?)
        .register_service(services);
    server.start().await?;
    say(start::READY)?;
    tracing::info!(pod = flags.id, pid = std::process::id(), "serving");

    let mut gone = pod.gone.subscribe();
    tokio::select! {
        _ = gone.wait_for(|gone| *gone) => {}
        () = idle(&pod) => tracing::warn!("no container came or stayed: giving up"),
    }
    if let Err(error) = socket::remove(&flags.socket) {
        tracing::error!(%error, "the server leaves its socket behind");
    }
    pod.closed.send_replace(true);
    server.stop_listen().await;
    tracing::info!("the server ends");
    tokio::time::sleep(LAST_ANSWER).await;
    Ok(())
}

/// Returns once the pod was without any container for [`IDLE_TIMEOUT`].
async fn idle(pod: &Pod) {
    let mut since = Instant::now();
    loop {
        sleep_until(since + IDLE_TIMEOUT).await;
        if pod.idle_since(&mut since) && since.elapsed() >= IDLE_TIMEOUT {
            return;
        }
    }
}

/// systemd signals every process of a stopped unit, and the shim may be in containerd's: pods
/// outlive containerd.
fn ignore_signals() -> io::Result<()> {
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ] {
        let mut signals = signal(kind)?;
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                tracing::info!(signal = kind.as_raw_value(), "ignored a signal");
            }
        });
    }
    Ok(())
}

/// The listening socket, which `start` made the standard input; that becomes `/dev/null`.
fn take_listener() -> io::Result<UnixListener> {
    let listener: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Tells `start` the one thing that it waits for, and lets go of its pipe.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}
