//! The API server's front proxy: by which certificate it is known, and in whose name it asks.
//!
//! What the ConfigMap `extension-apiserver-authentication` says is all that is trusted. A user's
//! name counts only on a connection whose certificate its authority signed.

use std::collections::BTreeMap;

use hyper::HeaderMap;
use k8s_openapi::api::core::v1::ConfigMap;
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificates::authorities;

/// Namespace of the ConfigMap that says who the front proxy is.
pub(super) const NAMESPACE: &str = "kube-system";

/// Name of that ConfigMap.
pub(super) const NAME: &str = "extension-apiserver-authentication";

/// Why the front proxy is not known.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum FrontProxyError {
    /// The API server has none.
    #[error(
        "the ConfigMap {NAMESPACE}/{NAME} has no {0}: start kube-apiserver with \
         --requestheader-client-ca-file and --requestheader-username-headers"
    )]
    Missing(&'static str),
    /// An entry is not what it should be.
    #[error("the entry {key} of the ConfigMap {NAMESPACE}/{NAME} cannot be read: {reason}")]
    Wrong { key: &'static str, reason: String },
}

/// Who the front proxy is and how it names users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FrontProxy {
    /// Certificates of its authority.
    pub(super) authorities: Vec<CertificateDer<'static>>,
    /// Common names that it may have; any if there are none.
    names: Vec<String>,
    user_headers: Vec<String>,
    uid_headers: Vec<String>,
    group_headers: Vec<String>,
    extra_prefixes: Vec<String>,
}

/// In whose name a request is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// UID, if there is one.
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// What else the API server knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl FrontProxy {
    /// As the ConfigMap says.
    pub(super) fn read(map: Option<&ConfigMap>) -> Result<Self, FrontProxyError> {
        const CA: &str = "requestheader-client-ca-file";
        let data = map.and_then(|map| map.data.as_ref());
        let entry = |key: &'static str| data.and_then(|data| data.get(key));
        let list = |key: &'static str| -> Result<Vec<String>, FrontProxyError> {
            let text = entry(key).map_or("[]", String::as_str);
            serde_json::from_str(text).map_err(|error| FrontProxyError::Wrong {
                key,
                reason: error.to_string(),
            })
        };
        let pem = entry(CA).ok_or(FrontProxyError::Missing(CA))?;
        let authorities = authorities(pem).map_err(|error| FrontProxyError::Wrong {
            key: CA,
            reason: error.to_string(),
        })?;
        if authorities.is_empty() {
            return Err(FrontProxyError::Missing(CA));
        }
        const USERS: &str = "requestheader-username-headers";
        let read = Self {
            authorities,
            names: list("requestheader-allowed-names")?,
            user_headers: list(USERS)?,
            uid_headers: list("requestheader-uid-headers")?,
            group_headers: list("requestheader-group-headers")?,
            extra_prefixes: list("requestheader-extra-headers-prefix")?,
        };
        if read.user_headers.is_empty() {
            return Err(FrontProxyError::Missing(USERS));
        }
        Ok(read)
    }

    /// Whether the holder of `certificate`, which one of the authorities signed, is the front proxy.
    pub(super) fn is(&self, certificate: &CertificateDer<'_>) -> bool {
        if self.names.is_empty() {
            return true;
        }
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return false;
        };
        let names = certificate.subject().iter_common_name();
        // As Go reads it: the last one is the name.
        let name = names.last().and_then(|name| name.as_str().ok());
        name.is_some_and(|name| self.names.iter().any(|known| known == name))
    }

    /// In whose name it asks, by the headers of a request; nobody if none of them says.
    pub(super) fn user(&self, headers: &HeaderMap) -> Option<User> {
        let name = first(headers, &self.user_headers)?;
        let mut groups = Vec::new();
        for header in &self.group_headers {
            groups.extend(texts(headers, header));
        }
        let mut extra = BTreeMap::<String, Vec<String>>::new();
        for (header, value) in headers {
            let header = header.as_str();
            let key = self.extra_prefixes.iter().find_map(|prefix| {
                let (begin, key) = header.split_at_checked(prefix.len())?;
                begin.eq_ignore_ascii_case(prefix).then_some(key)
            });
            if let (Some(key), Ok(value)) = (key, std::str::from_utf8(value.as_bytes())) {
                let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
                extra.entry(key).or_default().push(value.to_owned());
            }
        }
        Some(User {
            name,
            uid: first(headers, &self.uid_headers),
            groups,
            extra,
        })
    }
}

/// The first value that is not empty.
fn first(headers: &HeaderMap, names: &[String]) -> Option<String> {
    let mut values = names.iter().flat_map(|name| texts(headers, name));
    values.find(|value| !value.is_empty())
}

/// The values of the header `name`.
fn texts(headers: &HeaderMap, name: &str) -> Vec<String> {
    // A name that no header can have has no value.
    let Ok(name) = name.parse::<hyper::header::HeaderName>() else {
        return Vec::new();
    };
    let values = headers.get_all(name).into_iter();
    let texts = values.filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
    texts.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};
    use serde_json::json;

    use super::*;

    fn certificate(name: &str) -> (CertificateDer<'static>, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let made = params.self_signed(&key).unwrap();
        (made.der().clone(), made.pem())
    }

    fn map(names: &str) -> ConfigMap {
        serde_json::from_value(json!({ "data": {
            "requestheader-client-ca-file": certificate("ca").1,
            "requestheader-allowed-names": names,
            "requestheader-username-headers": "[\"X-Remote-User\"]",
            "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        } }))
        .unwrap()
    }

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in all {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn only_allowed_names_are_the_front_proxy() {
        let proxy = FrontProxy::read(Some(&map("[\"front-proxy-client\"]"))).unwrap();
        assert!(proxy.is(&certificate("front-proxy-client").0));
        assert!(!proxy.is(&certificate("somebody").0));
        assert!(!proxy.is(&CertificateDer::from(b"no".to_vec())));
        let any = FrontProxy::read(Some(&map("[]"))).unwrap();
        assert!(any.is(&certificate("somebody").0));
    }

    #[test]
    fn a_user_is_who_the_headers_say() {
        let proxy = FrontProxy::read(Some(&map("[]"))).unwrap();
        let user = proxy.user(&headers(&[
            ("x-remote-user", "jane"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "a"),
            ("x-remote-group", "system:authenticated"),
            ("x-remote-extra-scopes", "one"),
            ("x-remote-extra-scopes", "two"),
            ("x-remote-extra-example.com%2fkey", "three"),
            ("x-remote-extra", "nothing"),
        ]));
        let expected = User {
            name: "jane".into(),
            uid: Some("7".into()),
            groups: vec!["a".into(), "system:authenticated".into()],
            extra: [
                ("scopes".into(), vec!["one".into(), "two".into()]),
                ("example.com/key".into(), vec!["three".into()]),
            ]
            .into(),
        };
        assert_eq!(user, Some(expected));
        assert_eq!(proxy.user(&headers(&[("x-remote-group", "a")])), None);
        assert_eq!(proxy.user(&headers(&[("x-remote-user", "")])), None);
        assert_eq!(proxy.user(&headers(&[("user", "jane")])), None);
    }

    #[test]
    fn a_cluster_without_a_front_proxy_is_told() {
        let missing = |map: Option<&ConfigMap>| FrontProxy::read(map).unwrap_err().to_string();
        assert!(missing(None).contains("--requestheader-client-ca-file"));
        let mut bare = map("[]");
        let data = bare.data.as_mut().unwrap();
        data.remove("requestheader-username-headers");
        assert!(missing(Some(&bare)).contains("requestheader-username-headers"));
        let mut broken = map("[]");
        let data = broken.data.as_mut().unwrap();
        data.insert("requestheader-allowed-names".into(), "front".into());
        assert!(missing(Some(&broken)).contains("requestheader-allowed-names"));
    }
}
