//! Kinds of volumes as disks, and options of disks, as the guest sees them.

use serde_json::{Value, json};
use tests::{
    ContainerDisk, Entry, LocalClaim, Manifest, Node, STARTED, TestNamespace, eventually, image,
    kubectl, on_both_nodes,
};

on_both_nodes!(
    settings_are_disks,
    a_config_drive_tells_of_the_machine,
    disks_have_the_options_of_the_spec,
    what_is_written_over_a_claim_that_is_only_read_is_lost,
    a_file_of_the_node_is_a_disk_where_that_is_allowed,
    a_kernel_of_the_image_is_booted,
    several_images_are_disks,
    a_kernel_of_another_image_is_booted,
    a_guest_that_powers_off_ends_its_images_too,
    a_link_out_of_a_further_image_is_refused,
);

fn object(kind: &str, name: &str, data: Value) -> Manifest {
    Manifest::new(json!({
        "apiVersion": "v1", "kind": kind, "metadata": { "name": name }, "data": data,
    }))
}

/// The machine `vm` of the tiny guest with these disks and volumes beside its first.
fn machine(node: Node, disks: Value, volumes: Value) -> Manifest {
    let mut vm = Manifest::virtual_machine("vm", image::TINY, node);
    for (place, items) in [("domain/devices/disks", disks), ("volumes", volumes)] {
        for item in items.as_array().expect("a list") {
            vm = vm.with(&format!("/spec/template/spec/{place}/-"), item.clone());
        }
    }
    vm
}

/// The pod of the machine, once its guest is up.
fn started(namespace: &TestNamespace) -> String {
    let pod = eventually(STARTED, || {
        let pods = namespace.list("pod", "vm.kubevirt.io/name=vm");
        let name = pods
            .first()
            .and_then(|pod| pod["metadata"]["name"].as_str());
        name.map(str::to_owned).ok_or("no pod yet".to_owned())
    });
    namespace.wait_for_log(&pod, "compute", image::TINY_READY);
    pod
}

/// Runs a shell script in the guest, which must succeed.
#[track_caller]
fn guest(namespace: &TestNamespace, pod: &str, script: &str) -> String {
    let arguments = ["exec", pod, "-c", "compute", "--", "sh", "-ec", script];
    namespace.kubectl(&arguments).expect_success()
}

/// Sets `disk` to the directory in /sys/block of the virtio disk with this serial number.
const FIND: &str = "find_disk() { for d in /sys/block/vd*; do \
     if [ \"$(cat $d/serial)\" = \"$1\" ]; then disk=$d; return; fi; done; return 1; }; ";

fn settings_are_disks(node: Node) {
    let namespace = TestNamespace::new("settings");
    let colours =
        json!({ "colour": "red", "a-name-that-is-longer.than-iso-9660-has.them": "long" });
    namespace.apply(&object("ConfigMap", "settings", colours));
    namespace.apply(&object("Secret", "key", json!({ "key": "c2VjcmV0" })));
    namespace.apply(&object(
        "ConfigMap",
        "answers",
        json!({ "Autounattend.xml": "<unattend/>" }),
    ));
    let virtio = |name: &str| json!({ "name": name, "disk": { "bus": "virtio" }, "serial": name });
    let names = ["settings", "key", "about", "account", "answers"];
    let label = json!({ "path": "pod/app", "fieldRef": { "fieldPath": "metadata.labels['app']" } });
    namespace.apply(&machine(
        node,
        json!(names.map(virtio)),
        json!([
            { "name": "settings", "configMap": { "name": "settings", "volumeLabel": "colours" } },
            { "name": "key", "secret": { "secretName": "key" } },
            { "name": "about", "downwardAPI": { "fields": [label] } },
            { "name": "account", "serviceAccount": { "serviceAccountName": "default" } },
            { "name": "answers", "sysprep": { "configMap": { "name": "answers" } } },
        ]),
    ));
    let pod = started(&namespace);
    let run = |script: &str| guest(&namespace, &pod, &format!("{FIND}{script}"));
    for name in names {
        run(&format!(
            "find_disk {name}; mkdir -p /mnt/{name}; mount -t iso9660 -o ro /dev/${{disk##*/}} /mnt/{name}"
        ));
    }
    assert_eq!(run("cat /mnt/settings/colour"), "red");
    let long = run("cat /mnt/settings/a-name-that-is-longer.than-iso-9660-has.them");
    assert_eq!(long, "long");
    assert_eq!(run("labelled colours >/dev/null && echo found"), "found\n");
    assert_eq!(run("cat /mnt/key/key"), "secret");
    assert_eq!(run("cat /mnt/about/pod/app"), "vm");
    assert!(run("cat /mnt/account/token").starts_with("ey"));
    assert_eq!(run("cat /mnt/account/namespace"), namespace.name());
    assert_eq!(run("cat /mnt/answers/Autounattend.xml"), "<unattend/>");
    assert_eq!(run("find_disk key; cat $disk/ro"), "1\n");
}

fn a_config_drive_tells_of_the_machine(node: Node) {
    let namespace = TestNamespace::new("config-drive");
    let secret = json!({ "userdata": "I2Nsb3VkLWNvbmZpZwo=" });
    namespace.apply(&object("Secret", "user", secret));
    let disks = json!([
        { "name": "drive", "disk": { "bus": "virtio" }, "serial": "drive" },
        { "name": "fast", "disk": { "bus": "virtio" }, "serial": "F1", "tag": "fast" },
    ]);
    let volumes = json!([
        { "name": "drive", "cloudInitConfigDrive": {
            "secretRef": { "name": "user" }, "networkData": "{\"links\": []}",
        } },
        { "name": "fast", "emptyDisk": { "capacity": "1Mi" } },
    ]);
    namespace.apply(&machine(node, disks, volumes));
    let pod = started(&namespace);
    let run = |script: &str| guest(&namespace, &pod, &format!("{FIND}{script}"));
    run("mkdir -p /mnt/drive; mount -t iso9660 -o ro $(labelled config-2) /mnt/drive");
    let read = |file: &str| run(&format!("cat /mnt/drive/openstack/latest/{file}"));
    assert_eq!(read("user_data"), "#cloud-config\n");
    assert_eq!(read("network_data.json"), "{\"links\": []}");
    let meta: Value = serde_json::from_str(&read("meta_data.json")).expect("it is JSON");
    assert_eq!(meta["hostname"], "vm");
    let tagged = json!([{ "type": "disk", "bus": "virtio", "serial": "F1", "tags": ["fast"] }]);
    assert_eq!(meta["devices"], tagged);
    let uuid = run("cat /sys/class/dmi/id/product_uuid");
    assert_eq!(meta["uuid"].as_str(), Some(uuid.trim()));
}

fn disks_have_the_options_of_the_spec(node: Node) {
    let namespace = TestNamespace::new("disk-options");
    let custom =
        json!({ "custom": { "logical": 4096, "physical": 8192, "discardGranularity": 8192 } });
    let disks = json!([
        { "name": "large", "disk": { "bus": "virtio" }, "serial": "large", "blockSize": custom },
        { "name": "alone", "disk": { "bus": "virtio", "pciAddress": "0000:00:1b.0" }, "serial": "alone",
          "dedicatedIOThread": true, "io": "threads", "cache": "writethrough", "errorPolicy": "report" },
        { "name": "scsi", "disk": { "bus": "scsi" }, "serial": "scsi" },
        { "name": "cd", "cdrom": { "bus": "scsi" } },
        { "name": "open", "cdrom": { "bus": "scsi", "tray": "open" } },
        // The guest has no driver for it; QEMU has the device, or would not start.
        { "name": "stick", "disk": { "bus": "usb" } },
    ]);
    let empty = |name: &str| json!({ "name": name, "emptyDisk": { "capacity": "16Mi" } });
    namespace.apply(&object("ConfigMap", "settings", json!({ "colour": "red" })));
    let volumes = json!([
        empty("large"), empty("alone"), empty("scsi"), empty("stick"),
        { "name": "open", "configMap": { "name": "settings" } },
    ]);
    let vm = machine(node, disks, volumes)
        .with("/spec/template/spec/domain/ioThreadsPolicy", json!("auto"))
        .with(
            "/spec/template/spec/domain/devices/blockMultiQueue",
            json!(true),
        )
        .with("/spec/template/spec/domain/cpu", json!({ "cores": 2 }));
    namespace.apply(&vm);
    let pod = started(&namespace);
    let run = |script: &str| guest(&namespace, &pod, &format!("{FIND}{script}"));
    let queue = |file: &str| run(&format!("find_disk large; cat $disk/queue/{file}"));
    assert_eq!(queue("logical_block_size"), "4096\n");
    assert_eq!(queue("physical_block_size"), "8192\n");
    assert_eq!(queue("discard_granularity"), "8192\n");
    assert_eq!(
        run("find_disk alone; basename $(readlink -f $disk/device/..)"),
        "0000:00:1b.0\n"
    );
    assert_eq!(
        run("find_disk alone; cat $disk/queue/write_cache"),
        "write through\n"
    );
    assert_eq!(run("find_disk alone; ls $disk/mq | wc -l"), "2\n");
    assert_eq!(run("ls -d /sys/block/sd* | wc -l"), "1\n");
    // The first drive is empty. Linux closes the open tray of the second one at its first look, as it
    // does on any machine; qemu-driver's tests see it open.
    assert!(run("head -c 1 /dev/sr0 2>&1 || true").contains("No medium"));
    let close = "mkdir -p /mnt/cd; n=0; until mount -t iso9660 -o ro /dev/sr1 /mnt/cd 2>/dev/null; do \
                 n=$((n + 1)); [ $n -lt 50 ]; usleep 100000; done; cat /mnt/cd/colour";
    assert_eq!(run(close), "red");
}

fn what_is_written_over_a_claim_that_is_only_read_is_lost(node: Node) {
    let namespace = TestNamespace::new("ephemeral");
    let claim = LocalClaim::filesystem(&namespace, "base", node);
    let disk = format!("{}/disk.img", claim.directory());
    node.shell(&format!(
        "printf BASE1 >{disk} && truncate -s 1M {disk} && chmod 644 {disk}"
    ))
    .expect_success();
    let source = json!({ "persistentVolumeClaim": { "claimName": "base" } });
    let machine = machine(
        node,
        json!([{ "name": "base", "disk": { "bus": "virtio" }, "serial": "base" }]),
        json!([{ "name": "base", "ephemeral": source }]),
    );
    namespace.apply(&machine);
    let pod = started(&namespace);
    let written = guest(
        &namespace,
        &pod,
        &format!(
            "{FIND}find_disk base; d=/dev/${{disk##*/}}; head -c 5 $d; \
             printf OWN-1 | dd of=$d conv=fsync 2>/dev/null; head -c 5 $d"
        ),
    );
    assert_eq!(written, "BASE1OWN-1");
    let kept = node.shell(&format!("head -c 5 {disk}")).expect_success();
    assert_eq!(kept, "BASE1");
    namespace.kubectl(&["delete", "vm", "vm"]).expect_success();
    namespace.wait_gone("vmi", "vm");
    namespace.wait_gone("pod", &pod);
}

fn a_file_of_the_node_is_a_disk_where_that_is_allowed(node: Node) {
    let namespace = TestNamespace::new("host-disk");
    let directory = format!("/var/lib/kubevirt-tests/{}", namespace.name());
    node.shell(&format!(
        "mkdir -p {directory} && chown 107:107 {directory}"
    ))
    .expect_success();
    let disk = json!({ "path": format!("{directory}/a,b.img"), "type": "DiskOrCreate", "capacity": "1Mi" });
    let machine = machine(
        node,
        json!([{ "name": "node", "disk": { "bus": "virtio" }, "serial": "node" }]),
        json!([{ "name": "node", "hostDisk": disk }]),
    );
    namespace.apply(&machine);
    let message = namespace.wait_for_event("vm", "hostDisk");
    assert!(
        message.contains("kubevirt.io/host-disks=allowed"),
        "{message}"
    );
    let label = |label: &str| {
        kubectl(&["label", "namespace", namespace.name(), "--overwrite", label]).expect_success();
    };
    label("kubevirt.io/host-disks=allowed");
    let pod = started(&namespace);
    let write = "find_disk node; printf FROM-GUEST | dd of=/dev/${disk##*/} conv=fsync 2>/dev/null";
    guest(&namespace, &pod, &format!("{FIND}{write}"));
    let seen = node.shell(&format!(
        "head -c 10 {directory}/a,b.img; stat -c ' %s %u' {directory}/a,b.img"
    ));
    assert_eq!(seen.expect_success(), "FROM-GUEST 1048576 107\n");
    namespace.kubectl(&["delete", "vm", "vm"]).expect_success();
    namespace.wait_gone("pod", &pod);

    // Pod Security has the last word.
    label("pod-security.kubernetes.io/enforce=baseline");
    namespace.apply(&machine);
    let message = namespace.wait_for_event("vm", "PodSecurity");
    assert!(message.contains("hostPath"), "{message}");
    namespace.kubectl(&["delete", "vm", "vm"]).expect_success();
    namespace.wait_gone("vmi", "vm");
    node.shell(&format!("rm -rf {directory}")).expect_success();
}

/// Without any disk: what runs can only be the kernel.
fn a_kernel_of_the_image_is_booted(node: Node) {
    let namespace = TestNamespace::new("kernel");
    let kernel = multiboot_kernel();
    let entries = [("boot/kernel", Entry::File(&kernel))];
    let disk = ContainerDisk::new(&namespace, node, &entries);
    let boot = json!({
        "container": {
            "image": disk.reference(), "kernelPath": "/boot/kernel", "imagePullPolicy": "IfNotPresent",
        },
        "kernelArgs": "a=b,c",
    });
    let vm = Manifest::virtual_machine("vm", image::TINY, node)
        .with(
            "/spec/template/spec/domain/firmware",
            json!({ "kernelBoot": boot }),
        )
        .with("/spec/template/spec/domain/devices/disks", json!([]))
        .with("/spec/template/spec/volumes", json!([]));
    namespace.apply(&vm);
    let pod = eventually(STARTED, || {
        let pods = namespace.list("pod", "vm.kubevirt.io/name=vm");
        let name = pods
            .first()
            .and_then(|pod| pod["metadata"]["name"].as_str());
        name.map(str::to_owned).ok_or("no pod yet".to_owned())
    });
    namespace.wait_for_log(&pod, "compute", "kernel runs");
}

/// A kernel of the Multiboot specification that prints on the first serial port and halts.
fn multiboot_kernel() -> Vec<u8> {
    const LOADED: u32 = 0x10_0000;
    const MAGIC: u32 = 0x1bad_b002;
    // The header tells addresses (bit 16), since this is no ELF file.
    const FLAGS: u32 = 0x1_0000;
    let message = b"kernel runs\r\n\0";
    let mut code = vec![
        0xbe, 0, 0, 0, 0, // mov esi, message
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz halt
        0xee, // out dx, al
        0xeb, 0xf8, // jmp next
        0xf4, 0xeb, 0xfd, // halt: hlt; jmp halt
    ];
    let header = 32;
    let text = LOADED + header + u32::try_from(code.len()).expect("it is short");
    code[1..5].copy_from_slice(&text.to_le_bytes());
    let end = text + u32::try_from(message.len()).expect("it is short");
    let fields = [
        MAGIC,
        FLAGS,
        0_u32.wrapping_sub(MAGIC + FLAGS),
        LOADED,
        LOADED,
        end,
        end,
        LOADED + header,
    ];
    let mut kernel: Vec<u8> = fields
        .iter()
        .flat_map(|field| field.to_le_bytes())
        .collect();
    kernel.extend(code);
    kernel.extend(message);
    kernel
}

/// An image with a disk of 1 MiB that begins with `content`.
fn image_with(namespace: &TestNamespace, node: Node, tag: &str, content: &[u8]) -> ContainerDisk {
    let mut disk = content.to_vec();
    disk.resize(1 << 20, 0);
    let entries = [("disk/disk.img", Entry::File(&disk))];
    ContainerDisk::named(namespace, node, tag, &entries)
}

/// By image volumes or, where the cluster has none, by containers without a process: the user need not know.
fn several_images_are_disks(node: Node) {
    let namespace = TestNamespace::new("images");
    let images = ["second", "third"].map(|name| {
        let content = name.to_uppercase();
        (name, image_with(&namespace, node, name, content.as_bytes()))
    });
    let disk = |name: &str| json!({ "name": name, "disk": { "bus": "virtio" }, "serial": name });
    let volume = |name: &str, image: &ContainerDisk| {
        json!({ "name": name, "containerDisk": {
            "image": image.reference(), "imagePullPolicy": "IfNotPresent",
        } })
    };
    let disks = images.each_ref().map(|(name, _)| disk(name));
    let volumes = images.each_ref().map(|(name, image)| volume(name, image));
    namespace.apply(&machine(node, json!(disks), json!(volumes)));
    let pod = started(&namespace);
    for (name, _) in &images {
        let read = format!(
            "{FIND}find_disk {name}; head -c {} /dev/${{disk##*/}}",
            name.len()
        );
        assert_eq!(guest(&namespace, &pod, &read), name.to_uppercase());
    }
    // What the guest writes is its own.
    let write = "find_disk second; d=/dev/${disk##*/}; printf OWN | dd of=$d conv=fsync 2>/dev/null; head -c 6 $d";
    assert_eq!(guest(&namespace, &pod, &format!("{FIND}{write}")), "OWNOND");
    let object = namespace.get("pod", &pod).expect("the pod is there");
    let sidecars = object["status"]["initContainerStatuses"].as_array();
    for sidecar in sidecars.into_iter().flatten() {
        assert!(sidecar["state"]["running"].is_object(), "{sidecar:#}");
        let name = sidecar["name"].as_str().expect("it has a name");
        let refused = namespace.kubectl(&["exec", &pod, "-c", name, "--", "true"]);
        assert!(refused.stderr.contains("runs no commands"), "{refused:?}");
        let log = namespace.kubectl(&["logs", &pod, "-c", name]);
        assert_eq!(log.expect_success(), "");
    }
    namespace.kubectl(&["delete", "vm", "vm"]).expect_success();
    namespace.wait_gone("vmi", "vm");
    namespace.wait_gone("pod", &pod);
}

/// Beside a disk that boots too: what runs can only be the kernel.
fn a_kernel_of_another_image_is_booted(node: Node) {
    let namespace = TestNamespace::new("kernel-image");
    let kernel = multiboot_kernel();
    let entries = [("boot/kernel", Entry::File(&kernel))];
    let image = ContainerDisk::new(&namespace, node, &entries);
    let boot = json!({ "container": {
        "image": image.reference(), "kernelPath": "/boot/kernel", "imagePullPolicy": "IfNotPresent",
    } });
    let vm = Manifest::virtual_machine("vm", image::TINY, node).with(
        "/spec/template/spec/domain/firmware",
        json!({ "kernelBoot": boot }),
    );
    namespace.apply(&vm);
    let pod = eventually(STARTED, || {
        let pods = namespace.list("pod", "vm.kubevirt.io/name=vm");
        let name = pods
            .first()
            .and_then(|pod| pod["metadata"]["name"].as_str());
        name.map(str::to_owned).ok_or("no pod yet".to_owned())
    });
    namespace.wait_for_log(&pod, "compute", "kernel runs");
}

/// A pod by hand whose machine, of the image `own`, has the disk `second` of another image.
fn pod_with_second_image(node: Node, own: &str, second: &ContainerDisk) -> Manifest {
    let wish = json!({
        "domain": { "devices": { "disks": [{ "name": "second", "disk": { "bus": "virtio" } }] } },
        "volumes": [{ "name": "second", "containerDisk": { "image": second.reference() } }],
    });
    let annotations = json!({
        "kubevirt.io/image-containers": "second=other",
        "kubevirt.io/vmi-spec": wish.to_string(),
    });
    let sidecar = json!([{
        "name": "other", "image": second.reference(), "imagePullPolicy": "IfNotPresent",
        "command": ["vm"], "restartPolicy": "Always",
    }]);
    Manifest::machine_pod("vm", own, node)
        .with("/metadata/annotations", annotations)
        .with("/spec/initContainers", sidecar)
}

fn a_guest_that_powers_off_ends_its_images_too(node: Node) {
    let namespace = TestNamespace::new("images-end");
    let second = image_with(&namespace, node, "second", b"SECOND");
    namespace.apply(&pod_with_second_image(node, image::POWER_OFF, &second));
    namespace.wait_for("pod", "vm", "/status/phase", "Succeeded");
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    let sidecar = &pod["status"]["initContainerStatuses"][0];
    assert_eq!(sidecar["restartCount"], 0, "{sidecar:#}");
    let ended = &sidecar["state"]["terminated"];
    assert_eq!(ended["exitCode"], 0, "{sidecar:#}");
    namespace.kubectl(&["delete", "pod", "vm"]).expect_success();
    namespace.wait_gone("pod", "vm");
}

fn a_link_out_of_a_further_image_is_refused(node: Node) {
    let namespace = TestNamespace::new("images-link");
    let entries = [("disk/disk.img", Entry::Symlink("/etc/shadow"))];
    let second = ContainerDisk::named(&namespace, node, "second", &entries);
    let words = ["volume second", "a symbolic link, not a regular file"];
    namespace.expect_refused(&pod_with_second_image(node, image::TINY, &second), &words);
}
