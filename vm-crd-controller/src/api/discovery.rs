//! What the server tells about itself: groups, resources, version, OpenAPI.
//!
//! The API server reads the resources of a version for its own discovery and for the check whether the
//! APIService is available; `virtctl` reads the group's preferred version, then `version`.

use hyper::StatusCode;
use hyper::header::ACCEPT;
use serde_json::{Value, json};

use super::answer::{Answer, json as json_answer};
use super::failure::Failure;
use super::request::EXPAND;
use super::routes::Call;
use super::table::TABLE;
use super::{GROUP, VERSIONS};

/// The version of KubeVirt whose API this is: clients compare its first two numbers with theirs.
const KUBEVIRT_VERSION: &str = "1.9.0";

/// `/apis`. The API server asks for it in a newer form first, and takes a refusal for "ask as ever".
pub(super) async fn groups(call: Call) -> Result<Answer, Failure> {
    let accept = call
        .headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("APIGroupDiscoveryList")) {
        let answer = json!({ "message": "only the unaggregated form of discovery is served" });
        return Ok(json_answer(StatusCode::NOT_ACCEPTABLE, &answer));
    }
    let list = json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [group()] });
    Ok(json_answer(StatusCode::OK, &list))
}

/// The group.
pub(super) fn group() -> Value {
    let version = |version: &&str| {
        json!({
            "groupVersion": format!("{GROUP}/{version}"), "version": version,
        })
    };
    let versions: Vec<_> = VERSIONS.iter().map(version).collect();
    json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": GROUP,
        "preferredVersion": versions[0], "versions": versions,
    })
}

/// The resources of `version`: those that do something.
pub(super) fn resources(version: &str) -> Value {
    let served = TABLE.iter().filter(|entry| entry.is_served());
    let mut resources: Vec<_> = served
        .map(|entry| {
            json!({
                "name": format!("{}/{}", entry.resource.word(), entry.name),
                "singularName": "", "namespaced": true, "kind": entry.resource.kind(),
                "group": vm_api::contract::GROUP, "version": "v1",
                "verbs": [if entry.method == hyper::Method::GET { "get" } else { "update" }],
            })
        })
        .collect();
    resources.push(json!({
        "name": EXPAND, "singularName": "", "namespaced": true, "kind": "VirtualMachine",
        "group": vm_api::contract::GROUP, "version": "v1", "verbs": ["update"],
    }));
    json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{version}"), "resources": resources,
    })
}

/// What the server is, in the form of KubeVirt's `version.Info`.
pub(super) fn version() -> Value {
    let own = concat!(env!("CARGO_PKG_NAME"), ".", env!("CARGO_PKG_VERSION"));
    json!({
        "gitVersion": format!("v{KUBEVIRT_VERSION}+{own}"),
        "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "rustc",
        "platform": concat!("linux/", "amd64"),
    })
}

/// `/openapi/v2`: paths and no types, which are those of `kubevirt.io`.
pub(super) async fn openapi_v2(_: Call) -> Result<Answer, Failure> {
    let document = json!({
        "swagger": "2.0", "info": info(),
        "paths": paths(VERSIONS.as_slice(), |_| json!({ "200": { "description": "OK" } })),
        "definitions": {},
    });
    Ok(json_answer(StatusCode::OK, &document))
}

/// `/openapi/v3` and the documents it lists.
pub(super) async fn openapi_v3(call: Call) -> Result<Answer, Failure> {
    let base = "/openapi/v3";
    let rest = call.path.strip_prefix(base).unwrap_or_default();
    if rest.is_empty() {
        let entry = |version: &&str| {
            let path = format!("apis/{GROUP}/{version}");
            let url = format!("{base}/{path}?hash={}", env!("CARGO_PKG_VERSION"));
            (path, json!({ "serverRelativeURL": url }))
        };
        let paths: serde_json::Map<_, _> = VERSIONS.iter().map(entry).collect();
        return Ok(json_answer(StatusCode::OK, &json!({ "paths": paths })));
    }
    let version = rest
        .strip_prefix("/apis/")
        .and_then(|rest| rest.strip_prefix(GROUP)?.strip_prefix('/'))
        .and_then(|rest| VERSIONS.into_iter().find(|version| *version == rest));
    let version = version.ok_or_else(|| Failure::no_path(&call.path))?;
    let document = json!({
        "openapi": "3.0.0", "info": info(),
        "paths": paths(&[version], |_| json!({ "200": { "description": "OK" } })),
    });
    Ok(json_answer(StatusCode::OK, &document))
}

fn info() -> Value {
    json!({ "title": GROUP, "version": format!("v{KUBEVIRT_VERSION}") })
}

/// Paths of the subresources with their answers.
fn paths(versions: &[&str], responses: impl Fn(&str) -> Value) -> Value {
    let mut paths = serde_json::Map::new();
    for version in versions {
        for entry in TABLE.iter().filter(|entry| entry.is_served()) {
            let resource = entry.resource.word();
            let path = format!(
                "/apis/{GROUP}/{version}/namespaces/{{namespace}}/{resource}/{{name}}/{}",
                entry.name
            );
            let method = entry.method.as_str().to_lowercase();
            let id = format!(
                "{method}_{version}_{resource}_{}",
                entry.name.replace('/', "_")
            );
            let operation = json!({ "operationId": id, "responses": responses(entry.name) });
            paths.insert(path, json!({ method: operation }));
        }
    }
    paths.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_served_is_discovered() {
        let resources = resources("v1alpha3");
        assert_eq!(
            resources["groupVersion"],
            "subresources.kubevirt.io/v1alpha3"
        );
        let names: Vec<_> = resources["resources"].as_array().unwrap().iter().collect();
        let has = |name: &str| names.iter().any(|resource| resource["name"] == name);
        assert!(has("virtualmachineinstances/vnc/screenshot"));
        assert!(has("virtualmachines/start") && has("expand-vm-spec"));
        assert!(!has("virtualmachines/migrate") && !has("virtualmachineinstances/usbredir"));
    }

    #[test]
    fn the_preferred_version_is_the_first() {
        assert_eq!(group()["preferredVersion"]["version"], "v1");
        assert_eq!(group()["versions"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn the_version_begins_as_kubevirts() {
        let version = version()["gitVersion"].as_str().unwrap().to_owned();
        assert!(
            version.starts_with("v1.9.0+vm-crd-controller."),
            "{version}"
        );
    }
}
