//! One column of the table: a way from the load generator to the target.

use std::any::Any;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::proc::Pids;

/// A way to the target, with the processes that it costs.
#[derive(Debug, Default)]
pub(crate) struct Column {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// How it is entered.
    pub(crate) door: Door,
    /// The half that is entered.
    pub(crate) cloud: Pids,
    /// The half beside the target.
    pub(crate) edge: Pids,
    /// What lives as long as the column does. Dropped front to back.
    pub(crate) _parts: Vec<Box<dyn Any>>,
}

/// How a column is entered.
#[derive(Debug, Clone)]
pub(crate) enum Door {
    /// A TCP connection is the stream.
    Direct(String),
    /// CONNECT at a proxy first.
    Connect {
        /// The proxy's address.
        proxy: String,
        /// The node and port.
        target: String,
    },
}

impl Default for Door {
    fn default() -> Self {
        Self::Direct(String::new())
    }
}

impl Door {
    /// Opens a stream as `nc` does: the first bytes follow the 200.
    pub(crate) fn open(&self, first: &[u8]) -> io::Result<TcpStream> {
        let mut socket = self.connect()?;
        if let Self::Connect { target, .. } = self {
            socket.write_all(request(target).as_bytes())?;
            read_reply(&mut socket)?;
        }
        socket.write_all(first)?;
        Ok(socket)
    }

    /// Opens a stream as `tunnel connect` does: the first bytes stand right behind the request.
    pub(crate) fn open_early(&self, first: &[u8]) -> io::Result<TcpStream> {
        let mut socket = self.connect()?;
        match self {
            Self::Direct(_) => socket.write_all(first)?,
            Self::Connect { target, .. } => {
                socket.write_all(&[request(target).as_bytes(), first].concat())?;
                read_reply(&mut socket)?;
            }
        }
        Ok(socket)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let (Self::Direct(address) | Self::Connect { proxy: address, .. }) = self;
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(socket)
    }
}

fn request(target: &str) -> String {
    format!("CONNECT {target} HTTP/1.0\r\n\r\n")
}

/// Reads the reply's header and not one byte more.
fn read_reply(socket: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 1024];
    loop {
        let len = socket.peek(&mut buffer)?;
        let Some(end) = buffer[..len]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
        else {
            if len == 0 || len == buffer.len() {
                return Err(io::Error::other("no reply to CONNECT"));
            }
            continue;
        };
        let header = &mut buffer[..end + 4];
        socket.read_exact(header)?;
        if header.starts_with(b"HTTP/1.1 200 ") {
            return Ok(());
        }
        let status = String::from_utf8_lossy(header);
        let line = status.lines().next().unwrap_or_default();
        return Err(io::Error::other(format!("CONNECT: {line}")));
    }
}
