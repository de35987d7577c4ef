//! Whom a certificate names: a URI in its subject alternative names.

use std::fmt;

use proto_core::auth::UserName;
use proto_core::name::NodeName;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// The bearer of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertIdentity {
    /// `spiffe://tunnel/node/NAME`.
    Node(NodeName),
    /// `spiffe://tunnel/user/NAME`.
    User(UserName),
    /// `spiffe://tunnel/replica`.
    Replica,
}

/// Why a certificate names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// It can't be parsed.
    Broken,
    /// It has no URI of ours.
    Missing,
    /// It has a URI of ours that names nobody.
    Malformed,
    /// It has more than one.
    Ambiguous,
}

const PREFIX: &str = "spiffe://tunnel/";

impl CertIdentity {
    /// Of an end entity's certificate, which the TLS handshake has verified.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| IdentityError::Broken)?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| IdentityError::Broken)?;
        let mut found = None;
        for name in names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
        {
            let GeneralName::URI(uri) = name else {
                continue;
            };
            let Some(path) = uri.strip_prefix(PREFIX) else {
                continue;
            };
            if found.replace(Self::parse(path)?).is_some() {
                return Err(IdentityError::Ambiguous);
            }
        }
        found.ok_or(IdentityError::Missing)
    }

    /// The URI that names it.
    pub fn to_uri(&self) -> String {
        match self {
            Self::Node(name) => format!("{PREFIX}node/{name}"),
            Self::User(name) => format!("{PREFIX}user/{name}"),
            Self::Replica => format!("{PREFIX}replica"),
        }
    }

    fn parse(path: &str) -> Result<Self, IdentityError> {
        let parsed = match path.split_once('/') {
            None if path == "replica" => Some(Self::Replica),
            Some(("node", name)) => NodeName::parse(name).ok().map(Self::Node),
            Some(("user", name)) => UserName::parse(name).map(Self::User),
            _ => None,
        };
        parsed.ok_or(IdentityError::Malformed)
    }
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broken => "the certificate can't be parsed",
            Self::Missing => {
                "the certificate has no URI spiffe://tunnel/node/NAME, …/user/NAME or …/replica"
            }
            Self::Malformed => {
                "the certificate's spiffe://tunnel/ URI names no node, user or replica"
            }
            Self::Ambiguous => "the certificate has more than one spiffe://tunnel/ URI",
        })
    }
}

impl std::error::Error for IdentityError {}
