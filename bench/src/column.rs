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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A socket on which a proxy has said `reply`.
    fn after(reply: &str) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let socket = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (mut proxy, _) = listener.accept().expect("it is connected");
        proxy.write_all(reply.as_bytes()).expect("there is room");
        socket
    }

    #[test]
    fn bytes_behind_the_reply_are_left() {
        let mut socket = after("HTTP/1.1 200 Connection established\r\n\r\nSSH-");
        read_reply(&mut socket).expect("a 200");
        let mut rest = String::new();
        socket.read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "SSH-");
    }

    #[test]
    fn a_refusal_is_an_error_with_its_line() {
        let error = read_reply(&mut after("HTTP/1.1 404 no such node\r\n\r\n")).expect_err("a 404");
        assert!(error.to_string().contains("404 no such node"));
    }
}
