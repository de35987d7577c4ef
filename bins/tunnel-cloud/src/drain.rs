//! `tunnel-cloud drain`: asks the replica on this machine to leave, and waits until it may be ended without loss.
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use runtime_tokio::admin::api;

/// How often to ask how far it is.
const ASK_INTERVAL: Duration = Duration::from_millis(250);
/// A replica that is there answers within this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Done when the replica says that it is drained, or is there no more.
pub(crate) fn run(admin: SocketAddr) -> io::Result<()> {
    let admin = reachable(admin);
    let mut drain = ask(admin)?;
    while drain.state != "drained" {
        std::thread::sleep(ASK_INTERVAL);
        drain = match ask(admin) {
            Ok(drain) => drain,
            // It was ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) => return Err(error),
        };
    }
    Ok(())
}

/// Where a listener on all addresses is reached from here.
fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, admin.port())
}

fn ask(admin: SocketAddr) -> io::Result<api::Drain> {
    let mut socket = TcpStream::connect_timeout(&admin, ANSWER_TIMEOUT)?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    write!(
        socket,
        "POST /api/v1/drain HTTP/1.1\r\nHost: {admin}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    socket.take(1 << 16).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        let text = format!("{admin} answered \"{status}\" {body}");
        return Err(io::Error::other(text));
    }
    serde_json::from_str(body).map_err(io::Error::other)
}
