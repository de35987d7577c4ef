//! The first step of a link that is made: TCP to one of a name's addresses, and the words for what went wrong.
use std::io;
use std::net::SocketAddr;

use proto_core::WallTime;
use proto_core::output::LinkLoss;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError};

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
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(tls) => failed(LinkLoss::Tls, tls_text(tls)),
        None => failed(LinkLoss::Broken, error),
    }
}

/// How a connection broke. That the other side doesn't take our certificate is heard only after the handshake, and HTTP/2 keeps of an
/// error no more than its words.
pub(crate) fn broken_text(words: String) -> String {
    let alert = rustls::Error::AlertReceived(AlertDescription::CertificateExpired);
    match words == alert.to_string() {
        true => tls_text(&alert),
        false => words,
    }
}

/// What TLS has against a connection. Where a certificate's dates are the matter, a machine that has just started may not know what
/// day it is: so both times are named, and the clock.
fn tls_text(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
            time,
            not_before,
        }) => format!(
            "the other side's certificate is not valid yet: it holds from {}, and this machine's clock says {}: the clock is probably wrong",
            date_time(*not_before),
            date_time(*time)
        ),
        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => {
            format!(
                "the other side's certificate has expired: it held until {}, and this machine's clock says {}: it was not renewed, or the clock is wrong",
                date_time(*not_after),
                date_time(*time)
            )
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "the other side says that our certificate is not valid now: it has expired, or holds from later on by the clock over there"
                .to_owned()
        }
        error => error.to_string(),
    }
}

fn date_time(time: UnixTime) -> impl std::fmt::Display {
    WallTime::from_unix_seconds(time.as_secs()).date_time()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_certificate_that_is_not_valid_names_both_times_and_the_clock() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let (early, late) = (at(12), at(1_769_904_000));
        let text = |error| {
            let error = rustls::Error::InvalidCertificate(error);
            let failed = failed_handshake(io::Error::new(io::ErrorKind::InvalidData, error));
            assert_eq!(failed.why, LinkLoss::Tls);
            failed.text
        };
        let not_yet = text(CertificateError::NotValidYetContext {
            time: early,
            not_before: late,
        });
        assert_eq!(
            not_yet,
            "the other side's certificate is not valid yet: it holds from 2026-02-01T00:00:00Z, and this machine's clock says \
             1970-01-01T00:00:12Z: the clock is probably wrong"
        );
        let expired = text(CertificateError::ExpiredContext {
            time: late,
            not_after: early,
        });
        assert!(
            expired.contains("held until 1970-01-01T00:00:12Z")
                && expired.contains("clock says 2026-02-01T00:00:00Z"),
            "{expired}"
        );
    }
}
