//! The demo's certificates: a CA of its own, and one certificate for each who speaks.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use tunnel_common::tls::SERVER_NAME;

/// A certificate authority whose key stays in the demo's folder.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Whose certificate it is; the name goes into a URI SAN.
pub(super) enum Bearer<'a> {
    /// A tunnel-cloud, with the names that it is reached by.
    Replica,
    /// An edge node.
    Node(&'a str),
    /// An operator.
    User(&'a str),
}

impl Authority {
    /// Makes one and writes its `tls.crt` and `tls.key` into `folder`.
    pub(super) fn make(folder: &Path) -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "tunnel demo CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(io::Error::other)?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("tls.crt"), issuer.pem())?;
        write_secret(
            &folder.join("tls.key"),
            issuer.key().serialize_pem().as_bytes(),
        )?;
        Ok(Self { issuer })
    }

    /// Writes `tls.crt`, `tls.key` and `ca.crt` for `bearer` into `folder`.
    pub(super) fn issue(&self, folder: &Path, bearer: &Bearer<'_>) -> io::Result<()> {
        let mut params = CertificateParams::default();
        let (name, uri) = match bearer {
            Bearer::Replica => ("cloud-1", "spiffe://tunnel/replica".to_owned()),
            Bearer::Node(name) => (*name, format!("spiffe://tunnel/node/{name}")),
            Bearer::User(name) => (*name, format!("spiffe://tunnel/user/{name}")),
        };
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .subject_alt_names
            .push(SanType::URI(uri.try_into().map_err(io::Error::other)?));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if matches!(bearer, Bearer::Replica) {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
            params
                .subject_alt_names
                .push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
            for name in [SERVER_NAME, "localhost"] {
                params
                    .subject_alt_names
                    .push(SanType::DnsName(name.try_into().map_err(io::Error::other)?));
            }
        }
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(io::Error::other)?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("tls.crt"), certificate.pem())?;
        write_secret(&folder.join("tls.key"), key.serialize_pem().as_bytes())?;
        fs::write(folder.join("ca.crt"), self.issuer.pem())
    }
}

/// Writes a file that only its owner may read.
pub(super) fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn each_bearer_gets_its_three_files_and_keys_are_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = Authority::make(&folder.path().join("ca")).expect("a CA");
        for (name, bearer) in [
            ("cloud-1", Bearer::Replica),
            ("node-a", Bearer::Node("node-A")),
            ("user", Bearer::User("demo")),
        ] {
            let of = folder.path().join(name);
            ca.issue(&of, &bearer).expect("a certificate");
            for file in ["tls.crt", "tls.key", "ca.crt"] {
                assert!(
                    fs::read_to_string(of.join(file))
                        .expect(file)
                        .starts_with("-----BEGIN ")
                );
            }
            let mode = fs::metadata(of.join("tls.key"))
                .expect("the key")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
