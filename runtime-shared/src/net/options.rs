//! Socket options, in one place.
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// How long the kernel tries to deliver a link's bytes before it gives the connection up. Longer than the heartbeats' verdict
/// (14.5 s), which is the one that counts: this one is for what the heartbeats don't see, a link whose task has gone.
const LINK_USER_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a link that the kernel holds unsent. What waits, waits in the core, where a keystroke passes a bulk copy.
const LINK_NOT_SENT_BYTES: u32 = 128 * 1024;
/// A link's silence after which the kernel asks. Heartbeats ask sooner, whatever a line costs: this would only cost as much again.
const LINK_KEEPALIVE: Duration = Duration::from_secs(60);
/// The same where nothing else asks.
const WATCH_KEEPALIVE: Duration = Duration::from_secs(15);
const BACKLOG: i32 = 1024;

/// Options of a connection that carries a link. What the kernel refuses, it refuses: a link works without them.
pub fn tune_link(socket: &SockRef<'_>) {
    tune(socket, LINK_KEEPALIVE);
}

/// Options of a connection by which something is followed, and which may be silent for long.
pub fn tune_watch(socket: &SockRef<'_>) {
    tune(socket, WATCH_KEEPALIVE);
}

fn tune(socket: &SockRef<'_>, keepalive: Duration) {
    let _ = socket.set_tcp_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(keepalive)
        .with_interval(Duration::from_secs(5));
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    {
        let _ = socket.set_tcp_user_timeout(Some(LINK_USER_TIMEOUT));
        let _ = socket.set_tcp_notsent_lowat(LINK_NOT_SENT_BYTES);
    }
}

/// Options of a CONNECT client's or a target's connection. Keepalive finds the client that vanished without a word.
pub fn tune_local(socket: &SockRef<'_>) {
    let _ = socket.set_tcp_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    let _ = socket.set_tcp_keepalive(&keepalive);
}

/// Closing it will send RST.
pub fn reset_on_close(socket: &SockRef<'_>) {
    let _ = socket.set_linger(Some(Duration::ZERO));
}

/// Listens without blocking, with the address named in the error.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    listen_by(address, false)
}

/// The same where another process of this user may listen, too: the one that this one takes the place of.
pub fn listen_beside(address: SocketAddr) -> io::Result<TcpListener> {
    listen_by(address, true)
}

fn listen_by(address: SocketAddr, is_shared: bool) -> io::Result<TcpListener> {
    let listen = || {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(is_shared)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    listen().map_err(|error| cannot_listen(address, &error))
}

/// Listens on a Unix socket that only its owner may use, in place of one that was left there, without blocking.
pub fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let listen = || {
        if std::fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    listen().map_err(|error| cannot_listen(path.display(), &error))
}

/// The same for what a program can do without: a disk that is full or lets nobody write, which may pass, is said and no error.
pub fn listen_at_if_writable(path: &Path) -> io::Result<Option<UnixListener>> {
    match listen_at(path) {
        Ok(listener) => Ok(Some(listener)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
            ) =>
        {
            tracing::warn!(%error, "there is no admin socket until the next start");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn cannot_listen(at: impl std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {at}: {error}"))
}
