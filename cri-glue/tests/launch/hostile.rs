//! Bad and hostile input: each gets one sentence that names it, and leaves nothing.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;

use crate::guest::{self, Then};
use crate::pod::{MIB, Pod, run};

/// A pod whose image holds what `make` makes of the path of its disk is refused with these words.
#[track_caller]
fn image(make: impl FnOnce(&Path), words: &[&str]) {
    let pod = Pod::new();
    make(&pod.disk("disk.img"));
    pod.refused(words);
}

/// The same for the claim behind the volume `data`, whose directory `make` fills.
#[track_caller]
fn claim(make: impl FnOnce(&Path), words: &[&str]) {
    claim_of(
        json!({"name": "data", "disk": {"bus": "virtio"}}),
        make,
        words,
    );
}

#[track_caller]
fn claim_of(disk: serde_json::Value, make: impl FnOnce(&Path), words: &[&str]) {
    let mut pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    fs::create_dir(pod.path("claim")).unwrap();
    make(&pod.path("claim"));
    pod.mount("/volumes/data", &pod.path("claim"), "rw");
    pod.wish(&json!({
        "domain": {"devices": {"disks": [disk]}},
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]
    }));
    let before = entries(&pod.path("claim"));
    pod.refused(words);
    assert_eq!(
        entries(&pod.path("claim")),
        before,
        "the claim is as it was"
    );
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().path().display().to_string())
        .collect()
}

fn qemu_img(arguments: &str) {
    run(&format!("qemu-img {arguments} >/dev/null"));
}

#[test]
fn a_link_out_of_the_image() {
    let words = ["disk.img", "symbolic link"];
    image(|disk| symlink("/etc/shadow", disk).unwrap(), &words);
    image(
        |disk| symlink("../../../../../etc/shadow", disk).unwrap(),
        &words,
    );
    image(|disk| symlink("/proc/self/exe", disk).unwrap(), &words);
}

#[test]
fn a_link_in_place_of_the_directory() {
    let pod = Pod::new();
    symlink("/etc", pod.rootfs().join("disk")).unwrap();
    pod.refused(&["/disk", "symbolic link"]);
}

#[test]
fn a_path_that_leads_out() {
    for (path, words) in [
        ("/../../etc/shadow", "/../../etc/shadow"),
        ("../etc/shadow", "../etc/shadow"),
        ("/link/shadow", "/link/shadow"),
    ] {
        let mut pod = Pod::new();
        symlink("/etc", pod.rootfs().join("link")).unwrap();
        pod.wish(&json!({
            "volumes": [{"name": "root", "containerDisk": {"image": "x", "path": path}}]
        }));
        pod.refused(&[words]);
    }
}

#[test]
fn what_is_no_file() {
    image(
        |disk| fs::create_dir(disk).unwrap(),
        &["disk.img", "a directory"],
    );
    let special =
        |kind: &'static str| move |disk: &Path| run(&format!("mknod {} {kind}", disk.display()));
    image(special("p"), &["disk.img", "a FIFO"]);
    image(special("c 1 5"), &["disk.img", "a character device"]);
    image(special("b 7 0"), &["disk.img", "a block device"]);
    image(
        |disk| drop(std::os::unix::net::UnixListener::bind(disk).unwrap()),
        &["disk.img", "a socket"],
    );
}

/// A hard link cannot be told from the file: what it names is judged like any other.
#[test]
fn a_hard_link_in_the_image() {
    let linked = |make: fn(&Path)| {
        move |disk: &Path| {
            let other = disk.parent().unwrap().with_file_name("other");
            make(&other);
            fs::hard_link(other, disk).unwrap();
        }
    };
    let words = ["disk.img", "symbolic link"];
    image(
        linked(|other| symlink("/etc/shadow", other).unwrap()),
        &words,
    );
    let fifo = |other: &Path| run(&format!("mkfifo {}", other.display()));
    image(linked(fifo), &["disk.img", "a FIFO"]);
    let file = |other: &Path| fs::write(other, [0; 700]).unwrap();
    image(linked(file), &["disk boot", "700"]);
}

#[test]
fn names_in_an_image_that_are_no_words() {
    image(
        |disk| {
            run(&format!(
                "mkfifo '{}'",
                disk.with_file_name("a\nb,c=d").display()
            ))
        },
        &[r#""/disk/a\nb,c=d""#, "a FIFO"],
    );
    image(
        |disk| (0..50_000).for_each(|n| drop(File::create(disk.with_file_name(n.to_string())))),
        &["more than one"],
    );
}

#[test]
fn no_disk_two_disks_and_empty_ones() {
    image(|_| {}, &["no disk in the image"]);
    let pod = Pod::new();
    guest::write_disk(&pod.disk("a.img"), Then::Halt);
    guest::write_disk(&pod.disk("b.img"), Then::Halt);
    pod.refused(&["a.img", "b.img", "more than one"]);
    image(
        |disk| drop(File::create(disk).unwrap()),
        &["disk boot", "empty"],
    );
    image(
        |disk| fs::write(disk, [0; 700]).unwrap(),
        &["disk boot", "700"],
    );
}

#[test]
fn qcow2_that_names_other_files() {
    let backing = |name: &str, format: &str| {
        let options = format!("create -f qcow2 -u -b {name} -F {format}");
        move |disk: &Path| qemu_img(&format!("{options} {} 1M", disk.display()))
    };
    image(
        backing("/etc/shadow", "raw"),
        &["disk boot", "backing file"],
    );
    image(
        backing("json:{\\\"driver\\\":\\\"host_device\\\"}", "raw"),
        &["backing file"],
    );
    image(
        |disk| {
            let data = disk.with_file_name("data");
            let (disk, data) = (disk.display(), data.display());
            qemu_img(&format!(
                "create -f qcow2 -o data_file={data},data_file_raw=on {disk} 1M"
            ));
            run(&format!("rm {data}"));
        },
        &["disk boot", "data in another file"],
    );
}

#[test]
fn qcow2_that_is_cut_off_or_absurd() {
    image(
        |disk| {
            qemu_img(&format!("create -f qcow2 {} 1G", disk.display()));
            File::options()
                .write(true)
                .open(disk)
                .unwrap()
                .set_len(80)
                .unwrap();
        },
        &["disk boot"],
    );
    image(
        |disk| {
            qemu_img(&format!("create -f qcow2 {} 1G", disk.display()));
            let mut bytes = fs::read(disk).unwrap();
            bytes[24..32].copy_from_slice(&u64::MAX.to_be_bytes());
            fs::write(disk, bytes).unwrap();
        },
        &["disk boot"],
    );
}

#[test]
fn claims_that_are_no_disk() {
    claim(
        |claim| symlink("/etc/shadow", claim.join("disk.img")).unwrap(),
        &["data", "symbolic link"],
    );
    claim(
        |claim| fs::create_dir(claim.join("disk.img")).unwrap(),
        &["data", "a directory"],
    );
    let node = |kind: &'static str| {
        move |claim: &Path| {
            run(&format!(
                "mknod {} {kind}",
                claim.join("disk.img").display()
            ))
        }
    };
    claim(node("b 7 0"), &["data", "a block device"]);
    claim(node("p"), &["data", "a FIFO"]);
    claim(
        |claim| drop(File::create(claim.join("disk.img")).unwrap()),
        &["data", "empty"],
    );
    claim(
        |claim| fs::write(claim.join("debian.qcow2"), "x").unwrap(),
        &["data", "debian.qcow2"],
    );
    claim(|_| {}, &["data", "kubevirt.io/volume-sizes"]);
    let mut pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    fs::create_dir(pod.path("claim")).unwrap();
    make_device(&pod.path("claim/.disk.img.unfinished"));
    pod.mount("/volumes/data", &pod.path("claim"), "rw");
    pod.annotate("kubevirt.io/volume-sizes", r#"{"data": "100Mi"}"#);
    pod.wish(&json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]}));
    pod.refused(&[".disk.img.unfinished", "a character device"]);
}

#[test]
fn a_claim_that_the_pods_user_cannot_read() {
    let mut pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    let claim = pod.path("claim");
    fs::create_dir(&claim).unwrap();
    fs::set_permissions(&claim, fs::Permissions::from_mode(0o755)).unwrap();
    guest::write_disk(&claim.join("disk.img"), Then::Halt);
    fs::set_permissions(claim.join("disk.img"), fs::Permissions::from_mode(0o600)).unwrap();
    pod.mount("/volumes/data", &claim, "rw");
    pod.wish(&json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]}));
    pod.spec["process"]["user"] = json!({"uid": 1234, "gid": 1234});
    pod.refused(&["volume data", "user 1234", "Permission denied"]);
}

#[test]
fn a_read_only_claim_without_a_disk() {
    let disk = json!({"name": "data", "disk": {"bus": "virtio", "readonly": true}});
    claim_of(disk, |_| {}, &["volume data", "read-only"]);
}

#[test]
fn a_device_that_does_not_exist() {
    let mut pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    pod.spec["linux"]["devices"] =
        json!([{"path": "/volumes/data", "type": "b", "major": 255, "minor": 250}]);
    pod.wish(&json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]}));
    pod.refused(&["volume data", "255:250"]);
}

#[test]
fn memory_that_does_not_fit() {
    let plain = || {
        let pod = Pod::new();
        guest::write_disk(&pod.disk("disk.img"), Then::Halt);
        pod
    };
    let mut pod = plain();
    pod.spec["linux"]["resources"]["memory"]["limit"] = MIB.into();
    pod.refused(&["memory", "MiB"]);
    let mut pod = plain();
    pod.spec["linux"]["resources"]["memory"]["limit"] = (1_u64 << 39).into();
    pod.refused(&["more than the node's"]);
    let mut pod = plain();
    pod.spec["linux"]["resources"]["memory"] = json!({});
    pod.refused(&["resources.limits.memory"]);
    let mut pod = plain();
    pod.wish(&json!({"domain": {"memory": {"guest": "1Gi"}}}));
    pod.refused(&["1024 MiB", "64 MiB"]);
}

#[test]
fn a_pod_without_overhead() {
    let pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    pod.limit_memory(100 * MIB);
    pod.refused(&["100 MiB", "64 MiB", "podFixed", "no KVM"]);
}

#[test]
fn wishes_that_are_refused() {
    let wish = |annotation: &str, words: &[&str]| {
        let mut pod = Pod::new();
        guest::write_disk(&pod.disk("disk.img"), Then::Halt);
        pod.annotate("kubevirt.io/vmi-spec", annotation);
        pod.refused(words);
    };
    wish("{", &["kubevirt.io/vmi-spec", "not JSON"]);
    wish(r#"{"domain": {"cpus": 1}}"#, &["domain.cpus"]);
    wish(
        r#"{"volumes": [{"name": "a", "hostDisk": {"path": "/x", "type": "Disk"}}]}"#,
        &["hostDisk"],
    );
    wish(
        r#"{"domain": {"devices": {"downwardMetrics": {}}}}"#,
        &["domain.devices.downwardMetrics"],
    );
    wish(
        r#"{"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "c"}}]}"#,
        &["/volumes/a"],
    );
    wish(r#"{"domain": {"firmware": {"uuid": "x"}}}"#, &["uuid"]);
    wish(
        &"[".repeat(100_000),
        &["kubevirt.io/vmi-spec", "invalid type"],
    );
    let deep = format!(r#"{{"x": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    wish(&deep, &["no such field: x"]);
    let empty = |name| json!({"volumes": [{"name": name, "emptyDisk": {"capacity": "1Mi"}}]});
    for name in ["a,b", "a=b", "a\nb", "a\0b", "../b"] {
        wish(&empty(name).to_string(), &["volumes[0].name"]);
    }
    let path =
        |path| json!({"volumes": [{"name": "a", "containerDisk": {"image": "x", "path": path}}]});
    wish(
        &path("/disk/a\0b").to_string(),
        &["volumes[0].containerDisk"],
    );
    let disks = vec![r#"{"name":"a"}"#; 20_000].join(",");
    let many = format!(r#"{{"domain":{{"devices":{{"disks":[{disks}]}}}}}}"#);
    wish(&many, &["domain.devices.disks", "more than 256"]);
    let million = format!(r#"{{"volumes": [{}{{}}]}}"#, "{},".repeat(1_000_000));
    wish(&million, &["kubevirt.io/vmi-spec", "at most 262144"]);
}

#[test]
fn mounts_that_nobody_refers_to() {
    for (destination, words) in [
        (
            "/volumes/data",
            &["/volumes/data", "add the volume or remove the mount"][..],
        ),
        ("/data", &["mount /data"][..]),
    ] {
        let mut pod = Pod::new();
        guest::write_disk(&pod.disk("disk.img"), Then::Halt);
        pod.mount(destination, Path::new("/tmp"), "rw");
        pod.refused(words);
    }
}

#[test]
fn a_mount_for_a_volume_that_takes_none() {
    let mut pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    pod.mount("/volumes/scratch", Path::new("/tmp"), "rw");
    pod.wish(&json!({"volumes": [{"name": "scratch", "emptyDisk": {"capacity": "1Mi"}}]}));
    pod.refused(&["/volumes/scratch"]);
}

#[test]
fn a_seed_whose_secret_has_no_key() {
    let mut pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    fs::create_dir(pod.path("secret")).unwrap();
    pod.mount("/volumes/seed", &pod.path("secret"), "ro");
    pod.wish(&json!({
        "volumes": [{"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "s"}}}]
    }));
    pod.refused(&["volume seed", "no key userdata"]);
}

#[test]
fn settings_that_are_too_much_together() {
    let mut pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    fs::create_dir(pod.path("settings")).unwrap();
    for name in ["x", "y", "z"] {
        fs::write(pod.path("settings").join(name), vec![0; 1 << 20]).unwrap();
    }
    let names = ["a", "b", "c"];
    for name in names {
        pod.mount(&format!("/volumes/{name}"), &pod.path("settings"), "ro");
    }
    let disks = names.map(|name| json!({"name": name, "disk": {"bus": "virtio"}}));
    let volumes = names.map(|name| json!({"name": name, "configMap": {"name": "m"}}));
    pod.wish(&json!({"domain": {"devices": {"disks": disks}}, "volumes": volumes}));
    pod.refused(&["volume c", "more than 8 MiB in all"]);
}

/// A device that no driver serves: had it been opened, the error would say so.
fn make_device(path: &Path) {
    run(&format!("mknod -m 666 {} c 255 250", path.display()));
}

#[test]
fn a_device_in_place_of_a_secret() {
    let mut pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    fs::create_dir(pod.path("secret")).unwrap();
    make_device(&pod.path("secret/userdata"));
    pod.mount("/volumes/seed", &pod.path("secret"), "ro");
    pod.wish(&json!({
        "volumes": [{"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "s"}}}]
    }));
    pod.refused(&["volume seed", "a character device, not a regular file"]);
}

#[test]
fn resolver_settings_of_the_pods_own() {
    let pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    let path = pod.path("resolv.conf");
    fs::remove_file(&path).unwrap();
    make_device(&path);
    pod.refused(&["resolv.conf", "a character device, not a regular file"]);
    fs::remove_file(&path).unwrap();
    symlink("/etc/shadow", &path).unwrap();
    pod.refused(&["resolv.conf", "a symbolic link"]);
}

#[test]
fn resolver_settings_that_the_pods_user_cannot_read() {
    let mut pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    let path = pod.path("resolv.conf");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    pod.spec["process"]["user"] = json!({"uid": 1234, "gid": 1234});
    pod.refused(&["resolv.conf", "Permission denied"]);
}
