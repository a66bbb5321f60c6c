//! What a path of the group asks for.
//!
//! A path is read segment by segment; names that no object can have are refused here, so that no later
//! path is made of them.

use hyper::Method;
use vm_api::validate::is_object_name;

use super::failure::Failure;
use super::table::{Entry, Resource, TABLE};
use super::{GROUP, VERSIONS};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The group.
    Group,
    /// The resources of a version.
    Resources(&'static str),
    /// What the server is.
    Version,
    /// Whether it is well.
    Health,
    /// A machine's spec in the request, with what its instance type and preference say.
    ExpandSpec {
        version: &'static str,
        namespace: String,
    },
    /// A subresource.
    Subresource(Subresource),
}

/// A subresource of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subresource {
    pub(super) version: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) entry: &'static Entry,
    /// What follows it.
    pub(super) rest: Vec<String>,
}

/// The word of [`Asked::ExpandSpec`].
pub(super) const EXPAND: &str = "expand-vm-spec";

/// Reads a path that begins with the group's.
pub(super) fn read(method: &Method, path: &str) -> Result<Asked, Failure> {
    let missing = || Failure::no_path(path);
    let segments: Vec<_> = path.trim_start_matches('/').split('/').collect();
    let version = |word: &str| VERSIONS.into_iter().find(|known| *known == word);
    match segments.as_slice() {
        ["apis", GROUP] => only(method, &Method::GET, Asked::Group),
        ["apis", GROUP, v] => only(
            method,
            &Method::GET,
            Asked::Resources(version(v).ok_or_else(missing)?),
        ),
        ["apis", GROUP, v, word] => {
            version(v).ok_or_else(missing)?;
            match *word {
                "version" => only(method, &Method::GET, Asked::Version),
                "healthz" => only(method, &Method::GET, Asked::Health),
                _ => Err(missing()),
            }
        }
        ["apis", GROUP, v, "namespaces", namespace, EXPAND] => {
            let asked = Asked::ExpandSpec {
                version: version(v).ok_or_else(missing)?,
                namespace: named(namespace)?,
            };
            only(method, &Method::PUT, asked)
        }
        [
            "apis",
            GROUP,
            v,
            "namespaces",
            namespace,
            resource,
            name,
            rest @ ..,
        ] => {
            let version = version(v).ok_or_else(missing)?;
            let resource = Resource::ALL
                .into_iter()
                .find(|known| known.word() == *resource)
                .ok_or_else(missing)?;
            let mut entries = TABLE.iter().filter(|entry| entry.resource == resource);
            let found = entries.find_map(|entry| Some((entry, entry.rest(rest)?)));
            let (entry, more) = found.ok_or_else(missing)?;
            let asked = Asked::Subresource(Subresource {
                version,
                namespace: named(namespace)?,
                name: named(name)?,
                entry,
                rest: more.iter().map(|segment| (*segment).to_owned()).collect(),
            });
            only(method, &entry.method, asked)
        }
        _ => Err(missing()),
    }
}

fn only(method: &Method, right: &Method, asked: Asked) -> Result<Asked, Failure> {
    if method == right {
        return Ok(asked);
    }
    Err(Failure::not_supported(format!(
        "{method} is not answered here: use {right}"
    )))
}

/// `name`, if an object can have it (RFC 1123's subdomain).
fn named(name: &str) -> Result<String, Failure> {
    if is_object_name(name) {
        return Ok(name.to_owned());
    }
    Err(Failure::bad_request(
        "the path names an object or a namespace that cannot be: use lower case letters, digits, \
         '-' and '.'",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::table::Operation;
    use super::*;

    const BASE: &str = "/apis/subresources.kubevirt.io/v1";

    fn get(path: &str) -> Result<Asked, u16> {
        read(&Method::GET, path).map_err(|failure| failure.code.as_u16())
    }

    fn subresource(method: Method, path: &str) -> (Operation, &'static str, Vec<String>) {
        let path = format!("{BASE}/namespaces/n/{path}");
        match read(&method, &path) {
            Ok(Asked::Subresource(found)) => {
                assert_eq!(
                    (found.namespace.as_str(), found.name.as_str()),
                    ("n", "a.b")
                );
                (found.entry.operation, found.entry.name, found.rest)
            }
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths_are_read() {
        assert_eq!(get("/apis/subresources.kubevirt.io"), Ok(Asked::Group));
        assert_eq!(get(BASE), Ok(Asked::Resources("v1")));
        let alpha = "/apis/subresources.kubevirt.io/v1alpha3";
        assert_eq!(get(alpha), Ok(Asked::Resources("v1alpha3")));
        assert_eq!(get(&format!("{alpha}/version")), Ok(Asked::Version));
        assert_eq!(get(&format!("{BASE}/healthz")), Ok(Asked::Health));
        let expand = read(&Method::PUT, &format!("{BASE}/namespaces/n/expand-vm-spec"));
        let expected = Asked::ExpandSpec {
            version: "v1",
            namespace: "n".into(),
        };
        assert_eq!(expand, Ok(expected));
    }

    #[test]
    fn subresources_are_told_apart() {
        let vmi = "virtualmachineinstances/a.b";
        let get = |path: &str| subresource(Method::GET, &format!("{vmi}/{path}"));
        assert_eq!(get("vnc"), (Operation::Vnc, "vnc", vec![]));
        assert_eq!(
            get("vnc/screenshot"),
            (Operation::Screenshot, "vnc/screenshot", vec![])
        );
        assert_eq!(
            get("portforward/22"),
            (Operation::PortForward, "portforward", vec!["22".into()])
        );
        assert_eq!(
            get("portforward/53/udp"),
            (
                Operation::PortForward,
                "portforward",
                vec!["53".into(), "udp".into()]
            )
        );
        let start = subresource(Method::PUT, "virtualmachines/a.b/start");
        assert_eq!(start, (Operation::Start, "start", vec![]));
    }

    #[test]
    fn everything_else_is_refused() {
        let vmi = |path: &str| {
            get(&format!(
                "{BASE}/namespaces/n/virtualmachineinstances/{path}"
            ))
        };
        let table = [
            (get("/apis/subresources.kubevirt.io/v2"), 404),
            (get("/apis/subresources.kubevirt.io/v1/"), 404),
            (get("/apis/kubevirt.io/v1"), 404),
            (vmi("tl"), 404),
            (vmi("tl/dance"), 404),
            (vmi("tl/console/x"), 404),
            (vmi("tl/portforward"), 404),
            (vmi("tl/portforward/1/tcp/x"), 404),
            (vmi("tl/start"), 404),
            (vmi("tl/pause"), 405),
            (vmi("../console"), 400),
            (vmi("/console"), 400),
            (vmi("A/console"), 400),
            (vmi("a%2fb/console"), 400),
            (vmi("-a/console"), 400),
            (vmi(&format!("{}/console", "a".repeat(254))), 400),
            (get(&format!("{BASE}/namespaces/n/expand-vm-spec")), 405),
        ];
        for (index, (read, code)) in table.into_iter().enumerate() {
            assert_eq!(read.unwrap_err(), code, "case {index}");
        }
    }
}
