//! The server's certificate, and the authority that signed it: how both are made, and when anew.
//!
//! Nothing here talks to anybody. An authority is replaced long before it ends, and its successor's
//! bundle still holds it, so that clients never trust one and meet the other.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Life of an authority.
const AUTHORITY_LIFE: Duration = Duration::days(3650);

/// Life of the server's certificate.
const SERVING_LIFE: Duration = Duration::days(90);

/// How far a certificate reaches back, for clocks that are late.
const BACK: Duration = Duration::hours(1);

/// Authorities that a bundle holds at most: the one that signs, and the one before.
const AUTHORITIES: usize = 2;

/// Keys of the Secret; those of the server are the ones that type `kubernetes.io/tls` demands.
const BUNDLE: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    /// A key or certificate was not made.
    #[error("cannot make a key or certificate: {0}")]
    Made(#[from] rcgen::Error),
    /// One of those that were kept cannot be read.
    #[error("cannot read the certificates that were kept: {0}")]
    Kept(String),
}

/// A server's certificate with its key, and the authority's.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Certificates {
    /// Certificates of the authorities to trust, PEM; that of the one which signs comes first.
    pub(super) bundle: String,
    authority_key: String,
    certificate: String,
    key: String,
}

/// The time within which a certificate counts, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    from: i64,
    to: i64,
}

impl Life {
    /// When two thirds of it are over.
    fn due(self) -> i64 {
        self.from + (self.to - self.from) / 3 * 2
    }
}

impl Certificates {
    /// Those in a Secret, if it holds any.
    pub(super) fn from_data(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        Some(Self {
            bundle: text(BUNDLE)?,
            authority_key: text(AUTHORITY_KEY)?,
            certificate: text(CERTIFICATE)?,
            key: text(KEY)?,
        })
    }

    /// The same as a Secret's data.
    pub(super) fn to_data(&self) -> BTreeMap<String, ByteString> {
        let entries = [
            (BUNDLE, &self.bundle),
            (AUTHORITY_KEY, &self.authority_key),
            (CERTIFICATE, &self.certificate),
            (KEY, &self.key),
        ];
        let entry =
            |(key, text): (&str, &String)| (key.to_owned(), ByteString(text.clone().into_bytes()));
        entries.map(entry).into()
    }

    /// What follows `old` at the time `now` for a server called `names`: `old` itself while it is
    /// sound and two thirds of no life are over.
    pub(super) fn following(
        old: Option<Self>,
        names: &[String],
        now: OffsetDateTime,
    ) -> Result<Self, CertificateError> {
        let authority = old.as_ref().and_then(|old| old.authority_due().ok());
        let seconds = now.unix_timestamp();
        match (old, authority) {
            (Some(old), Some(due)) if seconds < due => match old.serving_due(names) {
                Ok(due) if seconds < due => Ok(old),
                _ => old.signed_anew(names, now),
            },
            (Some(old), Some(_)) => Self::new(Some(&old.bundle), names, now),
            _ => Self::new(None, names, now),
        }
    }

    /// When the next of them is to be made anew, in seconds since 1970.
    pub(super) fn due(&self, names: &[String]) -> Result<i64, CertificateError> {
        Ok(self.authority_due()?.min(self.serving_due(names)?))
    }

    /// The server's certificate and key.
    pub(super) fn serving(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CertificateError> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(kept)?;
        Ok((authorities(&self.certificate)?, key))
    }

    /// A new authority with a new certificate; `before` is the bundle that is trusted so far.
    fn new(
        before: Option<&str>,
        names: &[String],
        now: OffsetDateTime,
    ) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let certificate = authority_params(now)?.self_signed(&key)?;
        let mut bundle = certificate.pem();
        for trusted in before.into_iter().flat_map(pems).take(AUTHORITIES - 1) {
            bundle.push_str(&trusted);
        }
        let unsigned = Self {
            bundle,
            authority_key: key.serialize_pem(),
            certificate: String::new(),
            key: String::new(),
        };
        unsigned.signed_anew(names, now)
    }

    /// The same authority with a new certificate.
    fn signed_anew(&self, names: &[String], now: OffsetDateTime) -> Result<Self, CertificateError> {
        let authority_key = KeyPair::from_pem(&self.authority_key)?;
        let first = self.authority()?;
        let issuer = Issuer::from_ca_cert_der(&first, authority_key)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        if let Some(name) = names.first() {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = now - BACK;
        params.not_after = now + SERVING_LIFE;
        Ok(Self {
            certificate: params.signed_by(&key, &issuer)?.pem(),
            key: key.serialize_pem(),
            ..self.clone()
        })
    }

    /// The certificate of the authority that signs.
    fn authority(&self) -> Result<CertificateDer<'static>, CertificateError> {
        let first = authorities(&self.bundle)?.into_iter().next();
        first.ok_or_else(|| kept("the bundle is empty"))
    }

    fn authority_due(&self) -> Result<i64, CertificateError> {
        let der = self.authority()?;
        let authority = parsed(&der)?;
        let key = KeyPair::from_pem(&self.authority_key)?;
        if authority.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(kept("the authority's key is another's"));
        }
        Ok(life(&authority).due())
    }

    /// When the server's certificate is to be made anew; an error if it is not what `names` need.
    fn serving_due(&self, names: &[String]) -> Result<i64, CertificateError> {
        let (chain, _) = self.serving()?;
        let der = chain.first().ok_or_else(|| kept("there is none"))?;
        let certificate = parsed(der)?;
        let authority = self.authority()?;
        let authority = parsed(&authority)?;
        let key = KeyPair::from_pem(&self.key)?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(kept("the server's key is another's"));
        }
        certificate
            .verify_signature(Some(authority.public_key()))
            .map_err(kept)?;
        let alternatives = certificate.subject_alternative_name().map_err(kept)?;
        let has = |name: &String| {
            alternatives.as_ref().is_some_and(|alternatives| {
                let mut all = alternatives.value.general_names.iter();
                all.any(|known| matches!(known, GeneralName::DNSName(known) if known == name))
            })
        };
        match names.iter().find(|name| !has(name)) {
            Some(name) => Err(kept(format!("it is not for {name}"))),
            None => Ok(life(&certificate).due()),
        }
    }
}

fn authority_params(now: OffsetDateTime) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::new(Vec::new())?;
    let name = format!("vm-crd-controller {}", now.unix_timestamp());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params.not_before = now - BACK;
    params.not_after = now + AUTHORITY_LIFE;
    Ok(params)
}

fn life(certificate: &X509Certificate<'_>) -> Life {
    let validity = certificate.validity();
    Life {
        from: validity.not_before.timestamp(),
        to: validity.not_after.timestamp(),
    }
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(kept)?;
    Ok(certificate)
}

/// The certificates in a PEM text.
pub(super) fn authorities(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(kept)
}

/// The certificates in a PEM text, each as PEM.
fn pems(pem: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let parts = pem.split_inclusive(END);
    let whole = parts.filter(|part| part.ends_with(END));
    whole.map(|part| format!("{}\n", part.trim())).collect()
}

fn kept(error: impl ToString) -> CertificateError {
    CertificateError::Kept(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["a.b.svc".to_owned()]
    }

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap()
    }

    fn after(old: &Certificates, days: i64) -> Certificates {
        let later = now() + Duration::days(days);
        Certificates::following(Some(old.clone()), &names(), later).unwrap()
    }

    fn first() -> Certificates {
        Certificates::following(None, &names(), now()).unwrap()
    }

    #[test]
    fn certificates_are_made_anew_when_two_thirds_of_their_life_are_over() {
        let first = first();
        assert!(after(&first, 0) == first);
        assert!(after(&first, 59) == first);
        let second = after(&first, 61);
        assert!(second.certificate != first.certificate && second.key != first.key);
        assert_eq!(second.bundle, first.bundle, "the authority stays");
        assert!(after(&second, 100) == second);
    }

    #[test]
    fn a_new_authority_is_trusted_beside_the_old_one() {
        let first = first();
        let second = after(&first, 2500);
        assert!(second.authority_key != first.authority_key);
        assert!(second.bundle.ends_with(&first.bundle));
        assert_eq!(authorities(&second.bundle).unwrap().len(), 2);
        let third = after(&second, 5000);
        assert_eq!(authorities(&third.bundle).unwrap().len(), 2, "no more");
        assert!(!third.bundle.contains(&first.bundle));
    }

    #[test]
    fn what_is_kept_reads_back() {
        let first = first();
        let read = Certificates::from_data(&first.to_data()).unwrap();
        assert!(read == first);
        let mut part = first.to_data();
        part.remove(AUTHORITY_KEY);
        assert!(Certificates::from_data(&part).is_none());
    }

    #[test]
    fn what_is_broken_is_made_anew() {
        let (first, other) = (first(), first());
        let broken = [
            Certificates {
                certificate: other.certificate.clone(),
                ..first.clone()
            },
            Certificates {
                key: other.key.clone(),
                ..first.clone()
            },
            Certificates {
                certificate: "none".into(),
                ..first.clone()
            },
            Certificates {
                authority_key: other.authority_key.clone(),
                ..first.clone()
            },
            Certificates {
                bundle: String::new(),
                ..first.clone()
            },
        ];
        for broken in broken {
            let mended = after(&broken, 0);
            assert!(mended != broken);
            assert!(mended.due(&names()).is_ok());
        }
    }

    #[test]
    fn another_name_needs_another_certificate() {
        let first = first();
        let names = vec!["a.b.svc".to_owned(), "c.d.svc".to_owned()];
        assert!(first.due(&names).is_err());
        let second = Certificates::following(Some(first.clone()), &names, now()).unwrap();
        assert_eq!(second.bundle, first.bundle);
        assert!(second.due(&names).is_ok());
    }
}
