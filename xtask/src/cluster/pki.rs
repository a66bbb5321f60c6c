//! The cluster's keys, certificates and kubeconfigs. One authority signs all of Kubernetes, another
//! the aggregation layer's front proxy, as kubeadm does it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::json;

use super::names::{API_SERVICE, CONTROL_PLANE, Node};

/// File names of one key and its certificate in the PKI's directory.
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// The PKI of a cluster on disk.
pub(crate) struct Pki(PathBuf);

/// Who somebody is to the API server: user and groups.
struct Subject<'a> {
    user: &'a str,
    group: &'a str,
}

/// Identities of the control plane: file name, user, group.
const CLIENTS: [(&str, Subject<'_>); 5] = [
    (
        "admin",
        Subject {
            user: "admin",
            group: "system:masters",
        },
    ),
    (
        "apiserver-kubelet-client",
        Subject {
            user: "kube-apiserver-kubelet-client",
            group: "system:masters",
        },
    ),
    (
        "controller-manager",
        Subject {
            user: "system:kube-controller-manager",
            group: "",
        },
    ),
    (
        "scheduler",
        Subject {
            user: "system:kube-scheduler",
            group: "",
        },
    ),
    (
        "proxy",
        Subject {
            user: "system:kube-proxy",
            group: "",
        },
    ),
];

impl Pki {
    /// Opens the PKI in `dir`, made first if it is not there yet.
    pub(crate) fn ensure(dir: PathBuf) -> Result<Self> {
        let pki = Self(dir);
        // Written last: without it, an earlier attempt broke off.
        let complete = pki.0.join("complete");
        if !complete.exists() {
            fs::create_dir_all(&pki.0)?;
            fs::set_permissions(&pki.0, fs::Permissions::from_mode(0o700))?;
            pki.generate().context("make the cluster's certificates")?;
            fs::write(complete, "")?;
        }
        Ok(pki)
    }

    /// Key and certificate called `name`.
    pub(crate) fn pair(&self, name: &str) -> Pair {
        Pair {
            cert: self.0.join(format!("{name}.crt")),
            key: self.0.join(format!("{name}.key")),
        }
    }

    /// The authority that clients trust.
    pub(crate) fn ca(&self) -> Pair {
        self.pair("ca")
    }

    /// The public half of the service accounts' key.
    pub(crate) fn service_account_public_key(&self) -> PathBuf {
        self.0.join("service-account.pub")
    }

    /// A kubeconfig (as JSON, which is YAML) for the identity `name` that holds all it needs.
    pub(crate) fn kubeconfig(&self, name: &str, server: &str) -> Result<String> {
        let pair = self.pair(name);
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "cluster",
            "clusters": [{ "name": "cluster", "cluster": {
                "server": server,
                "certificate-authority-data": data(&self.ca().cert)?,
            }}],
            "users": [{ "name": name, "user": {
                "client-certificate-data": data(&pair.cert)?,
                "client-key-data": data(&pair.key)?,
            }}],
            "contexts": [{ "name": "cluster", "context": { "cluster": "cluster", "user": name }}],
        });
        Ok(serde_json::to_string_pretty(&config)?)
    }

    fn generate(&self) -> Result<()> {
        let ca = self.authority("ca", "kubernetes")?;
        let front_proxy_ca = self.authority("front-proxy-ca", "front-proxy")?;
        for (name, subject) in &CLIENTS {
            self.issue(name, client(subject), &ca)?;
        }
        let front_proxy = Subject {
            user: "front-proxy-client",
            group: "",
        };
        self.issue("front-proxy-client", client(&front_proxy), &front_proxy_ca)?;
        self.issue("apiserver", api_server()?, &ca)?;
        for node in Node::ALL {
            let name = node.name();
            let user = format!("system:node:{name}");
            let subject = Subject {
                user: &user,
                group: "system:nodes",
            };
            self.issue(name, client(&subject), &ca)?;
            self.issue(
                &format!("{name}-serving"),
                kubelet_server(node, &subject),
                &ca,
            )?;
        }
        let key = KeyPair::generate()?;
        let service_account = self.pair("service-account");
        write_key(&service_account.key, &key)?;
        fs::write(self.service_account_public_key(), key.public_key_pem())?;
        Ok(())
    }

    fn authority(&self, name: &str, common_name: &str) -> Result<Issuer<'static, KeyPair>> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ];
        let key = KeyPair::generate()?;
        let pair = self.pair(name);
        fs::write(&pair.cert, params.self_signed(&key)?.pem())?;
        write_key(&pair.key, &key)?;
        Ok(Issuer::new(params, key))
    }

    fn issue(
        &self,
        name: &str,
        params: CertificateParams,
        authority: &Issuer<'static, KeyPair>,
    ) -> Result<()> {
        let key = KeyPair::generate()?;
        let pair = self.pair(name);
        fs::write(&pair.cert, params.signed_by(&key, authority)?.pem())?;
        write_key(&pair.key, &key)
    }
}

fn write_key(path: &Path, key: &KeyPair) -> Result<()> {
    fs::write(path, key.serialize_pem()).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn data(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(STANDARD.encode(bytes))
}

fn leaf(subject: &Subject<'_>, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, subject.user);
    if !subject.group.is_empty() {
        params
            .distinguished_name
            .push(DnType::OrganizationName, subject.group);
    }
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params
}

fn client(subject: &Subject<'_>) -> CertificateParams {
    leaf(subject, ExtendedKeyUsagePurpose::ClientAuth)
}

fn address(address: Ipv4Addr) -> SanType {
    SanType::IpAddress(IpAddr::V4(address))
}

fn api_server() -> Result<CertificateParams> {
    let subject = Subject {
        user: "kube-apiserver",
        group: "",
    };
    let mut params = leaf(&subject, ExtendedKeyUsagePurpose::ServerAuth);
    params.subject_alt_names = vec![
        address(Ipv4Addr::LOCALHOST),
        address(CONTROL_PLANE),
        address(API_SERVICE),
    ];
    for name in [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ] {
        params
            .subject_alt_names
            .push(SanType::DnsName(name.try_into()?));
    }
    Ok(params)
}

fn kubelet_server(node: Node, subject: &Subject<'_>) -> CertificateParams {
    let mut params = leaf(subject, ExtendedKeyUsagePurpose::ServerAuth);
    let addresses = node.addresses();
    params.subject_alt_names = vec![
        SanType::IpAddress(addresses.v4),
        SanType::IpAddress(addresses.v6),
        address(Ipv4Addr::LOCALHOST),
    ];
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identity_has_a_kubeconfig_and_private_keys_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::ensure(dir.path().join("pki")).unwrap();
        for name in [
            "admin",
            "controller-manager",
            "scheduler",
            "proxy",
            "node1",
            "node2",
        ] {
            let text = pki.kubeconfig(name, "https://127.0.0.1:1").unwrap();
            let config: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(config["users"][0]["name"], name);
            let mode = fs::metadata(pki.pair(name).key)
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o077, 0, "{name}.key is readable by others");
        }
    }

    #[test]
    fn a_second_call_keeps_the_keys() {
        let dir = tempfile::tempdir().unwrap();
        let read = |pki: &Pki| fs::read(pki.ca().cert).unwrap();
        let first = read(&Pki::ensure(dir.path().into()).unwrap());
        assert_eq!(first, read(&Pki::ensure(dir.path().into()).unwrap()));
    }
}
