//! `Create`: what a bundle is (the sandbox, the machine, an image of its disks or an ordinary container),
//! and making it.
//!
//! Everything that is mounted here stands in the bundle's record first; a creation that fails
//! leaves nothing behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerd_shim::api::CreateTaskRequest;
use containerd_shim::mount::mount_rootfs;
use containerd_shim::protos::api::Mount;
use containerd_shim::protos::events::task::{TaskCreate, TaskIO};
use cri_glue::bundle::{Bundle, ContainerKind};
use cri_glue::images;
use cri_glue::record::{self, Record, Step};
use cri_glue::role::{self, Role};

use crate::delegate;
use crate::image;
use crate::machine;
use crate::sandbox;
use crate::task::{Container, Fault, Holder, Pod, blocking};

/// Makes the container of `request`; its task's pid.
///
/// A container that is there already, of the same bundle, is what an earlier call made whose
/// answer was lost: its pid is the answer again.
pub(crate) async fn create(pod: &Arc<Pod>, request: CreateTaskRequest) -> Result<u32, Fault> {
    if let Some(pid) = repeated(pod, &request).await? {
        return Ok(pid);
    }
    let creation = pod.begin(&request.id)?;
    let directory = PathBuf::from(&request.bundle);
    let bundle = {
        let directory = directory.clone();
        blocking(move || Bundle::read(&directory).map_err(Fault::failed)).await?
    };
    let made = match bundle.kind() {
        ContainerKind::Sandbox => sandbox_of(pod, bundle, &request).await,
        ContainerKind::Container => container_of(pod, bundle, &request).await,
    };
    match made {
        Ok((container, pid)) => {
            creation.succeed(container);
            Ok(pid)
        }
        Err(fault) => {
            undo(directory).await;
            Err(fault)
        }
    }
}

/// The pid of the container that an earlier call with the same request made.
async fn repeated(pod: &Arc<Pod>, request: &CreateTaskRequest) -> Result<Option<u32>, Fault> {
    use containerd_shim::api::{StateRequest, Status};
    let Ok(container) = pod.settled(&request.id).await else {
        return Ok(None);
    };
    let question = StateRequest {
        id: request.id.clone(),
        ..StateRequest::default()
    };
    let state = container
        .state(&no_context(), question)
        .await
        .map_err(Fault::failed)?;
    if state.bundle == request.bundle && state.status.enum_value() == Ok(Status::CREATED) {
        return Ok(Some(state.pid));
    }
    Err(Fault::Exists(request.id.clone()))
}

/// The context of a call that the shim makes to itself.
pub(crate) fn no_context() -> containerd_shim::TtrpcContext {
    containerd_shim::TtrpcContext {
        mh: Default::default(),
        metadata: Default::default(),
        timeout_nano: 0,
        connection_data: Default::default(),
    }
}

async fn sandbox_of(
    pod: &Arc<Pod>,
    bundle: Bundle,
    request: &CreateTaskRequest,
) -> Result<(Container, u32), Fault> {
    no_checkpoint(request)?;
    mount(&bundle, &request.rootfs, Access::Writable).await?;
    let (container, pid) = sandbox::create(pod, bundle, request).await?;
    publish(pod, request, pid);
    Ok((container, pid))
}

async fn container_of(
    pod: &Arc<Pod>,
    bundle: Bundle,
    request: &CreateTaskRequest,
) -> Result<(Container, u32), Fault> {
    let holder = pod.holder()?;
    let known = pod.machine();
    let named = role::named(&bundle, known.as_deref()).map_err(Fault::failed)?;
    if named == Some(Role::Image) {
        return image_of(pod, &bundle, &holder, request).await;
    }
    mount(&bundle, &request.rootfs, Access::Writable).await?;
    let (bundle, is_machine) = match named {
        Some(role) => (bundle, role == Role::Machine),
        None => {
            let look = move || {
                let found = role::is_machine(&bundle, &rootfs(bundle.dir()), known.as_deref());
                found.map(|found| (bundle, found)).map_err(Fault::failed)
            };
            blocking(look).await?
        }
    };
    if is_machine {
        no_checkpoint(request)?;
        pod.set_machine(bundle.container_name().unwrap_or_default());
        let (container, pid) = machine::create(pod, bundle, &holder, request).await?;
        publish(pod, request, pid);
        return Ok((container, pid));
    }
    // The node's own shim mounts for itself.
    let directory = bundle.dir().to_owned();
    blocking(move || record::undo(&directory).map_err(Fault::failed)).await?;
    delegate::create(pod, bundle, request).await
}

async fn image_of(
    pod: &Arc<Pod>,
    bundle: &Bundle,
    holder: &Holder,
    request: &CreateTaskRequest,
) -> Result<(Container, u32), Fault> {
    no_checkpoint(request)?;
    images::check_mounts(bundle).map_err(Fault::failed)?;
    mount(bundle, &request.rootfs, Access::ReadOnly).await?;
    let (container, pid) = image::create(pod, bundle, holder, request);
    publish(pod, request, pid);
    Ok((container, pid))
}

/// Refuses what only the node's own shim can do: to restore a process.
fn no_checkpoint(request: &CreateTaskRequest) -> Result<(), Fault> {
    match request.checkpoint.as_str() {
        "" => Ok(()),
        path => Err(Fault::Unsupported(format!(
            "container {} cannot be restored from the checkpoint {path}: it runs no process of an \
             image",
            request.id
        ))),
    }
}

/// Refuses a mount elsewhere than at the root, which no snapshotter of containerd asks for.
fn at_the_root(mount: &Mount) -> Result<(), Fault> {
    match mount.target.as_str() {
        "" => Ok(()),
        target => Err(Fault::Unsupported(format!(
            "the container's root has a mount of its own for {target} (mount target): only mounts \
             of the whole root are supported"
        ))),
    }
}

/// The directory at which the root of the container of `bundle` is mounted.
pub(crate) fn rootfs(bundle: &Path) -> PathBuf {
    bundle.join("rootfs")
}

/// What may be done to the files of a root.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Writable,
    ReadOnly,
}

async fn mount(bundle: &Bundle, mounts: &[Mount], access: Access) -> Result<(), Fault> {
    mounts.iter().try_for_each(at_the_root)?;
    let (directory, mounts) = (bundle.dir().to_owned(), mounts.to_vec());
    blocking(move || {
        let target = rootfs(&directory);
        let step = Step::Mount {
            path: target.clone(),
        };
        Record::open(&directory)
            .and_then(|mut record| record.note(&step))
            .and_then(|()| std::fs::create_dir_all(&target))
            .map_err(|error| {
                Fault::failed(format!("cannot prepare {}: {error}", target.display()))
            })?;
        for mount in &mounts {
            let kind = Some(mount.type_.as_str()).filter(|kind| !kind.is_empty());
            let source = Some(mount.source.as_str()).filter(|source| !source.is_empty());
            let mut options = unmapped(&mount.options);
            if access == Access::ReadOnly {
                options.retain(|option| option != "rw");
                options.push("ro".to_owned());
            }
            mount_rootfs(kind, source, &options, &target).map_err(|error| {
                let target = target.display();
                Fault::failed(format!(
                    "cannot mount the container's root at {target}: {error}"
                ))
            })?;
        }
        Ok(())
    })
    .await
}

/// The options of a mount without those that map the owners of an image's files to the pod's user
/// namespace. containerd's own mount program follows them, not the kernel; here nobody of the pod's
/// looks at the files: the shim opens them, and the holder needs no right to its program but to run it.
fn unmapped(options: &[String]) -> Vec<String> {
    let maps = |option: &&String| option.starts_with("uidmap=") || option.starts_with("gidmap=");
    let others = options.iter().filter(|option| !maps(option));
    others.cloned().collect()
}

/// Undoes what stands in the record of the bundle `directory`.
async fn undo(directory: PathBuf) {
    let undone = blocking(move || record::undo(&directory).map_err(Fault::failed)).await;
    if let Err(error) = undone {
        tracing::error!(%error, "a failed creation left something behind");
    }
}

fn publish(pod: &Pod, request: &CreateTaskRequest, pid: u32) {
    pod.events.publish(&TaskCreate {
        container_id: request.id.clone(),
        bundle: request.bundle.clone(),
        rootfs: request.rootfs.clone(),
        io: Some(TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..TaskIO::default()
        })
        .into(),
        pid,
        ..TaskCreate::default()
    });
}
