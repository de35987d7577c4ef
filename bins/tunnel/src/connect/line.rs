//! The connection to the server, plain or in TLS, usable from two threads: one sends, one receives.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConnection;
use rustls_pki_types::ServerName;

use crate::settings::Server;

/// For one address of the server's, and for the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an idle connection may be silent before TCP asks whether the other side is there.
const KEEPALIVE_SECS: u32 = 30;

/// How long sent bytes may stay unacknowledged by the other machine.
const UNACKED_TIMEOUT_MS: u32 = 60_000;

/// Read from the socket at once.
pub(crate) const READ_BYTES: usize = 128 * 1024;

/// One connection to the server.
pub(crate) struct Line {
    socket: TcpStream,
    tls: Option<Tls>,
}

/// TLS is one machine for both directions. It is locked only while it encrypts or decrypts, never while a socket
/// is waited for; `sending` keeps records in order. Locks are taken in the order sending, machine.
struct Tls {
    machine: Mutex<ClientConnection>,
    sending: Mutex<Vec<u8>>,
    received: Mutex<Received>,
}

/// Ciphertext that the machine has not taken yet.
struct Received {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    eof: bool,
}

impl Line {
    /// Connects to `server`, with TLS where it says so.
    pub(crate) fn open(server: &Server) -> io::Result<Self> {
        let socket = connect(&server.host, server.port)?;
        let Some(config) = &server.tls else {
            return Ok(Self { socket, tls: None });
        };
        let name = ServerName::try_from(server.name.clone()).map_err(|_| {
            io::Error::new(
                ErrorKind::InvalidInput,
                "the server's name is not a DNS name or address",
            )
        })?;
        let mut machine =
            ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        // What may be buffered is bounded by what is handed over at once.
        machine.set_buffer_limit(None);
        socket.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        while machine.is_handshaking() {
            machine
                .complete_io(&mut &socket)
                .map_err(|error| match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                        io::Error::new(ErrorKind::TimedOut, "no answer to the TLS handshake")
                    }
                    _ => error,
                })?;
        }
        socket.set_read_timeout(None)?;
        let received = Received {
            bytes: vec![0; READ_BYTES].into(),
            start: 0,
            end: 0,
            eof: false,
        };
        let tls = Tls {
            machine: Mutex::new(machine),
            sending: Mutex::new(Vec::with_capacity(READ_BYTES)),
            received: Mutex::new(received),
        };
        Ok(Self {
            socket,
            tls: Some(tls),
        })
    }

    /// Sends all of `bytes`.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match &self.tls {
            None => (&self.socket).write_all(bytes),
            Some(tls) => tls.send(&self.socket, |machine| machine.writer().write_all(bytes)),
        }
    }

    /// No byte will be sent any more; the other direction goes on.
    pub(crate) fn finish(&self) -> io::Result<()> {
        if let Some(tls) = &self.tls {
            tls.send(&self.socket, |machine| {
                machine.send_close_notify();
                Ok(())
            })?;
        }
        self.socket.shutdown(Shutdown::Write)
    }

    /// Receives some bytes; 0 is the end. `wait` is asked to wait for the socket before it is read.
    pub(crate) fn receive(
        &self,
        into: &mut [u8],
        wait: impl Fn(&TcpStream) -> io::Result<()>,
    ) -> io::Result<usize> {
        match &self.tls {
            None => {
                wait(&self.socket)?;
                (&self.socket).read(into)
            }
            Some(tls) => tls.receive(&self.socket, into, wait),
        }
    }

    /// The socket beneath.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Tls {
    fn send(
        &self,
        socket: &TcpStream,
        put: impl FnOnce(&mut ClientConnection) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut sending = locked(&self.sending);
        {
            let mut machine = locked(&self.machine);
            put(&mut machine)?;
            flush(&mut machine, &mut sending)?;
        }
        write_out(socket, &mut sending)
    }

    fn receive(
        &self,
        socket: &TcpStream,
        into: &mut [u8],
        wait: impl Fn(&TcpStream) -> io::Result<()>,
    ) -> io::Result<usize> {
        let mut received = locked(&self.received);
        loop {
            let mut machine = locked(&self.machine);
            let (taken, over) = received.decrypt(&mut machine, into)?;
            let answers = machine.wants_write();
            drop(machine);
            // An answer of TLS's own (a new key) must not wait for a busy sender: that one takes it along.
            if answers && let Ok(mut sending) = self.sending.try_lock() {
                flush(&mut locked(&self.machine), &mut sending)?;
                write_out(socket, &mut sending)?;
            }
            if taken > 0 || over {
                return Ok(taken);
            }
            wait(socket)?;
            let count = (&*socket).read(&mut received.bytes)?;
            (received.start, received.end, received.eof) = (0, count, count == 0);
        }
    }
}

impl Received {
    /// Decrypts into `into` what is there: how many bytes, and whether the other side has finished in order.
    fn decrypt(
        &mut self,
        machine: &mut ClientConnection,
        into: &mut [u8],
    ) -> io::Result<(usize, bool)> {
        let mut taken = 0;
        loop {
            while taken < into.len() {
                match machine.reader().read(&mut into[taken..]) {
                    Ok(0) => return Ok((taken, true)),
                    Ok(count) => taken += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof && taken > 0 => {
                        return Ok((taken, false));
                    }
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                        return Err(io::Error::new(
                            error.kind(),
                            "cut off (it ended without TLS's goodbye)",
                        ));
                    }
                    Err(error) => return Err(error),
                }
            }
            if taken == into.len() || (self.start == self.end && !self.eof) {
                return Ok((taken, false));
            }
            let mut rest = &self.bytes[self.start..self.end];
            machine.read_tls(&mut rest)?;
            self.start = self.end - rest.len();
            self.eof = false;
            machine.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

fn flush(machine: &mut ClientConnection, into: &mut Vec<u8>) -> io::Result<()> {
    while machine.wants_write() {
        machine.write_tls(into)?;
    }
    Ok(())
}

fn write_out(mut socket: &TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    let result = socket.write_all(bytes);
    bytes.clear();
    result
}

/// A thread that panicked must not take the other's last words with it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tries the addresses of `host` in order.
fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                keep_alive(&socket);
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// So that a path that silently went away is noticed. What a system doesn't know is left out.
fn keep_alive(socket: &TcpStream) {
    let fd = socket.as_fd();
    let _ = setsockopt(&fd, sockopt::KeepAlive, &true);
    let _ = setsockopt(&fd, sockopt::TcpKeepIdle, &KEEPALIVE_SECS);
    let _ = setsockopt(&fd, sockopt::TcpKeepInterval, &(KEEPALIVE_SECS / 3));
    let _ = setsockopt(&fd, sockopt::TcpUserTimeout, &UNACKED_TIMEOUT_MS);
}
