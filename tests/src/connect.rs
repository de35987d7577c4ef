//! A bare CONNECT client.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A copy is written and read in pieces of this size.
const PART_BYTES: usize = 65_536;

/// What came back for a request: the status line, the headers, and the body of a refusal.
#[derive(Debug, Clone)]
pub struct Reply {
    /// `HTTP/1.1 503 node-A is offline …`
    pub status: String,
    /// The header lines.
    pub headers: Vec<String>,
    /// What followed, for everything but 200.
    pub body: String,
}

/// An open tunneled connection.
#[derive(Debug)]
pub struct Connect {
    /// The socket, past the reply's header.
    pub socket: TcpStream,
}

impl Reply {
    /// The status code.
    pub fn code(&self) -> u16 {
        self.status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0)
    }

    /// A header's value, by its name without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (have, value) = line.split_once(':')?;
            have.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Connect {
    /// Opens `host:port` through the listener at `proxy`.
    #[track_caller]
    pub fn open(proxy: &str, target: &str) -> Self {
        match Self::try_open(proxy, target) {
            Ok(Ok(connect)) => connect,
            Ok(Err(reply)) => panic!("CONNECT {target}: {reply:?}"),
            Err(error) => panic!("CONNECT {target}: {error}"),
        }
    }

    /// As [`Connect::open`], with a refusal as a value.
    pub fn try_open(proxy: &str, target: &str) -> io::Result<Result<Self, Reply>> {
        let (mut socket, reply) = exchange(proxy, &format!("CONNECT {target} HTTP/1.1\r\n\r\n"))?;
        if reply.code() == 200 {
            return Ok(Ok(Self { socket }));
        }
        let mut body = String::new();
        socket.read_to_string(&mut body)?;
        Ok(Err(Reply { body, ..reply }))
    }

    /// Sends bytes and reads as many back.
    #[track_caller]
    pub fn echo(&mut self, bytes: &[u8]) {
        self.socket
            .write_all(bytes)
            .expect("the stream takes bytes");
        let mut back = vec![0; bytes.len()];
        self.socket
            .read_exact(&mut back)
            .expect("the echo comes back");
        assert!(back == bytes, "the echo differs");
    }

    /// Sends `bytes` of a pattern to an echo and checks each as it comes back, which begins after `pause`.
    pub fn there_and_back(&mut self, bytes: u64, pause: Duration) {
        let pattern = pattern();
        let mut writer = self.socket.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut at = 0;
                while at < bytes {
                    let part = part(&pattern, at, bytes);
                    writer.write_all(part).unwrap();
                    at += part.len() as u64;
                }
            });
            thread::sleep(pause);
            let (mut at, mut buffer) = (0, vec![0; PART_BYTES]);
            while at < bytes {
                let part = part(&pattern, at, bytes);
                let read = self.socket.read(&mut buffer[..part.len()]).unwrap();
                assert!(read > 0, "it ended after {at} bytes");
                assert!(buffer[..read] == part[..read], "another byte after {at}");
                at += read as u64;
            }
        });
    }

    /// Ends our direction.
    pub fn finish(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// Reads to the end.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.socket.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Whether the other side has ended the connection, orderly or by reset, within `limit`.
    pub fn ends(&mut self, limit: Duration) -> bool {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut buffer = [0; 65536];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }
}

/// What byte stands where in a copy: no two places near each other have the same neighbours.
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 56) as u8
    };
    (0..1_000_003).map(|_| next()).collect()
}

/// The next piece of a copy of `bytes` that is `at` so far.
fn part(pattern: &[u8], at: u64, bytes: u64) -> &[u8] {
    let from = (at % pattern.len() as u64) as usize;
    let len = (pattern.len() - from)
        .min(PART_BYTES)
        .min((bytes - at) as usize);
    &pattern[from..from + len]
}

/// Sends raw bytes to a CONNECT listener and gives the whole refusal that comes back.
#[track_caller]
pub fn refusal(proxy: &str, request: impl AsRef<[u8]>) -> Reply {
    let mut socket = dial(proxy).expect("the listener accepts");
    // A listener that has made up its mind may close while we still write.
    let _ = socket.write_all(request.as_ref());
    read_refusal(&mut socket)
}

/// Reads a refusal to its end.
#[track_caller]
pub fn read_refusal(socket: &mut impl Read) -> Reply {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => bytes.extend_from_slice(&buffer[..len]),
            Err(_) if !bytes.is_empty() => break,
            Err(error) => panic!("no reply: {error}"),
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no whole reply: {text:?}"));
    parse(head, body)
}

/// Sends a request and reads exactly the reply's header.
pub fn exchange(proxy: &str, request: &str) -> io::Result<(TcpStream, Reply)> {
    let mut socket = dial(proxy)?;
    socket.write_all(request.as_bytes())?;
    let reply = read_header(&mut socket)?;
    Ok((socket, reply))
}

/// Reads a reply's header byte by byte, so that nothing behind it is taken.
pub fn read_header(socket: &mut impl Read) -> io::Result<Reply> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    Ok(parse(text.trim_end(), ""))
}

/// A socket to a listener, with timeouts so that no test hangs.
pub fn dial(address: &str) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    socket.set_write_timeout(Some(Duration::from_secs(30)))?;
    Ok(socket)
}

/// TLS on a connection to a CONNECT listener.
pub fn dial_tls(address: &str, ca: &Path) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("tunnel.cloud.io").unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(session, dial(address).unwrap())
}

fn parse(head: &str, body: &str) -> Reply {
    let mut lines = head.split("\r\n").map(str::to_owned);
    Reply {
        status: lines.next().unwrap_or_default(),
        headers: lines.collect(),
        body: body.to_owned(),
    }
}
