//! Socket options, in one place.
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// How long the kernel tries to deliver a link's bytes before it gives the connection up. Longer than the heartbeats' verdict
/// (14.5 s), which is the one that counts: this one is for what the heartbeats don't see, a link whose task has gone.
const LINK_USER_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a link that the kernel holds unsent. What waits, waits in the core, where a keystroke passes a bulk copy.
const LINK_NOT_SENT_BYTES: u32 = 128 * 1024;

/// Options of a connection that carries a link. What the kernel refuses, it refuses: a link works without them.
pub fn tune_link(socket: &SockRef<'_>) {
    let _ = socket.set_tcp_nodelay(true);
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
