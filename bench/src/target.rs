//! The server behind every column. The first nine bytes of a connection say what it does: a letter and a slot.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use crate::Result;

/// Bytes read or written at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Streams at once, at most: eight in each column.
const SLOTS: usize = 128;

static ALL: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

/// What a copy's two ends have in common.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Bytes that arrived, over all copies that used it.
    bytes: AtomicU64,
    /// Whether the end that writes goes on.
    goes_on: Mutex<bool>,
    changed: Condvar,
}

impl Slot {
    const fn new() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            goes_on: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    /// Bytes that arrived so far, over all copies that used it.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Has the end that writes go on, or rest as soon as it has written what it is at.
    pub(crate) fn go_on(&self, goes_on: bool) {
        *self.goes_on.lock().unwrap_or_else(PoisonError::into_inner) = goes_on;
        self.changed.notify_all();
    }

    /// Writes until it can't.
    pub(crate) fn write(&self, socket: &mut TcpStream) -> io::Result<()> {
        let bytes = vec![7; CHUNK_BYTES];
        loop {
            let goes_on = self.goes_on.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.changed.wait_while(goes_on, |goes_on| !*goes_on));
            socket.write_all(&bytes)?;
        }
    }

    /// Reads until the end and counts.
    pub(crate) fn read(&self, socket: &mut TcpStream) -> io::Result<()> {
        let mut bytes = vec![0; CHUNK_BYTES];
        loop {
            match socket.read(&mut bytes)? {
                0 => return Ok(()),
                len => self.bytes.fetch_add(len as u64, Ordering::Relaxed),
            };
        }
    }
}

/// The slot of that number.
pub(crate) fn slot(number: usize) -> &'static Slot {
    &ALL[number % SLOTS]
}

/// The number of the slot that hasn't been used for longest.
pub(crate) fn next_slot() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed) % SLOTS
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// The server writes, for this slot.
    Down(usize),
    /// The server reads until the end and counts in this slot.
    Up(usize),
    /// The server sends back what comes.
    Echo,
}

impl Work {
    /// The nine bytes that ask for it.
    pub(crate) fn header(self) -> [u8; 9] {
        let (letter, slot) = match self {
            Self::Down(slot) => (b'D', slot),
            Self::Up(slot) => (b'U', slot),
            Self::Echo => (b'E', 0),
        };
        let mut header = [letter; 9];
        header[1..].copy_from_slice(&(slot as u64).to_be_bytes());
        header
    }
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
    let slot = self::slot(u64::from_be_bytes(slot) as usize);
    // The end of a connection, however it comes, is the end of its work.
    let _ = match header[0] {
        b'D' => slot.write(&mut socket),
        b'U' => slot.read(&mut socket),
        _ => echo(&mut socket),
    };
}

fn echo(socket: &mut TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; 4096];
    loop {
        match socket.read(&mut bytes)? {
            0 => return Ok(()),
            len => socket.write_all(&bytes[..len])?,
        }
    }
}
