//! PEM files, read with an eye on what people get wrong.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::asn1_rs::{Any, Class, FromDer};
use x509_parser::certificate::Validity as Times;

use super::provider;
use crate::config::ConfigError;
use crate::secrets::{Checked, read_text};

/// From when to when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: SystemTime,
    /// Not after.
    pub until: SystemTime,
}

impl Validity {
    /// Of a certificate; `None` if it can't be parsed.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let time = |seconds: i64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        };
        let times = times(certificate)?;
        Some(Self {
            from: time(times.not_before.timestamp()),
            until: time(times.not_after.timestamp()),
        })
    }

    /// What is wrong with it at this time.
    pub fn problem(&self, now: SystemTime) -> Option<String> {
        if now > self.until {
            Some(format!(
                "expired on {}, if this machine's clock is right: it says {}",
                date(self.until),
                date(now)
            ))
        } else if now < self.from {
            Some(format!(
                "holds only from {}, and this machine's clock says {}: it is probably wrong",
                date(self.from),
                date(now)
            ))
        } else {
            None
        }
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", date(self.from), date(self.until))
    }
}

/// A certificate's fields up to its validity (RFC 5280, section 4.1), and no further: what knows every extension is
/// large, and an edge is asked for little more than this.
fn times(certificate: &[u8]) -> Option<Times> {
    let (_, certificate) = Any::from_der(certificate).ok()?;
    let (_, body) = Any::from_der(certificate.data).ok()?;
    let (after_first, first) = Any::from_der(body.data).ok()?;
    // The version is left out of what is of the first.
    let mut rest = match first.header.class() {
        Class::ContextSpecific => after_first,
        _ => body.data,
    };
    for _ in ["serial number", "signature's algorithm", "issuer"] {
        (rest, _) = Any::from_der(rest).ok()?;
    }
    Times::from_der(rest).ok().map(|(_, times)| times)
}

/// Reads a certificate chain and its private key, and makes sure that they belong together.
///
/// What has expired is a warning: the other side decides, and a small machine's clock may be wrong until it has a network.
pub fn read_identity(
    cert: &Path,
    key: &Path,
) -> Result<Checked<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, ConfigError> {
    let chain = read_certificates(cert)?;
    let Checked {
        value: text,
        mut warnings,
    } = read_text(key)?;
    let private = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| {
        let found = if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
            "the key is encrypted, and nobody is there to type its password".to_owned()
        } else if text.contains("-----BEGIN CERTIFICATE-----") {
            "holds a certificate: are cert and key swapped?".to_owned()
        } else {
            pem_text(&error)
        };
        ConfigError::of_file(key, format_args!("no private key: {found}"))
    })?;
    let pair = CertifiedKey::from_der(chain.clone(), private.clone_key(), &provider());
    match pair {
        Ok(_) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(ConfigError::of_file(
                key,
                format_args!(
                    "is not the private key of the certificate in {}",
                    cert.display()
                ),
            ));
        }
        Err(rustls::Error::InvalidCertificate(error)) => {
            return Err(ConfigError::of_file(
                cert,
                format_args!("the certificate can't be used: {error:?}"),
            ));
        }
        Err(error) => {
            return Err(ConfigError::of_file(
                key,
                format_args!("the key can't be used: {error}"),
            ));
        }
    }
    warnings.extend(chain.first().and_then(|first| problem(cert, first)));
    Ok(Checked {
        value: (chain, private),
        warnings,
    })
}

/// Reads the certificates to trust.
pub fn read_ca(path: &Path) -> Result<Checked<RootCertStore>, ConfigError> {
    let certificates = read_certificates(path)?;
    let mut roots = RootCertStore::empty();
    let mut warnings = Vec::new();
    for (index, certificate) in certificates.into_iter().enumerate() {
        warnings.extend(problem(path, &certificate));
        roots.add(certificate).map_err(|error| {
            ConfigError::of_file(
                path,
                format_args!("certificate {} can't be a CA: {error}", index + 1),
            )
        })?;
    }
    Ok(Checked {
        value: roots,
        warnings,
    })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let text = std::fs::read(path)
        .map_err(|error| ConfigError::of_file(path, format_args!("can't be read: {error}")))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| {
            ConfigError::of_file(path, format_args!("no certificate: {}", pem_text(&error)))
        })?;
    if certificates.is_empty() {
        let is_key = text.windows(12).any(|part| part == b"PRIVATE KEY-");
        let hint = if is_key {
            "it holds a key: are cert and key swapped?"
        } else {
            "expected -----BEGIN CERTIFICATE-----"
        };
        return Err(ConfigError::of_file(
            path,
            format_args!("no certificate: {hint}"),
        ));
    }
    for (index, certificate) in certificates.iter().enumerate() {
        if Validity::of(certificate).is_none() {
            return Err(ConfigError::of_file(
                path,
                format_args!("certificate {} is broken", index + 1),
            ));
        }
    }
    Ok(certificates)
}

fn problem(path: &Path, certificate: &CertificateDer<'_>) -> Option<String> {
    let problem = Validity::of(certificate)?.problem(SystemTime::now())?;
    Some(format!("{}: the certificate {problem}", path.display()))
}

fn pem_text(error: &rustls_pki_types::pem::Error) -> String {
    match error {
        rustls_pki_types::pem::Error::NoItemsFound => "expected PEM, -----BEGIN …-----".to_owned(),
        // Only what kind of error it is: the rest may repeat the file's content.
        _ => "the PEM is broken or cut short".to_owned(),
    }
}

fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
