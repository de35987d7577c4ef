//! A certificate authority for one test.

use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

/// A CA with its files in a directory.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// `tls.crt` and `tls.key` of one party.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate's file.
    pub cert: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

impl Pki {
    /// A new CA whose `ca.crt` is in `dir`.
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "test CA");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(dir.join("ca.crt"), certificate.pem()).unwrap();
        Self {
            dir: dir.to_owned(),
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// The CA's certificate file.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// The CA's certificate.
    pub fn ca_pem(&self) -> String {
        self.certificate.pem()
    }

    /// A replica's identity: the name edges expect, and the loopback address.
    pub fn cloud(&self, folder: &str) -> Identity {
        self.issue(
            folder,
            &[dns("tunnel.cloud.io"), dns("localhost"), loopback()],
        )
    }

    /// The same, valid from one time to another.
    pub fn cloud_between(&self, folder: &str, from: SystemTime, until: SystemTime) -> Identity {
        let names = [dns("tunnel.cloud.io"), dns("localhost"), loopback()];
        self.issue_between(folder, &names, Some((from, until)))
    }

    /// The same for one of several replicas, which are known to each other by it.
    pub fn replica(&self, folder: &str) -> Identity {
        let names = [
            dns("tunnel.cloud.io"),
            loopback(),
            uri("spiffe://tunnel/replica"),
        ];
        self.issue(folder, &names)
    }

    /// A node's identity.
    pub fn node(&self, folder: &str, node: &str) -> Identity {
        self.issue(folder, &[uri(&format!("spiffe://tunnel/node/{node}"))])
    }

    /// The same, valid from one time to another.
    pub fn node_between(
        &self,
        folder: &str,
        node: &str,
        from: SystemTime,
        until: SystemTime,
    ) -> Identity {
        let names = [uri(&format!("spiffe://tunnel/node/{node}"))];
        self.issue_between(folder, &names, Some((from, until)))
    }

    /// A user's identity.
    pub fn user(&self, folder: &str, user: &str) -> Identity {
        self.issue(folder, &[uri(&format!("spiffe://tunnel/user/{user}"))])
    }

    fn issue(&self, folder: &str, names: &[SanType]) -> Identity {
        self.issue_between(folder, names, None)
    }

    fn issue_between(
        &self,
        folder: &str,
        names: &[SanType],
        valid: Option<(SystemTime, SystemTime)>,
    ) -> Identity {
        let dir = self.dir.join(folder);
        fs::create_dir_all(&dir).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names.to_vec();
        if let Some((from, until)) = valid {
            let epoch = date_time_ymd(1970, 1, 1);
            params.not_before = epoch + from.duration_since(UNIX_EPOCH).unwrap();
            params.not_after = epoch + until.duration_since(UNIX_EPOCH).unwrap();
        }
        params.distinguished_name.push(DnType::CommonName, folder);
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let identity = Identity {
            cert: dir.join("tls.crt"),
            key: dir.join("tls.key"),
        };
        // By rename, key first, as a reader must never see half a file.
        replace(&identity.key, &key.serialize_pem());
        replace(&identity.cert, &certificate.pem());
        fs::write(dir.join("ca.crt"), self.certificate.pem()).unwrap();
        identity
    }
}

/// Puts `text` into `path` in one step, for its owner's eyes only.
pub fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .unwrap();
    fs::rename(&new, path).unwrap();
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

fn loopback() -> SanType {
    SanType::IpAddress(IpAddr::from([127, 0, 0, 1]))
}
