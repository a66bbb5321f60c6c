//! Images of the machine's disks that are containers: mounted, without a process, under containerd's verbs.

use std::fs;
use std::path::Path;

use containerd_shim::api::{ExecProcessRequest, StatsRequest, Status};
use containerd_shim::protos::cgroups::metrics::Metrics;
use containerd_shim::protos::protobuf::Message;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::guest::{self, GREETING, Then};
use crate::pod::{Pod, Task, bound, end, fifo, read};

const NAMED: &str = "kubevirt.io/image-containers";

/// Writes the bundle of the container `id`, the image of the volume `second`, whose disk's guest does
/// `then`.
fn prepare_image(pod: &Pod, id: &str, then: Then) {
    let disk = pod.image(id).join("disk");
    fs::create_dir_all(&disk).unwrap();
    guest::write_disk(&disk.join("disk.img"), then);
    let mut spec = pod.spec(id, "container");
    spec["annotations"][NAMED] = "second=image".into();
    spec["annotations"]["io.kubernetes.cri.container-name"] = "image".into();
    pod.write_spec(id, &spec);
}

/// Writes the bundle of a machine that boots the volume `second`, and has a disk of its own.
fn prepare_machine(pod: &Pod) {
    let disk = pod.image("vm").join("disk");
    fs::create_dir_all(&disk).unwrap();
    fs::write(disk.join("disk.img"), vec![0; 1 << 20]).unwrap();
    let mut spec = pod.spec("vm", "container");
    let wish = json!({
        "domain": {"devices": {"disks": [{"name": "second", "disk": {"bus": "virtio"}, "bootOrder": 1}]}},
        "volumes": [{"name": "second", "containerDisk": {"image": "x"}}],
    });
    spec["annotations"][NAMED] = "second=image".into();
    spec["annotations"]["kubevirt.io/vmi-spec"] = wish.to_string().into();
    pod.write_spec("vm", &spec);
}

/// A pod whose sandbox runs, with the bundle of an image.
async fn with_image(then: Then) -> (Pod, Task, Task) {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    prepare_image(&pod, "image", then);
    prepare_machine(&pod);
    let sandbox = pod.start("sandbox").await;
    sandbox.create("").await.unwrap();
    sandbox.run().await;
    let image = pod.start("image").await;
    (pod, sandbox, image)
}

fn is_mounted(directory: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let directory = format!(" {} ", directory.display());
    mounts.lines().any(|line| line.contains(&directory))
}

#[tokio::test]
async fn a_machine_boots_from_an_image_beside_its_own() {
    let (pod, sandbox, image) = with_image(Then::PowerOff).await;
    image.create("").await.unwrap();
    image.run().await;
    let vm = pod.start("vm").await;
    assert_eq!(vm.address, sandbox.address);
    let stdout = fifo(&pod, "stdout");
    vm.create(&stdout).await.unwrap();
    let output = read(&stdout);
    vm.run().await;
    assert_eq!(vm.wait().await, 0);
    assert!(output.await.unwrap().contains(GREETING));
    let state = image.state().await.unwrap();
    assert_eq!(state.status.enum_value(), Ok(Status::RUNNING));
    vm.delete().await.unwrap();
    vm.shutdown().await;

    // Kubelet ends it once the machine has ended.
    image.kill(15).await.unwrap();
    assert_eq!(image.wait().await, 0);
    assert_eq!(image.delete().await.unwrap().exit_status, 0);
    image.shutdown().await;
    assert!(!is_mounted(&pod.bundle("image").join("rootfs")));
    sandbox.finish().await;
    pod.assert_clean().await;
    let topics = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
    ];
    assert_eq!(pod.daemon.topics(&image.id), topics);
    assert_eq!(pod.daemon.exit_status(&image.id), Some(0));
}

#[tokio::test]
async fn an_image_runs_nothing_and_is_a_container_in_all_else() {
    let (pod, sandbox, image) = with_image(Then::Halt).await;
    let stdout = fifo(&pod, "image-stdout");
    let pid = image.create(&stdout).await.unwrap().pid;
    // A process in the pod's namespaces, as for every container.
    assert_eq!(sandbox.state().await.unwrap().pid, pid);
    let state = image.state().await.unwrap();
    assert_eq!(
        (state.status.enum_value(), state.pid),
        (Ok(Status::CREATED), pid)
    );
    assert_eq!(image.run().await, pid);
    assert!(image.try_run().await.is_err(), "it is started once");
    let rootfs = pod.bundle("image").join("rootfs");
    assert!(rootfs.join("disk/disk.img").exists());
    assert!(
        fs::write(rootfs.join("new"), "").is_err(),
        "it is only read"
    );
    assert!(
        !pod.processes()
            .iter()
            .any(|(_, line)| line.contains("shim-runc"))
    );

    let exec = ExecProcessRequest {
        id: image.id.clone(),
        exec_id: "e".into(),
        ..ExecProcessRequest::default()
    };
    let error = image.client.exec(bound(), &exec).await.unwrap_err();
    assert!(error.to_string().contains("runs no commands"), "{error}");
    let resources = json!({"cpu": {"shares": 2}, "memory": {"limit": 1 << 20}});
    image.update(&resources).await.unwrap();
    let question = StatsRequest {
        id: image.id.clone(),
        ..StatsRequest::default()
    };
    let stats = image.client.stats(bound(), &question).await.unwrap();
    // Not nothing, or the metrics server would leave out the whole pod.
    let any = stats.stats.unwrap();
    if any.type_url == "io.containerd.cgroups.v1.Metrics" {
        let metrics = Metrics::parse_from_bytes(&any.value).unwrap();
        assert!(metrics.cpu.usage.total > 0 && metrics.memory.usage.usage > 0);
    }
    // Signals that a process ignores, and one that is none.
    image.kill(18).await.unwrap();
    assert!(image.kill(65).await.is_err());
    let state = image.state().await.unwrap();
    assert_eq!(state.status.enum_value(), Ok(Status::RUNNING));
    let error = image.delete().await.unwrap_err().to_string();
    assert!(error.contains("it is running"), "{error}");
    image.kill(9).await.unwrap();
    assert_eq!(image.wait().await, 137);
    image.kill(9).await.unwrap();
    image.delete().await.unwrap();
    image.shutdown().await;
    assert!(
        sandbox.state().await.is_ok(),
        "the holder is not its process"
    );
    sandbox.finish().await;
    pod.assert_clean().await;
}

#[tokio::test]
async fn a_machine_waits_for_no_image_and_finds_one_that_was_restarted() {
    let (pod, sandbox, image) = with_image(Then::Halt).await;
    let vm = pod.start("vm").await;
    let error = vm.create("").await.unwrap_err().to_string();
    assert!(
        error.contains("container image, the image of volume second, is not there"),
        "{error}"
    );
    vm.shutdown().await;
    image.create("").await.unwrap();
    image.finish().await;
    prepare_image(&pod, "image-1", Then::Halt);
    let again = pod.start("image-1").await;
    again.create("").await.unwrap();
    again.run().await;
    let vm = pod.start("vm").await;
    let stdout = fifo(&pod, "stdout");
    vm.create(&stdout).await.unwrap();
    vm.run().await;
    // The machine has its disk open, and goes on.
    again.finish().await;
    assert!(vm.state().await.is_ok());
    end(pod, sandbox, vm).await;
}

#[tokio::test]
async fn an_image_ends_with_its_pod() {
    let (pod, sandbox, image) = with_image(Then::Halt).await;
    image.create("").await.unwrap();
    image.run().await;
    sandbox.kill(15).await.unwrap();
    assert_eq!(sandbox.wait().await, 0);
    assert_eq!(image.wait().await, 137);
    image.delete().await.unwrap();
    image.shutdown().await;
    sandbox.delete().await.unwrap();
    sandbox.shutdown().await;
    pod.assert_clean().await;
}

#[tokio::test]
async fn a_killed_shim_leaves_no_image_mounted() {
    let (pod, sandbox, image) = with_image(Then::Halt).await;
    image.create("").await.unwrap();
    image.run().await;
    let shim = Pid::from_raw(sandbox.shim_pid().await).unwrap();
    kill_process(shim, Signal::KILL).unwrap();
    for id in ["image", "sandbox", "image"] {
        assert_eq!(pod.delete(id).await.exit_status, 137, "{id}");
    }
    assert!(!is_mounted(&pod.bundle("image").join("rootfs")));
    pod.assert_clean().await;
}

#[tokio::test]
async fn what_cannot_be_an_image_is_refused_and_leaves_nothing() {
    let (pod, sandbox, image) = with_image(Then::Halt).await;
    let mut spec = pod.spec("image", "container");
    spec["annotations"][NAMED] = "second=image".into();
    spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/data", "type": "bind", "source": pod.path(""), "options": ["rbind"],
    }));
    pod.write_spec("image", &spec);
    let error = image.create("").await.unwrap_err().to_string();
    assert!(error.contains("mount /data"), "{error}");
    spec["annotations"]["kubevirt.io/machine-container"] = "image".into();
    pod.write_spec("image", &spec);
    let error = image.create("").await.unwrap_err().to_string();
    assert!(error.contains("both the machine and an image"), "{error}");
    spec["annotations"][NAMED] = "image".into();
    pod.write_spec("image", &spec);
    let error = image.create("").await.unwrap_err().to_string();
    assert!(error.contains("names no container"), "{error}");
    image.shutdown().await;
    sandbox.finish().await;
    pod.assert_clean().await;
}
