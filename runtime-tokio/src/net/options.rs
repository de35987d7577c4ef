//! Socket options, in one place.
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use runtime_shared::net::options;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener};

/// Options of a connection that carries a link.
pub fn tune_link(socket: &TcpStream) {
    options::tune_link(&SockRef::from(socket));
}

/// Options of a connection by which something is followed.
pub fn tune_watch(socket: &TcpStream) {
    options::tune_watch(&SockRef::from(socket));
}

/// Options of a CONNECT client's or a target's connection.
pub fn tune_local(socket: &TcpStream) {
    options::tune_local(&SockRef::from(socket));
}

/// Closing it will send RST.
pub fn reset_on_close(socket: &TcpStream) {
    options::reset_on_close(&SockRef::from(socket));
}

/// Listens, with the address named in the error.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::from_std(options::listen(address)?)
}

/// The same beside another process of this user that listens there.
pub fn listen_beside(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::from_std(options::listen_beside(address)?)
}

/// Listens on a Unix socket that only its owner may use, in place of one that was left there; `None` if its disk takes nothing.
pub fn listen_at(path: &Path) -> io::Result<Option<UnixListener>> {
    let listener = options::listen_at_if_writable(path)?;
    listener.map(UnixListener::from_std).transpose()
}
