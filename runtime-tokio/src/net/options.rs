//! Socket options, in one place.
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};

/// How long the kernel tries to deliver a link's bytes before it gives the connection up. Longer than the heartbeats' verdict
/// (14.5 s), which is the one that counts: this one is for what the heartbeats don't see, a link whose task has gone.
const LINK_USER_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a link that the kernel holds unsent. What waits, waits in the core, where a keystroke passes a bulk copy.
const LINK_NOT_SENT_BYTES: u32 = 128 * 1024;
const BACKLOG: u32 = 1024;

/// Options of a connection that carries a link. What the kernel refuses, it refuses: a link works without them.
pub fn tune_link(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5));
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    {
        let _ = socket.set_tcp_user_timeout(Some(LINK_USER_TIMEOUT));
        let _ = socket.set_tcp_notsent_lowat(LINK_NOT_SENT_BYTES);
    }
}

/// Options of a CONNECT client's or a target's connection. Keepalive finds the client that vanished without a word.
pub fn tune_local(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    let _ = SockRef::from(socket).set_tcp_keepalive(&keepalive);
}

/// Closing it will send RST.
pub fn reset_on_close(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
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
