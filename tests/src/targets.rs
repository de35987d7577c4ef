//! What an edge dials in the tests: echo, source, sink, scripted servers, and one that swallows SYNs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// A TCP server in threads of its own; ends with the value.
#[derive(Debug)]
pub struct Target {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    sent: Arc<AtomicU64>,
}

impl Target {
    /// Serves each connection by `handler` in a thread.
    pub fn serve(handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::serve_at("127.0.0.1:0", handler)
    }

    /// The same at an address.
    pub fn serve_at(address: &str, handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let open = Arc::new(AtomicUsize::new(0));
        let accepted = Arc::new(AtomicUsize::new(0));
        let target = Self {
            address,
            stop: stop.clone(),
            open: open.clone(),
            accepted: accepted.clone(),
            sent: Arc::default(),
        };
        let handler = Arc::new(handler);
        thread::spawn(move || {
            for socket in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(socket) = socket else { continue };
                let _ = socket.set_nodelay(true);
                let (handler, open) = (handler.clone(), open.clone());
                accepted.fetch_add(1, Ordering::SeqCst);
                open.fetch_add(1, Ordering::SeqCst);
                let serve = move || {
                    handler(socket);
                    open.fetch_sub(1, Ordering::SeqCst);
                };
                thread::Builder::new()
                    .stack_size(256 * 1024)
                    .spawn(serve)
                    .unwrap();
            }
        });
        target
    }

    /// Sends back what it gets, then ends its direction when the other has.
    pub fn echo() -> Self {
        Self::serve(|mut socket| {
            let mut buffer = [0; 65536];
            while let Ok(len @ 1..) = socket.read(&mut buffer) {
                if socket.write_all(&buffer[..len]).is_err() {
                    return;
                }
            }
            let _ = socket.shutdown(Shutdown::Write);
        })
    }

    /// Sends without end, until the connection is gone.
    pub fn source() -> Self {
        Self::serve(|mut socket| {
            let block = [0x5a; 65536];
            while socket.write_all(&block).is_ok() {}
        })
    }

    /// Says one line and echoes from then on.
    pub fn greeter(line: &'static str) -> Self {
        Self::serve(move |mut socket| {
            let _ = socket.write_all(line.as_bytes());
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = socket.read(&mut buffer) {
                let _ = socket.write_all(&buffer[..len]);
            }
        })
    }

    /// The first byte of a connection chooses what it does: `e` echo, `s` source, `h` hold without reading.
    pub fn many_sided() -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let count = sent.clone();
        let mut target = Self::serve(move |mut socket| {
            let mut choice = [0];
            if socket.read_exact(&mut choice).is_err() {
                return;
            }
            let mut buffer = vec![0; 65536];
            match choice[0] {
                b's' => {
                    while let Ok(len) = socket.write(&buffer) {
                        count.fetch_add(len as u64, Ordering::SeqCst);
                    }
                }
                b'h' => hold(&socket),
                _ => {
                    while let Ok(len @ 1..) = socket.read(&mut buffer) {
                        if socket.write_all(&buffer[..len]).is_err() {
                            return;
                        }
                    }
                }
            }
        });
        target.sent = sent;
        target
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Connections being served now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Bytes that its sources have got rid of.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Waits, without reading, until the peer resets or a minute is over.
fn hold(socket: &TcpStream) {
    for _ in 0..600 {
        thread::sleep(Duration::from_millis(100));
        if !matches!(socket.take_error(), Ok(None)) {
            return;
        }
    }
}

/// A listener that takes connections and does nothing with them, so that they cost the test no descriptors and no threads.
#[derive(Debug)]
pub struct Shelf(TcpListener);

impl Shelf {
    /// How many it takes.
    pub const ROOM: usize = 1000;

    /// Listens on a free port.
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())
            .unwrap();
        socket.listen(Self::ROOM as i32 + 24).unwrap();
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    /// Takes all from it: how many there were, and how many of them the other side had ended.
    pub fn clear(&self) -> (usize, usize) {
        let (mut all, mut ended) = (0, 0);
        while let Ok((mut socket, _)) = self.0.accept() {
            socket.set_nonblocking(true).unwrap();
            let end = std::io::copy(&mut socket, &mut std::io::sink());
            all += 1;
            ended += usize::from(!is_waiting(&end));
        }
        (all, ended)
    }
}

impl Default for Shelf {
    fn default() -> Self {
        Self::new()
    }
}

fn is_waiting<T>(result: &std::io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// A port that nothing listens on (bound, never listening, for as long as the value lives).
#[derive(Debug)]
pub struct ClosedPort(Socket);

impl ClosedPort {
    /// Takes a free port.
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())
            .unwrap();
        Self(socket)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.0
            .local_addr()
            .unwrap()
            .as_socket()
            .unwrap()
            .to_string()
    }
}

impl Default for ClosedPort {
    fn default() -> Self {
        Self::new()
    }
}

/// A listener whose accept queue is full: the kernel drops further SYNs, so a dial hears nothing. No firewall is needed.
#[derive(Debug)]
pub struct BlackHole {
    listener: Socket,
    _fill: Vec<TcpStream>,
}

impl BlackHole {
    /// Listens with no backlog and fills the queue until a connection attempt gets no answer.
    pub fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())
            .unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut fill = Vec::new();
        while let Ok(socket) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            fill.push(socket);
            assert!(fill.len() < 100, "the accept queue never fills");
        }
        Self {
            listener,
            _fill: fill,
        }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.listener
            .local_addr()
            .unwrap()
            .as_socket()
            .unwrap()
            .to_string()
    }
}

impl Default for BlackHole {
    fn default() -> Self {
        Self::new()
    }
}
