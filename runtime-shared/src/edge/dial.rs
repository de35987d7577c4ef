//! Dialing a target.
use std::io;
use std::net::SocketAddr;

use proto_core::reason::Reason;
use proto_core::target::{Host, Target};

use crate::net::options;
use crate::runtime::{Connection, Runtime};

/// Resolves a target and tries its addresses in turn. Its time is bounded by the core, which cancels it.
pub(super) async fn dial<R: Runtime>(target: &Target) -> Result<R::Connection, Reason> {
    let mut failure = Reason::NameNotFound;
    for address in resolve::<R>(target).await? {
        match R::connect(address).await {
            Ok(connection) => {
                if let Some(socket) = connection.socket() {
                    options::tune_local(&socket);
                }
                return Ok(connection);
            }
            Err(error) => failure = failure_of(&error),
        }
    }
    Err(failure)
}

async fn resolve<R: Runtime>(target: &Target) -> Result<Vec<SocketAddr>, Reason> {
    match target.host() {
        Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, target.port())]),
        Host::Name(name) => match R::look_up(format!("{name}:{}", target.port())).await {
            Ok(addresses) => Ok(addresses),
            Err(_) => Err(Reason::NameNotFound),
        },
    }
}

fn failure_of(error: &io::Error) -> Reason {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => Reason::Refused,
        Kind::TimedOut => Reason::DialTimeout,
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::AddrNotAvailable => {
            Reason::Unreachable
        }
        // Out of descriptors or memory, forbidden by a local filter: the target has no part in it.
        _ => Reason::LocalError,
    }
}
