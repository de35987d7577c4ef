//! Files as people make them, and as they get them wrong.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use super::*;

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let pem = params.self_signed(&key).expect("certificate").pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// Certificate and key, PEM.
    fn issue(&self, sans: &[&str]) -> (String, String, rustls_pki_types::CertificateDer<'static>) {
        let mut params =
            CertificateParams::new(vec!["tunnel.cloud.io".to_owned()]).expect("params");
        for uri in sans {
            params
                .subject_alt_names
                .push(SanType::URI((*uri).try_into().expect("URI")));
        }
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        (
            certificate.pem(),
            key.serialize_pem(),
            certificate.der().clone(),
        )
    }
}

#[test]
fn good_files_make_both_ends() {
    let ca = Ca::new();
    let (cert, key, der) = ca.issue(&["spiffe://tunnel/node/node-A"]);
    let folder = tempfile::tempdir().expect("folder");
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("write");
        path
    };
    let (cert, key, ca) = (
        put("tls.crt", &cert),
        put("tls.key", &key),
        put("ca.crt", &ca.pem),
    );
    let server = ServerFiles {
        cert: cert.clone(),
        key: key.clone(),
        client_ca: ca.clone(),
        peers_ca: PathBuf::new(),
    };
    assert_eq!(server.paths().len(), 3);
    let tls = server.load().expect("server").value;
    assert_eq!(tls.grpc.alpn_protocols, [b"h2".to_vec()]);
    assert_eq!(tls.connect.alpn_protocols, [b"http/1.1".to_vec()]);
    let client = ClientFiles { ca, cert, key }
        .load(&[ALPN_H2])
        .expect("client");
    assert!(client.value.client_auth_cert_resolver.has_certs());
    let node = CertIdentity::of(&der).expect("identity");
    assert_eq!(node.to_uri(), "spiffe://tunnel/node/node-A");
    let validity = Validity::of(&der).expect("validity");
    assert_eq!(validity.problem(SystemTime::now()), None);
    assert!(
        validity
            .problem(validity.until + Duration::from_secs(1))
            .expect("expired")
            .starts_with("expired on ")
    );
    assert!(validity.problem(SystemTime::UNIX_EPOCH).is_some());
}

#[test]
fn each_mistake_names_its_file() {
    let ca = Ca::new();
    let (cert, key, _) = ca.issue(&[]);
    let (_, other_key, _) = ca.issue(&[]);
    for (cert, key, expected) in [
        (
            &cert,
            &other_key,
            "tls.key: is not the private key of the certificate in ",
        ),
        (
            &key,
            &cert,
            "tls.crt: no certificate: it holds a key: are cert and key swapped?",
        ),
        (&cert, &cert, "tls.key: no private key: holds a certificate"),
        (
            &"x".to_owned(),
            &key,
            "tls.crt: no certificate: expected -----BEGIN",
        ),
        (
            &cert,
            &"x".to_owned(),
            "tls.key: no private key: expected PEM",
        ),
        (
            &cert[..cert.len() / 2].to_owned(),
            &key,
            "tls.crt: no certificate: ",
        ),
    ] {
        let folder = tempfile::tempdir().expect("folder");
        let (cert_path, key_path) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        std::fs::write(&cert_path, cert).expect("write");
        std::fs::write(&key_path, key).expect("write");
        let error = read_identity(&cert_path, &key_path)
            .expect_err(expected)
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = read_ca(Path::new("/nowhere/ca.crt"))
        .expect_err("missing")
        .to_string();
    assert!(
        error.starts_with("/nowhere/ca.crt: can't be read: "),
        "{error}"
    );
    let none = ClientFiles {
        ca: PathBuf::new(),
        cert: PathBuf::new(),
        key: PathBuf::new(),
    };
    assert!(
        none.load(&[])
            .expect_err("no CA")
            .to_string()
            .contains("no CA is set")
    );
}

#[test]
fn certificates_name_one_bearer() {
    let ca = Ca::new();
    let of = |sans: &[&str]| CertIdentity::of(&ca.issue(sans).2);
    assert_eq!(of(&["spiffe://tunnel/replica"]), Ok(CertIdentity::Replica));
    assert_eq!(
        of(&["spiffe://other/x", "spiffe://tunnel/user/ann"])
            .expect("user")
            .to_uri(),
        "spiffe://tunnel/user/ann"
    );
    assert_eq!(of(&[]), Err(IdentityError::Missing));
    assert_eq!(of(&["spiffe://other/node/a"]), Err(IdentityError::Missing));
    assert_eq!(
        of(&["spiffe://tunnel/replica", "spiffe://tunnel/node/a"]),
        Err(IdentityError::Ambiguous)
    );
    for bad in [
        "spiffe://tunnel/",
        "spiffe://tunnel/node/",
        "spiffe://tunnel/node/a/b",
        "spiffe://tunnel/replica/x",
        "spiffe://tunnel/peer",
    ] {
        assert_eq!(of(&[bad]), Err(IdentityError::Malformed), "{bad}");
    }
    assert_eq!(
        CertIdentity::of(&vec![0x30, 0x00].into()),
        Err(IdentityError::Broken)
    );
}

#[test]
fn a_handshake_tells_who_is_there() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let folder = tempfile::tempdir().expect("folder");
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("write");
        path
    };
    let (cert, key, _) = ours.issue(&[]);
    let ca = put("ca.crt", &ours.pem);
    let server = ServerFiles {
        cert: put("tls.crt", &cert),
        key: put("tls.key", &key),
        client_ca: ca.clone(),
        peers_ca: PathBuf::new(),
    };
    let server = server.load().expect("server").value.grpc;
    let client = |issuer: Option<&Ca>| {
        let mut files = ClientFiles {
            ca: ca.clone(),
            cert: PathBuf::new(),
            key: PathBuf::new(),
        };
        if let Some(issuer) = issuer {
            let (cert, key, _) = issuer.issue(&["spiffe://tunnel/user/ann"]);
            (files.cert, files.key) = (put("user.crt", &cert), put("user.key", &key));
        }
        files.load(&[ALPN_H2]).expect("client").value
    };
    let identity = |connection: &rustls::ServerConnection| {
        let chain = connection.peer_certificates()?;
        chain
            .first()
            .map(|first| CertIdentity::of(first).expect("identity").to_uri())
    };
    let (known, unnamed, stranger) = (client(Some(&ours)), client(None), client(Some(&theirs)));
    let connection = handshake(known, server.clone()).expect("ours");
    assert_eq!(
        identity(&connection).as_deref(),
        Some("spiffe://tunnel/user/ann")
    );
    assert_eq!(connection.alpn_protocol(), Some(ALPN_H2));
    assert_eq!(
        identity(&handshake(unnamed, server.clone()).expect("none")),
        None
    );
    assert!(handshake(stranger, server).is_err());
}

/// The server's side of a finished handshake, in memory.
fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<rustls::ServerConnection, rustls::Error> {
    let name = "tunnel.cloud.io".try_into().expect("name");
    let mut client = rustls::ClientConnection::new(client, name)?;
    let mut server = rustls::ServerConnection::new(server)?;
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory");
        }
        feed(&wire, |bytes| server.read_tls(bytes).expect("memory"));
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("memory");
        }
        feed(&wire, |bytes| client.read_tls(bytes).expect("memory"));
        client.process_new_packets()?;
    }
    assert!(!server.is_handshaking());
    Ok(server)
}

fn feed(mut bytes: &[u8], mut read: impl FnMut(&mut dyn std::io::Read) -> usize) {
    while !bytes.is_empty() {
        read(&mut bytes);
    }
}

#[test]
fn what_the_machine_does_fastest_is_asked_for_first() {
    let first = |aes_in_hardware| {
        let mut suites: Vec<_> = rustls::crypto::ring::ALL_CIPHER_SUITES
            .iter()
            .map(rustls::SupportedCipherSuite::suite)
            .collect();
        suites.sort_by_key(|suite| super::rank(*suite, aes_in_hardware));
        suites[0]
    };
    assert_eq!(first(true), rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let stream = rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
    assert_eq!(first(false), stream, "a small board");
    let provider = super::provider();
    let ranks = provider
        .cipher_suites
        .iter()
        .map(|offered| super::rank(offered.suite(), super::has_aes()));
    assert!(ranks.is_sorted());
}
