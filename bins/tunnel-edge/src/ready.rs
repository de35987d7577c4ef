//! `tunnel-edge ready`: a probe for where nothing else can be run, and where two edges share a machine's ports for a while.
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tunnel_common::config::EdgeAdmin;

/// An edge that is there answers within this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Done if the edge's link is up.
pub(crate) fn ask(admin: &EdgeAdmin) -> io::Result<()> {
    let status = if !admin.socket.as_os_str().is_empty() {
        let named = |error| of(&admin.socket.display().to_string(), error);
        let socket = UnixStream::connect(&admin.socket).map_err(named)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        status(socket).map_err(named)?
    } else if let Some(address) = admin.listen {
        let named = |error| of(&address.to_string(), error);
        let socket = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT).map_err(named)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        status(socket).map_err(named)?
    } else {
        return Err(io::Error::other(
            "the edge has no admin listener (admin.listen, admin.socket)",
        ));
    };
    match status.as_str() {
        "200" => Ok(()),
        _ => Err(io::Error::other("the link is down")),
    }
}

fn of(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// The status of the answer.
fn status(mut socket: impl Read + Write) -> io::Result<String> {
    socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.take(1 << 16).read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    Ok(status.to_owned())
}
