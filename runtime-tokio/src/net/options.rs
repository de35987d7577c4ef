//! Socket options, in one place.
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};

const BACKLOG: u32 = 1024;

/// Options of a connection that carries a link.
pub fn tune_link(socket: &TcpStream) {
    runtime_shared::net::options::tune_link(&SockRef::from(socket));
}

/// Options of a CONNECT client's or a target's connection.
pub fn tune_local(socket: &TcpStream) {
    runtime_shared::net::options::tune_local(&SockRef::from(socket));
}

/// Closing it will send RST.
pub fn reset_on_close(socket: &TcpStream) {
    runtime_shared::net::options::reset_on_close(&SockRef::from(socket));
}

/// Listens, with the address named in the error.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}"));
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .map_err(named)?;
    socket.set_reuseaddr(true).map_err(named)?;
    socket.bind(address).map_err(named)?;
    socket.listen(BACKLOG).map_err(named)
}

/// Listens on a Unix socket that only its owner may use, in place of one that was left there.
pub fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let named = |e: io::Error| {
        io::Error::new(
            e.kind(),
            format!("cannot listen on {}: {e}", path.display()),
        )
    };
    if std::fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
        std::fs::remove_file(path).map_err(named)?;
    }
    let listener = UnixListener::bind(path).map_err(named)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(named)?;
    Ok(listener)
}
