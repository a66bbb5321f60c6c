//! What containerd runs as commands, and what it reads from them.

use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::shim_async::Client;
use containerd_shim::protos::ttrpc::Request;
use containerd_shim::protos::types::introspection::RuntimeInfo;

use crate::pod::{Pod, run};

#[tokio::test]
async fn info_is_a_bare_message_and_version_is_for_people() {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    let options = pod.options().write_to_bytes().unwrap();
    let info = run(pod.program("sandbox").arg("-info"), &options);
    let info = RuntimeInfo::parse_from_bytes(&info.stdout).unwrap();
    assert!(info.features.type_url.ends_with("/features/Features"));
    let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
    let namespaces = features["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.iter().any(|namespace| namespace == "user"));
    assert_eq!(info.name, "io.containerd.kubevirt.v1");
    assert_eq!(info.version.version, env!("CARGO_PKG_VERSION"));
    let version = run(pod.program("sandbox").arg("-v"), &[]);
    assert!(
        String::from_utf8(version.stdout)
            .unwrap()
            .contains(env!("CARGO_PKG_VERSION"))
    );
}

#[tokio::test]
async fn the_answer_of_start_is_the_address_and_nothing_else() {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    let first = pod.try_start_by_params("sandbox");
    let said = String::from_utf8(first.stderr).unwrap();
    assert!(first.status.success(), "{said}");
    assert_eq!(said, "");
    let address = String::from_utf8(first.stdout).unwrap();
    let socket = address.strip_prefix("unix://").unwrap();
    assert!(
        socket.starts_with(pod.path("s").to_str().unwrap()),
        "{address}"
    );
    assert_eq!(
        std::fs::read_to_string(pod.bundle("sandbox").join("address")).unwrap(),
        address
    );

    // A daemon that restarts in the middle starts it again; another container joins it.
    let again = String::from_utf8(pod.try_start_by_params("sandbox").stdout).unwrap();
    assert_eq!(again, address);
    pod.write_spec("vm", &pod.spec("vm", "container"));
    let container = String::from_utf8(pod.try_start_by_params("vm").stdout).unwrap();
    assert_eq!(container, address);

    let task = pod.connect("sandbox", &address).await;
    task.shutdown().await;
    pod.assert_clean().await;
    let orphan = pod.try_start_by_params("vm");
    assert!(!orphan.status.success());
    assert!(
        String::from_utf8(orphan.stderr)
            .unwrap()
            .contains("is gone")
    );
}

#[tokio::test]
async fn both_versions_of_the_service_answer_the_older_dialect() {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    let started = pod.try_start("sandbox");
    assert!(
        started.status.success(),
        "{}",
        String::from_utf8_lossy(&started.stderr)
    );
    let address = String::from_utf8(started.stdout).unwrap();
    assert!(
        address.starts_with("unix:///run/containerd/s/"),
        "{address}"
    );
    let client = Client::connect(&address).await.unwrap();
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let request = Request {
            service: service.into(),
            method: "Connect".into(),
            ..Request::default()
        };
        client
            .request(request)
            .await
            .unwrap_or_else(|error| panic!("{service}: {error}"));
    }
    pod.connect("sandbox", &address).await.shutdown().await;
    pod.assert_clean().await;
}

#[tokio::test]
async fn a_broken_configuration_is_the_error_of_start() {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    std::fs::write(pod.path("config.toml"), "[qemu]\nrooot = \"/\"\n").unwrap();
    let output = pod.try_start("sandbox");
    assert!(!output.status.success());
    assert_eq!(output.stdout, b"");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("config.toml") && said.contains("rooot"),
        "{said}"
    );
    assert!(said.contains('2'), "the line is named: {said}");
    pod.assert_clean().await;
}

#[tokio::test]
async fn without_containerd_it_says_what_it_is() {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    let output = run(&mut pod.program("sandbox"), &[]);
    assert!(!output.status.success());
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("containerd starts it")
    );
}
