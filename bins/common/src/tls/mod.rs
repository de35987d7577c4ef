//! TLS from files: certificates as cert-manager writes them (`tls.crt`, `tls.key`, `ca.crt`), to rustls' configurations.
//!
//! The provider is ring, given in so many words everywhere: no default of the process decides.

mod files;
mod identity;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};

pub use files::{Validity, read_ca, read_identity};
pub use identity::{CertIdentity, IdentityError};

use crate::config::{CloudConfig, ConfigError, EdgeConfig};
use crate::secrets::Checked;

/// The name that every replica's certificate has, wherever the replica is.
pub const SERVER_NAME: &str = "tunnel.cloud.io";
/// HTTP/2, as gRPC needs it.
pub const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1, for CONNECT.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The one provider of cryptography. The client's order of suites holds, and ours asks first for what its machine does fastest.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    let aes_in_hardware = has_aes();
    provider
        .cipher_suites
        .sort_by_key(|offered| rank(offered.suite(), aes_in_hardware));
    Arc::new(provider)
}

/// The place of a suite's cipher. All of them are safe, and none is known to be safer; AES with 256 bits costs a third more than
/// with 128, and without instructions of the CPU's own either costs a multiple of ChaCha20.
fn rank(suite: CipherSuite, aes_in_hardware: bool) -> u8 {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 1,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => match aes_in_hardware {
            true => 3,
            false => 0,
        },
        _ => 2,
    }
}

/// Whether this CPU has instructions for AES and for GCM's multiplication.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// For a client that connects to nobody.
pub fn trusting_nobody() -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider());
    // The versions are those of the provider: they are safe together.
    #[allow(clippy::expect_used)]
    let builder = builder
        .with_safe_default_protocol_versions()
        .expect("the provider has these versions");
    Arc::new(
        builder
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth(),
    )
}

/// The files of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// Its certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CA of clients' certificates; empty: none are asked for.
    pub client_ca: PathBuf,
    /// The CA of other replicas' certificates; empty: that of clients.
    pub peers_ca: PathBuf,
}

/// A cloud's two faces, made of the same files.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// For links: h2.
    pub grpc: Arc<ServerConfig>,
    /// For CONNECT in TLS: http/1.1, or no ALPN at all.
    pub connect: Arc<ServerConfig>,
}

impl From<&CloudConfig> for ServerFiles {
    fn from(config: &CloudConfig) -> Self {
        let grpc = &config.grpc;
        Self {
            cert: grpc.cert.clone(),
            key: grpc.key.clone(),
            client_ca: grpc.client_ca.clone(),
            peers_ca: config.peers.ca.clone(),
        }
    }
}

impl ServerFiles {
    /// All that are set, for watching.
    pub fn paths(&self) -> Vec<PathBuf> {
        let all = [&self.cert, &self.key, &self.client_ca, &self.peers_ca];
        all.into_iter()
            .filter(|path| !path.as_os_str().is_empty())
            .cloned()
            .collect()
    }

    /// Reads them.
    ///
    /// A client that shows a certificate must show one of `client_ca`'s; one that shows none is let through, and must log in some other way.
    pub fn load(&self) -> Result<Checked<ServerTls>, ConfigError> {
        let provider = provider();
        let Checked {
            value: (chain, key),
            mut warnings,
        } = read_identity(&self.cert, &self.key)?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| ConfigError::of_file(&self.cert, error))?;
        let mut roots = RootCertStore::empty();
        for ca in [&self.client_ca, &self.peers_ca] {
            if !ca.as_os_str().is_empty() {
                let read = read_ca(ca)?;
                warnings.extend(read.warnings);
                roots.extend(read.value.roots);
            }
        }
        let builder = if roots.is_empty() {
            builder.with_no_client_auth()
        } else {
            // Whose a certificate is, its name says: an edge's is never a replica's, whichever CA it is of.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| ConfigError::of_file(&self.client_ca, error))?;
            builder.with_client_cert_verifier(verifier)
        };
        let mut grpc = builder
            .with_single_cert(chain, key)
            .map_err(|error| ConfigError::of_file(&self.cert, error))?;
        grpc.alpn_protocols = vec![ALPN_H2.to_vec()];
        // A link is made once and lasts: a ticket would be memory at both ends for nothing.
        grpc.send_tls13_tickets = 0;
        let mut connect = grpc.clone();
        connect.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        connect.send_tls13_tickets = 2;
        // A session of one face is none of the other's.
        connect.session_storage = rustls::server::ServerSessionMemoryCache::new(1_024);
        let value = ServerTls {
            grpc: Arc::new(grpc),
            connect: Arc::new(connect),
        };
        Ok(Checked { value, warnings })
    }
}

/// The files of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// The CA of the server's certificate.
    pub ca: PathBuf,
    /// The client's own certificate chain; empty: it shows none.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl From<&EdgeConfig> for ClientFiles {
    fn from(config: &EdgeConfig) -> Self {
        let cloud = &config.cloud;
        Self {
            ca: cloud.ca.clone(),
            cert: cloud.cert.clone(),
            key: cloud.key.clone(),
        }
    }
}

impl ClientFiles {
    /// What a replica shows the others, and by which CA it knows them. With a token it shows no certificate.
    pub fn of_peers(config: &CloudConfig) -> Self {
        let (peers, grpc) = (&config.peers, &config.grpc);
        let or = |own: &PathBuf, else_: &PathBuf| match own.as_os_str().is_empty() {
            true => else_.clone(),
            false => own.clone(),
        };
        let by_token = !peers.token_file.as_os_str().is_empty();
        Self {
            ca: or(&peers.ca, &grpc.client_ca),
            cert: match by_token {
                true => peers.cert.clone(),
                false => or(&peers.cert, &grpc.cert),
            },
            key: match by_token {
                true => peers.key.clone(),
                false => or(&peers.key, &grpc.key),
            },
        }
    }
}

impl From<&crate::config::ClientConfig> for ClientFiles {
    fn from(config: &crate::config::ClientConfig) -> Self {
        Self {
            ca: config.ca.clone(),
            cert: config.cert.clone(),
            key: config.key.clone(),
        }
    }
}

impl ClientFiles {
    /// All that are set, for watching.
    pub fn paths(&self) -> Vec<PathBuf> {
        let all = [&self.ca, &self.cert, &self.key];
        all.into_iter()
            .filter(|path| !path.as_os_str().is_empty())
            .cloned()
            .collect()
    }

    /// Reads them. Servers are trusted by this CA alone, never by the system's.
    pub fn load(&self, alpn: &[&[u8]]) -> Result<Checked<Arc<ClientConfig>>, ConfigError> {
        if self.ca.as_os_str().is_empty() {
            return Err(ConfigError::of_file(
                Path::new("ca"),
                "no CA is set: expected the path of the PEM file that the cloud's certificate was issued by",
            ));
        }
        let Checked {
            value: roots,
            mut warnings,
        } = read_ca(&self.ca)?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| ConfigError::of_file(&self.ca, error))?
            .with_root_certificates(roots);
        let mut config = if self.cert.as_os_str().is_empty() {
            builder.with_no_client_auth()
        } else {
            let own = read_identity(&self.cert, &self.key)?;
            warnings.extend(own.warnings);
            let (chain, key) = own.value;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| ConfigError::of_file(&self.cert, error))?
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Checked {
            value: Arc::new(config),
            warnings,
        })
    }
}
