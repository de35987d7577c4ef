//! `tunnel connect` against a CONNECT server made for the test.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

const OK: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

#[test]
fn the_greeting_is_sent_before_the_answer_and_no_more_than_its_credit() {
    let server = Server::start();
    let mut client = server.client();
    let sent: Vec<u8> = (0..10_000).map(|i| i as u8).collect();
    client.stdin.as_mut().unwrap().write_all(&sent).unwrap();
    let mut socket = server.accept();
    assert_eq!(read_request(&mut socket), "CONNECT node-a:22 HTTP/1.1");
    let mut early = vec![0; 4096];
    socket.read_exact(&mut early).unwrap();
    assert_eq!(early, sent[..4096]);
    // Nothing more until the answer.
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    assert!(
        socket.read(&mut [0; 1]).is_err(),
        "bytes over the early credit"
    );
    socket.set_read_timeout(None).unwrap();
    socket.write_all(OK).unwrap();
    let mut rest = vec![0; sent.len() - 4096];
    socket.read_exact(&mut rest).unwrap();
    assert_eq!(rest, sent[4096..]);
    drop(client.stdin.take());
    assert_eq!(socket.read(&mut [0; 1]).unwrap(), 0);
    drop(socket);
    assert_eq!(client.wait(), 0);
}

#[test]
fn bytes_behind_the_answer_are_the_streams() {
    let server = Server::start();
    let mut client = server.client();
    let mut socket = server.accept();
    read_request(&mut socket);
    socket
        .write_all(&[OK, b"SSH-2.0-test\r\n"].concat())
        .unwrap();
    let mut line = String::new();
    client.stdout().read_line(&mut line).unwrap();
    assert_eq!(line, "SSH-2.0-test\r\n");
}

#[test]
fn stdin_may_end_first() {
    let server = Server::start();
    let mut client = server.client();
    client
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"question")
        .unwrap();
    drop(client.stdin.take());
    let mut socket = server.accept();
    read_request(&mut socket);
    socket.write_all(OK).unwrap();
    let mut question = Vec::new();
    socket.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question");
    let answer = pattern(10 << 20);
    let expected = answer.clone();
    let sender = std::thread::spawn(move || socket.write_all(&answer));
    let mut received = Vec::new();
    client.stdout().read_to_end(&mut received).unwrap();
    sender.join().unwrap().unwrap();
    assert!(received == expected);
    assert_eq!(client.wait(), 0);
}

#[test]
fn the_stream_may_end_first() {
    let server = Server::start();
    let mut client = server.client();
    let mut socket = server.accept();
    read_request(&mut socket);
    socket.write_all(&[OK, b"bye"].concat()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    client.stdout().read_to_end(&mut received).unwrap();
    assert_eq!(received, b"bye");
    // Our direction goes on.
    let sent = pattern(10 << 20);
    let expected = sent.clone();
    let mut stdin = client.stdin.take().unwrap();
    let sender = std::thread::spawn(move || stdin.write_all(&sent));
    let mut up = Vec::new();
    socket.read_to_end(&mut up).unwrap();
    sender.join().unwrap().unwrap();
    assert!(up == expected);
    drop(socket);
    assert_eq!(client.wait(), 0);
}

#[test]
fn a_refusal_is_one_line_and_255() {
    let server = Server::start();
    let client = server.client();
    let mut socket = server.accept();
    read_request(&mut socket);
    socket
        .write_all(b"HTTP/1.1 503 node-A is offline since 12:03:11Z\r\nRetry-After: 1\r\n\r\nnode-A is offline\n")
        .unwrap();
    drop(socket);
    let output = client.output();
    assert_eq!(output.status.code(), Some(255));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "tunnel: node-a: node-A is offline since 12:03:11Z (503)\n"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn a_server_that_is_not_one_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let output = connect(&url).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(
        line.starts_with(&format!("tunnel: cannot connect to {url}: ")),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1);

    let server = Server::start();
    let client = server.client();
    let mut socket = server.accept();
    read_request(&mut socket);
    drop(socket);
    let output = client.output();
    assert_eq!(output.status.code(), Some(255));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains("without an answer"), "{line}");
}

#[test]
fn it_ends_when_whoever_reads_it_has_gone() {
    let server = Server::start();
    let mut client = server.client();
    let mut socket = server.accept();
    read_request(&mut socket);
    socket.write_all(OK).unwrap();
    // An idle stream; stdin stays open, as a shell left behind by an editor would keep it.
    drop(client.stdout.take());
    assert_eq!(client.wait(), 255);
}

#[test]
fn in_tls_with_half_close_both_ways_and_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let (config, ca) = tls();
    let ca_file = folder.path().join("ca.crt");
    std::fs::write(&ca_file, ca).unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "secret\n").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let server = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let machine = rustls::ServerConnection::new(config).unwrap();
        let mut stream = rustls::StreamOwned::new(machine, socket);
        let mut header = Vec::new();
        while !header.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            header.push(byte[0]);
        }
        let header = String::from_utf8(header).unwrap();
        assert!(
            header.contains("\r\nProxy-Authorization: Bearer secret\r\n"),
            "{header}"
        );
        stream.write_all(OK).unwrap();
        let mut sent = Vec::new();
        stream.read_to_end(&mut sent).unwrap();
        // It sent its goodbye; we still answer.
        stream.write_all(&sent).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        sent.len()
    });
    let mut child = connect(&url);
    child
        .arg("--ca")
        .arg(&ca_file)
        .arg("--token-file")
        .arg(&token_file);
    let mut client = Client::start(child);
    let sent = pattern(3 << 20);
    let expected = sent.clone();
    let mut stdin = client.stdin.take().unwrap();
    let sender = std::thread::spawn(move || stdin.write_all(&sent));
    let mut received = Vec::new();
    client.stdout().read_to_end(&mut received).unwrap();
    sender.join().unwrap().unwrap();
    assert!(received == expected);
    assert_eq!(server.join().unwrap(), expected.len());
    assert_eq!(client.wait(), 0);
}

#[test]
fn a_certificate_of_somebody_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (config, _) = tls();
    let (_, other_ca) = tls();
    let ca_file = folder.path().join("ca.crt");
    std::fs::write(&ca_file, other_ca).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut stream =
            rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), socket);
        let _ = stream.read(&mut [0; 1]);
    });
    let output = connect(&url)
        .arg("--ca")
        .arg(&ca_file)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(255));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains("certificate"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
}

struct Server {
    listener: TcpListener,
}

impl Server {
    fn start() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        }
    }

    fn client(&self) -> Client {
        Client::start(connect(&format!(
            "http://{}",
            self.listener.local_addr().unwrap()
        )))
    }

    fn accept(&self) -> TcpStream {
        self.listener.accept().unwrap().0
    }
}

/// The command, with nothing of the environment's in it.
fn connect(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel"));
    for name in [
        "TUNNEL_CONFIG",
        "TUNNEL_SERVER",
        "TUNNEL_USER",
        "TUNNEL_TOKEN",
        "TUNNEL_TOKEN_FILE",
    ] {
        command.env_remove(name);
    }
    command.env("XDG_CONFIG_HOME", "/nonexistent");
    command.args(["connect", "node-a", "22", "--server", url]);
    command
}

struct Client {
    child: Option<Child>,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Client {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().map(BufReader::new));
        Self {
            child: Some(child),
            stdin,
            stdout,
        }
    }

    fn stdout(&mut self) -> &mut BufReader<ChildStdout> {
        self.stdout.as_mut().unwrap()
    }

    fn wait(mut self) -> i32 {
        self.child.take().unwrap().wait().unwrap().code().unwrap()
    }

    fn output(mut self) -> Output {
        let stdout = self.stdout.take().map(|mut stdout| {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let mut output = self.child.take().unwrap().wait_with_output().unwrap();
        output.stdout = stdout.unwrap_or_default();
        output
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Reads to the blank line, byte by byte, and gives the request line.
fn read_request(socket: &mut TcpStream) -> String {
    let mut header = Vec::new();
    while !header.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        header.push(byte[0]);
    }
    String::from_utf8(header)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .to_owned()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

fn tls() -> (Arc<rustls::ServerConfig>, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![made.cert.der().clone()], key)
    .unwrap();
    (Arc::new(config), made.cert.pem())
}
