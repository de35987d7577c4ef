//! The first step of a link that is made: TCP to one of a name's addresses, and the words for what went wrong.
use std::io;
use std::net::SocketAddr;

use proto_core::output::LinkLoss;

use crate::runtime::Runtime;

/// Why a link could not be made; the text is for logs and, at a client, for its user.
#[derive(Clone, Debug)]
pub struct Failed {
    /// For the core.
    pub why: LinkLoss,
    /// For people.
    pub text: String,
}

/// A failure, with what it says of itself.
pub fn failed(why: LinkLoss, text: impl ToString) -> Failed {
    Failed {
        why,
        text: text.to_string(),
    }
}

/// A TLS handshake that failed: because of TLS, or because the connection did.
pub fn failed_handshake(error: io::Error) -> Failed {
    let inner = error.get_ref();
    let why = match inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
        true => LinkLoss::Tls,
        false => LinkLoss::Broken,
    };
    failed(why, error)
}

/// Connects to the first address that takes it.
pub async fn reach<R: Runtime>(
    addresses: impl IntoIterator<Item = SocketAddr>,
) -> Result<R::Connection, Failed> {
    let mut last = failed(LinkLoss::Broken, "the name has no address");
    for address in addresses {
        match R::connect(address).await {
            Ok(connection) => return Ok(connection),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                last = failed(LinkLoss::Refused, error)
            }
            Err(error) => last = failed(LinkLoss::Broken, error),
        }
    }
    Err(last)
}
