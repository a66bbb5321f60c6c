//! Kinds of volumes and options of disks, down to a QEMU that runs with them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::boots::{kill, read_until, wait};
use crate::guest::{self, GREETING, Then};
use crate::pod::Pod;

/// The machine of `pod` boots what prints `words`.
fn boots(pod: &Pod, words: &str) {
    boots_while(pod, words, || ());
}

/// The same, and `look` is called before the guest starts.
fn boots_while(pod: &Pod, words: &str, look: impl FnOnce()) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let launched = pod.launch().await.unwrap();
        look();
        launched.qmp.cont().await.unwrap();
        let said = read_until(&launched.console, words);
        assert!(said.contains(words), "{said:?}");
        kill(&launched);
        wait(&launched);
    });
    cri_glue::record::undo(&pod.bundle()).unwrap();
}

/// Whom the controller's pods run as; what is on the way to their mounts is closed to them.
const USER: u32 = 107;

/// A pod of that user.
fn pod_of_user() -> Pod {
    let mut pod = Pod::new();
    pod.spec["process"]["user"] = json!({"uid": USER, "gid": USER});
    let above = pod.path("");
    fs::set_permissions(above, PermissionsExt::from_mode(0o700)).unwrap();
    pod
}

/// A directory of the pod's with these files.
fn directory(pod: &Pod, name: &str, files: &[(&str, &str)]) -> std::path::PathBuf {
    let path = pod.path(name);
    fs::create_dir_all(&path).unwrap();
    for (file, content) in files {
        fs::write(path.join(file), content).unwrap();
    }
    path
}

/// A pod whose one volume, of this source, is mounted as the disk `root` on this bus.
fn with_root(source: Value, bus: &str) -> Pod {
    let mut pod = pod_of_user();
    let mut volume = source;
    volume["name"] = "root".into();
    pod.wish(&json!({
        "domain": {"devices": {"disks": [{"name": "root", "disk": {"bus": bus}}]}},
        "volumes": [volume],
    }));
    pod
}

#[test]
fn a_machine_boots_from_every_bus() {
    for bus in ["virtio", "sata", "scsi", "usb"] {
        let pod = with_root(json!({"containerDisk": {"image": "x"}}), bus);
        guest::write_disk(&pod.disk("disk.img"), Then::Halt);
        boots(&pod, GREETING);
    }
}

#[test]
fn a_claim_that_is_only_read_is_a_base() {
    let source = json!({"ephemeral": {"persistentVolumeClaim": {"claimName": "c"}}});
    let mut pod = with_root(source, "sata");
    let claim = directory(&pod, "claim", &[]);
    guest::write_disk(&claim.join("disk.img"), Then::Halt);
    pod.mount("/volumes/root", &claim, "ro");
    // Others may read it meanwhile, and nobody writes.
    boots_while(&pod, GREETING, || {
        use rustix::fs::{FlockOperation, flock};
        let file = fs::File::open(claim.join("disk.img")).unwrap();
        flock(&file, FlockOperation::NonBlockingLockShared).unwrap();
        assert!(flock(&file, FlockOperation::NonBlockingLockExclusive).is_err());
    });
}

#[test]
fn a_file_of_a_directory_of_the_node_is_a_disk() {
    let source = json!({"hostDisk": {"path": "/any/where/a,b.img", "type": "Disk"}});
    let mut pod = with_root(source.clone(), "virtio");
    let data = directory(&pod, "data", &[("other", "")]);
    pod.mount("/volumes/root", &data, "rw");
    pod.refused(&["no \"a,b.img\" in its directory of the node"]);
    guest::write_disk(&data.join("a,b.img"), Then::Halt);
    pod.refused(&["cannot be opened by user 107", "Permission denied"]);
    chown(data.join("a,b.img"), Some(USER), None).unwrap();
    boots(&pod, GREETING);
    fs::remove_file(data.join("a,b.img")).unwrap();
    symlink("/etc/passwd", data.join("a,b.img")).unwrap();
    pod.refused(&["volume root", "a symbolic link"]);
}

#[test]
fn an_image_that_the_pod_mounts_is_a_disk_beside_its_own() {
    let mut pod = pod_of_user();
    fs::write(pod.disk("disk.img"), vec![0; 1 << 20]).unwrap();
    let image = directory(&pod, "image", &[]);
    fs::create_dir(image.join("disk")).unwrap();
    guest::write_disk(&image.join("disk/disk.img"), Then::Halt);
    let wish = |path: &str| {
        json!({
            "domain": {"devices": {"disks": [
                {"name": "second", "disk": {"bus": "virtio"}, "bootOrder": 1},
            ]}},
            "volumes": [{"name": "second", "containerDisk": {"image": "x", "path": path}}],
        })
    };
    pod.wish(&wish(""));
    pod.mount("/volumes/second", &image, "ro");
    boots(&pod, GREETING);
    // Which of two it is, the path says.
    fs::rename(image.join("disk/disk.img"), image.join("disk/second.img")).unwrap();
    fs::write(image.join("disk/first.img"), vec![0; 1 << 20]).unwrap();
    pod.wish(&wish("/disk/second.img"));
    boots(&pod, GREETING);
    symlink("/etc/passwd", image.join("disk/link")).unwrap();
    pod.wish(&wish("/disk/link"));
    pod.refused(&["volume second", "/disk/link"]);
    pod.spec["mounts"].as_array_mut().unwrap().pop();
    pod.mount("/volumes/second", &image, "rw");
    pod.refused(&["volume second", "writable"]);
}

#[test]
fn an_image_that_is_a_container_is_a_disk_beside_its_own() {
    let mut pod = pod_of_user();
    fs::write(pod.disk("disk.img"), vec![0; 1 << 20]).unwrap();
    let image = directory(&pod, "image", &[]);
    fs::create_dir(image.join("disk")).unwrap();
    let disk = image.join("disk/disk.img");
    guest::write_disk(&disk, Then::Halt);
    // As in the machine container's own image, whoever of the image's users owns the file.
    fs::set_permissions(&disk, PermissionsExt::from_mode(0o600)).unwrap();
    pod.wish(&json!({
        "domain": {"devices": {"disks": [
            {"name": "second", "disk": {"bus": "virtio"}, "bootOrder": 1},
        ]}},
        "volumes": [{"name": "second", "containerDisk": {"image": "x"}}],
    }));
    pod.annotate("kubevirt.io/image-containers", "second=image-second");
    pod.refused(&["container image-second", "volume second", "is not there"]);
    pod.images.insert("image-second".into(), image.clone());
    boots(&pod, GREETING);
    fs::remove_file(&disk).unwrap();
    symlink("/etc/shadow", &disk).unwrap();
    pod.refused(&["volume second", "a symbolic link, not a regular file"]);
    fs::remove_file(&disk).unwrap();
    fs::remove_dir(image.join("disk")).unwrap();
    symlink(pod.rootfs().join("disk"), image.join("disk")).unwrap();
    pod.refused(&["volume second", "a symbolic link, not a directory"]);
    pod.annotate(
        "kubevirt.io/image-containers",
        "second=image-second,other=image-second",
    );
    pod.refused(&["no containerDisk other"]);
    pod.mount("/volumes/second", &image, "ro");
    pod.refused(&["/volumes/second too"]);
}

/// Settings in every form, on every bus, beside the disk that boots.
#[test]
fn settings_and_seeds_are_disks_on_every_bus() {
    let mut pod = pod_of_user();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    let files: &[(&str, &str)] = &[
        ("a,b", "c"),
        ("Unattend.xml", "<unattend/>"),
        ("userdata", "x"),
    ];
    let mount = directory(&pod, "settings", files);
    let disk = |name: &str, bus: &str| json!({"name": name, "disk": {"bus": bus}});
    let disks = json!([
        disk("boot", "virtio"), disk("map", "sata"), disk("secret", "virtio"), disk("about", "scsi"),
        disk("account", "usb"), {"name": "answers", "cdrom": {"bus": "sata"}},
        {"name": "drive", "cdrom": {"bus": "usb"}}, {"name": "empty", "cdrom": {"bus": "scsi"}},
        {"name": "open", "cdrom": {"tray": "open"}},
    ]);
    let volumes = json!([
        {"name": "boot", "containerDisk": {"image": "x"}},
        {"name": "map", "configMap": {"name": "a", "volumeLabel": "a,b"}},
        {"name": "secret", "secret": {"secretName": "a"}},
        {"name": "about", "downwardAPI": {"fields": []}},
        {"name": "account", "serviceAccount": {"serviceAccountName": "a"}},
        {"name": "answers", "sysprep": {"secret": {"name": "a"}}},
        {"name": "drive", "cloudInitConfigDrive": {"secretRef": {"name": "a"}}},
        {"name": "open", "configMap": {"name": "a"}},
    ]);
    for volume in volumes.as_array().unwrap().iter().skip(1) {
        let name = volume["name"].as_str().unwrap();
        pod.mount(&format!("/volumes/{name}"), &mount, "ro");
    }
    pod.wish(&json!({"domain": {"devices": {"disks": disks}}, "volumes": volumes}));
    boots(&pod, GREETING);
    symlink("/etc/passwd", mount.join("out")).unwrap();
    pod.refused(&["volume map", "\"out\""]);
    fs::remove_file(mount.join("out")).unwrap();
    fs::remove_file(mount.join("Unattend.xml")).unwrap();
    pod.refused(&["volume answers", "autounattend.xml"]);
}

#[test]
fn qemu_takes_the_options_of_disks() {
    let mut pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    let claim = directory(&pod, "claim", &[]);
    fs::write(claim.join("disk.img"), vec![0; 1 << 20]).unwrap();
    let custom = json!({"custom": {"logical": 4096, "physical": 8192, "discardGranularity": 4096}});
    let disks = json!([
        {"name": "boot", "disk": {"bus": "virtio"}, "dedicatedIOThread": true, "errorPolicy": "enospace"},
        {"name": "claim", "disk": {"bus": "virtio"}, "blockSize": {"matchVolume": {}}, "errorPolicy": "ignore"},
        {"name": "large", "disk": {"bus": "scsi"}, "blockSize": custom, "errorPolicy": "report"},
        {"name": "stick", "disk": {"bus": "usb", "readonly": true}, "serial": "x".repeat(36)},
        {"name": "placed", "disk": {"bus": "virtio", "pciAddress": "0000:00:1e.0"}, "errorPolicy": "stop"},
    ]);
    let empty = |name: &str| json!({"name": name, "emptyDisk": {"capacity": "1Mi"}});
    pod.wish(&json!({
        "domain": {
            "ioThreadsPolicy": "supplementalPool", "ioThreads": {"supplementalPoolThreadCount": 2},
            "devices": {"disks": disks, "blockMultiQueue": true},
        },
        "volumes": [
            {"name": "boot", "containerDisk": {"image": "x"}},
            {"name": "claim", "dataVolume": {"name": "c"}},
            empty("large"), empty("stick"), empty("placed"),
        ],
    }));
    pod.mount("/volumes/claim", &claim, "rw");
    boots(&pod, GREETING);
}

#[test]
fn a_kernel_is_booted_from_an_image() {
    let mut pod = pod_of_user();
    let write = |root: &Path, mode| {
        fs::create_dir_all(root.join("boot")).unwrap();
        fs::write(root.join("boot/kernel"), kernel()).unwrap();
        fs::set_permissions(root.join("boot/kernel"), PermissionsExt::from_mode(mode)).unwrap();
    };
    pod.wish(&json!({"domain": {"firmware": {"kernelBoot": {
        "container": {"image": "x", "kernelPath": "/boot/kernel"}, "kernelArgs": "a=b,c -S",
    }}}}));
    pod.refused(&["kernelBoot", "/boot/kernel"]);
    write(&pod.rootfs(), 0o644);
    boots(&pod, GREETING);
    write(&pod.rootfs(), 0o600);
    pod.refused(&["kernelBoot", "cannot be read by user", "chmod a+r"]);
    fs::remove_file(pod.rootfs().join("boot/kernel")).unwrap();
    let image = directory(&pod, "image", &[]);
    write(&image, 0o644);
    pod.annotate("kubevirt.io/image-containers", "kernel-boot=k");
    pod.images.insert("k".into(), image.clone());
    boots(&pod, GREETING);
    pod.spec["annotations"]
        .as_object_mut()
        .unwrap()
        .remove("kubevirt.io/image-containers");
    pod.mount("/volumes/kernel-boot", &image, "ro");
    boots(&pod, GREETING);
}

/// A kernel of the Multiboot specification that prints the same.
fn kernel() -> Vec<u8> {
    const LOADED: u32 = 0x10_0000;
    const MAGIC: u32 = 0x1bad_b002;
    // The header tells addresses (bit 16), since this is no ELF file.
    const FLAGS: u32 = 0x1_0000;
    const HEADER: u32 = 32;
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
    let text = LOADED + HEADER + u32::try_from(code.len()).unwrap();
    code[1..5].copy_from_slice(&text.to_le_bytes());
    code.extend(GREETING.bytes().chain(*b"\r\n\0"));
    let end = LOADED + HEADER + u32::try_from(code.len()).unwrap();
    let checksum = 0_u32.wrapping_sub(MAGIC + FLAGS);
    let fields = [
        MAGIC,
        FLAGS,
        checksum,
        LOADED,
        LOADED,
        end,
        end,
        LOADED + HEADER,
    ];
    let header = fields.iter().flat_map(|field| field.to_le_bytes());
    header.chain(code).collect()
}
