//! The server behind every column. The first nine bytes of a connection say what it does: a letter and a slot.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::Result;

/// Bytes read or written at once.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;

/// Streams of one measurement, at most.
const SLOTS: usize = 64;

/// Bytes that came in by each slot's upload.
static UPLOADED: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// The server writes until it can't.
    Down,
    /// The server reads until the end and counts in this slot.
    Up(usize),
    /// The server sends back what comes.
    Echo,
}

impl Work {
    /// The nine bytes that ask for it.
    pub(crate) fn header(self) -> [u8; 9] {
        let (letter, slot) = match self {
            Self::Down => (b'D', 0),
            Self::Up(slot) => (b'U', slot),
            Self::Echo => (b'E', 0),
        };
        let mut header = [letter; 9];
        header[1..].copy_from_slice(&(slot as u64).to_be_bytes());
        header
    }
}

/// Bytes uploaded by a slot so far, over all connections.
pub(crate) fn uploaded(slot: usize) -> u64 {
    UPLOADED[slot].load(Ordering::Relaxed)
}

/// Starts the server; its address.
pub(crate) fn serve() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            // Small stacks: a thousand idle streams are a thousand threads.
            let thread = thread::Builder::new().stack_size(64 * 1024);
            let _ = thread.spawn(move || serve_one(socket));
        }
    });
    Ok(address)
}

fn serve_one(mut socket: TcpStream) {
    let _ = socket.set_nodelay(true);
    let mut header = [0; 9];
    if socket.read_exact(&mut header).is_err() {
        return;
    }
    let mut slot = [0; 8];
    slot.copy_from_slice(&header[1..]);
    // The end of a connection, however it comes, is the end of its work.
    let _ = match header[0] {
        b'D' => write_for_ever(&mut socket),
        b'U' => count(&mut socket, u64::from_be_bytes(slot) as usize % SLOTS),
        _ => echo(&mut socket),
    };
}

fn write_for_ever(socket: &mut TcpStream) -> std::io::Result<()> {
    let bytes = vec![7; CHUNK_BYTES];
    loop {
        socket.write_all(&bytes)?;
    }
}

fn count(socket: &mut TcpStream, slot: usize) -> std::io::Result<()> {
    let mut bytes = vec![0; CHUNK_BYTES];
    loop {
        match socket.read(&mut bytes)? {
            0 => return Ok(()),
            len => UPLOADED[slot].fetch_add(len as u64, Ordering::Relaxed),
        };
    }
}

fn echo(socket: &mut TcpStream) -> std::io::Result<()> {
    let mut bytes = vec![0; 4096];
    loop {
        match socket.read(&mut bytes)? {
            0 => return Ok(()),
            len => socket.write_all(&bytes[..len])?,
        }
    }
}
