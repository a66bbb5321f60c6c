//! What a VirtualMachine says of its board, its firmware, its probes and its users, seen in its guest.

use serde_json::{Value, json};
use tests::{LocalClaim, Manifest, Node, STARTED, TestNamespace, eventually, image, on_both_nodes};

on_both_nodes!(
    a_machine_that_starts_paused_waits_for_its_resume,
    a_guest_is_ready_when_its_agent_answers,
    a_guest_sees_the_board_that_was_asked_for,
    uefi_variables_and_tpm_outlive_the_instance,
    keys_reach_the_guest_and_change_with_their_secret,
    what_does_not_work_is_refused_by_name,
);

const TEMPLATE: &str = "/spec/template/spec";

fn machine(image: &str, node: Node) -> Manifest {
    Manifest::virtual_machine("vm", image, node)
}

/// The name of the pod of the VirtualMachine `vm`.
#[track_caller]
fn pod(namespace: &TestNamespace) -> String {
    let pod = eventually(STARTED, || {
        let pods = namespace.list("pod", "vm.kubevirt.io/name=vm");
        pods.into_iter().next().ok_or_else(|| "no pod".to_owned())
    });
    pod["metadata"]["name"].as_str().expect("a name").to_owned()
}

#[track_caller]
fn guest(namespace: &TestNamespace, pod: &str, script: &str) -> String {
    let exec = ["exec", pod, "--", "sh", "-c", script];
    namespace.kubectl(&exec).expect_success()
}

fn a_machine_that_starts_paused_waits_for_its_resume(node: Node) {
    let namespace = TestNamespace::new("start-paused");
    let paused = machine(image::BOOT_SECTOR, node)
        .with(&format!("{TEMPLATE}/startStrategy"), json!("Paused"));
    namespace.apply(&paused);
    namespace.wait_for("vm", "vm", "/status/printableStatus", "Paused");
    let pod = pod(&namespace);
    let status = namespace
        .kubectl(&["exec", &pod, "--", "vm:status", "-o", "json"])
        .expect_success();
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["state"], "paused", "{status:#}");
    let log = namespace.kubectl(&["logs", &pod, "-c", "compute"]).text();
    assert_eq!(log, "", "the guest has not run");
    namespace
        .kubectl(&["exec", &pod, "--", "vm:resume"])
        .expect_success();
    eventually(STARTED, || {
        match namespace.kubectl(&["logs", &pod, "-c", "compute"]).text() {
            log if log.is_empty() => Err("nothing in the log".to_owned()),
            _ => Ok(()),
        }
    });
}

fn a_guest_is_ready_when_its_agent_answers(node: Node) {
    let namespace = TestNamespace::new("agent-ping");
    let ping = json!({ "guestAgentPing": {}, "periodSeconds": 2, "failureThreshold": 1 });
    let alive = json!({
        "httpGet": { "port": 80 }, "initialDelaySeconds": 5, "periodSeconds": 5,
        "failureThreshold": 60,
    });
    let probed = machine(image::TINY, node)
        .with(&format!("{TEMPLATE}/readinessProbe"), ping)
        .with(&format!("{TEMPLATE}/livenessProbe"), alive);
    namespace.apply(&probed);
    let ready = || {
        let vm = namespace.get("vm", "vm")?;
        let conditions = vm["status"]["conditions"].as_array().cloned();
        let mut conditions = conditions.unwrap_or_default().into_iter();
        let ready = conditions.find(|it| it["type"] == "Ready");
        Ok::<_, String>(ready.is_some_and(|it| it["status"] == "True"))
    };
    eventually(STARTED, || match ready()? {
        true => Ok(()),
        false => Err("not ready".to_owned()),
    });
    let pod = pod(&namespace);
    // Without its agent, it is not ready any more.
    let stop = "(sleep 2; killall -STOP qemu-ga) > /dev/null 2>&1 < /dev/null &";
    guest(&namespace, &pod, stop);
    eventually(STARTED, || match ready()? {
        false => Ok(()),
        true => Err("ready without an agent".to_owned()),
    });
}

fn a_guest_sees_the_board_that_was_asked_for(node: Node) {
    let namespace = TestNamespace::new("board");
    let at = |field: &str| format!("{TEMPLATE}/domain/{field}");
    let hyperv = json!({ "relaxed": {}, "spinlocks": {} });
    let furnished = machine(image::TINY, node)
        .with(
            &at("chassis"),
            json!({ "manufacturer": "Foo, Inc.", "asset": "A-1" }),
        )
        .with(&at("firmware"), json!({ "serial": "4711, x" }))
        .with(&at("clock"), json!({ "utc": { "offsetSeconds": 86_400 } }))
        .with(&at("features"), json!({ "smm": {}, "hyperv": hyperv }))
        .with(&at("devices/autoattachMemBalloon"), json!(false))
        .with(
            &at("devices/sound"),
            json!({ "name": "s", "model": "ac97" }),
        )
        .with(
            &at("devices/inputs"),
            json!([{ "name": "t", "type": "tablet", "bus": "usb" }]),
        )
        .with(
            &at("devices/interfaces/0/dhcpOptions"),
            json!({ "ntpServers": ["192.0.2.1"] }),
        );
    namespace.apply(&furnished);
    let pod = pod(&namespace);
    namespace.wait_for_log(&pod, "compute", image::TINY_READY);
    let dmi = "cd /sys/class/dmi/id; cat chassis_vendor chassis_asset_tag product_serial";
    assert_eq!(guest(&namespace, &pod, dmi), "Foo, Inc.\nA-1\n4711, x\n");
    let seconds = |text: String| text.trim().parse::<i64>().expect("a number");
    let ahead = seconds(guest(&namespace, &pod, "date +%s"))
        - seconds(node.shell("date +%s").expect_success());
    assert!((ahead - 86_400).abs() < 120, "the clock is {ahead} s ahead");
    let devices = guest(&namespace, &pod, "cat /sys/bus/pci/devices/*/device");
    // xhci of QEMU, AC'97; no balloon.
    for (id, there) in [("0x000d", true), ("0x2415", true), ("0x1045", false)] {
        assert_eq!(
            devices.lines().any(|line| line == id),
            there,
            "{id}: {devices}"
        );
    }
    let vmi = namespace.get("vmi", "vm").expect("the instance is there");
    let conditions = vmi["status"]["conditions"].to_string();
    if conditions.contains("SoftwareEmulation") {
        assert!(
            conditions.contains("domain.features.hyperv.relaxed"),
            "{conditions}"
        );
    }
}

fn uefi_variables_and_tpm_outlive_the_instance(node: Node) {
    let namespace = TestNamespace::new("state");
    // The bench has no default storage class: the claim that the controller would make is there.
    let claim = LocalClaim::filesystem(&namespace, "persistent-state-for-vm", node);
    let at = |field: &str| format!("{TEMPLATE}/domain/{field}");
    let efi = json!({ "bootloader": { "efi": { "secureBoot": false, "persistent": true } } });
    let keeping = machine(image::TINY, node)
        // The firmware takes its part before Linux does.
        .with(&at("memory"), json!({ "guest": "256Mi" }))
        .with(&at("firmware"), efi)
        .with(&at("devices/tpm"), json!({ "persistent": true }));
    namespace.apply(&keeping);
    let first = pod(&namespace);
    namespace.wait_for_log(&first, "compute", image::TINY_READY);
    let digest = format!(
        "cd {}; ls uefi-vars.fd tpm/tpm2-00.permall",
        claim.directory()
    );
    node.shell(&digest).expect_success();
    let inode = format!("stat -c %i {}/uefi-vars.fd", claim.directory());
    let before = node.shell(&inode).expect_success();
    namespace
        .kubectl(&["delete", "vmi", "vm", "--wait=true"])
        .expect_success();
    let second = eventually(STARTED, || match pod(&namespace) {
        name if name == first => Err("the first pod is still there".to_owned()),
        name => Ok(name),
    });
    namespace.wait_for_log(&second, "compute", image::TINY_READY);
    assert_eq!(node.shell(&inode).expect_success(), before);
}

fn keys_reach_the_guest_and_change_with_their_secret(node: Node) {
    let namespace = TestNamespace::new("credentials");
    let secret = |key: &str| {
        Manifest::new(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "keys" },
            "stringData": { "key1": key },
        }))
    };
    let key = |who: &str| format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI {who}");
    namespace.apply(&secret(&key("first")));
    let credentials = json!([{ "sshPublicKey": {
        "source": { "secret": { "secretName": "keys" } },
        "propagationMethod": { "qemuGuestAgent": { "users": ["root"] } },
    } }]);
    let machine =
        machine(image::TINY, node).with(&format!("{TEMPLATE}/accessCredentials"), credentials);
    namespace.apply(&machine);
    let pod = pod(&namespace);
    namespace.wait_for_log(&pod, "compute", image::TINY_READY);
    let has = |wanted: &str| {
        let file = ["exec", &pod, "--", "cat", "/root/.ssh/authorized_keys"];
        match namespace.kubectl(&file).text() {
            text if text.contains(wanted) && text.lines().count() == 1 => Ok(()),
            text => Err(text),
        }
    };
    eventually(STARTED, || has("first"));
    eventually(STARTED, || {
        let vmi = namespace.get("vmi", "vm")?;
        let conditions = vmi["status"]["conditions"].as_array().cloned();
        let synchronized = conditions.into_iter().flatten().any(|condition| {
            condition["type"] == "AccessCredentialsSynchronized" && condition["status"] == "True"
        });
        synchronized.then_some(()).ok_or(format!("{vmi:#}"))
    });
    // Kubelet looks for changes once a minute or so.
    namespace.apply(&secret(&key("second")));
    eventually(STARTED * 3, || has("second"));
    let status = namespace
        .kubectl(&["exec", &pod, "--", "vm:status", "-o", "json"])
        .expect_success();
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(
        status["accessCredentials"]["synchronized"], true,
        "{status:#}"
    );
}

fn what_does_not_work_is_refused_by_name(node: Node) {
    let namespace = TestNamespace::new("wishes-refused");
    let at = |field: &str| format!("{TEMPLATE}/{field}");
    // What no machine can have, kubectl itself is told.
    let wrong = machine(image::BOOT_SECTOR, node)
        .with(
            &at("domain/cpu"),
            json!({ "numa": { "guestMappingPassthrough": {} } }),
        )
        .with(&at("domain/devices/downwardMetrics"), json!({}));
    let said = namespace.try_apply(&wrong).stderr;
    for path in [
        "spec.template.spec.domain.cpu.numa.guestMappingPassthrough",
        "spec.template.spec.domain.devices.downwardMetrics",
    ] {
        assert!(said.contains(path), "{path} is not named: {said}");
    }
    // What KubeVirt has and this product has not is taken with a warning, and then refused.
    let elsewhere = machine(image::BOOT_SECTOR, node)
        .with(&at("evictionStrategy"), json!("LiveMigrate"))
        .with(&at("domain/clock"), json!({ "timezone": "Middle/Earth" }));
    let warned = namespace.try_apply(&elsewhere).stderr;
    let told = eventually(STARTED, || {
        let vmi = namespace.get("vmi", "vm")?;
        let conditions = vmi["status"]["conditions"].as_array().cloned();
        let condition = conditions.into_iter().flatten().find(|condition| {
            condition["type"] == "Synchronized" && condition["reason"] == "UnsupportedField"
        });
        condition.map_or_else(|| Err(format!("{vmi:#}")), |found| Ok(found.to_string()))
    });
    for path in ["evictionStrategy", "domain.clock.timezone"] {
        assert!(told.contains(path), "{path} is not named: {told}");
        assert!(warned.contains(path), "no warning of {path}: {warned}");
    }
}
