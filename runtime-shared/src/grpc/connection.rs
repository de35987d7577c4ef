//! The HTTP/2 connection under a link.
use std::pin::Pin;
use std::task::{Context, Poll, ready};

#[cfg(feature = "server")]
use http::{HeaderMap, HeaderValue};
use tokio_rustls::TlsStream;

use super::link::{Loss, broken};
use super::message::Outgoing;
#[cfg(feature = "server")]
use super::request::{MESSAGE, STATUS};
use crate::net::intake::Intake;
use crate::runtime::Runtime;

/// What HTTP/2 runs on.
pub type Io<R> = TlsStream<Intake<<R as Runtime>::Connection>>;

/// The HTTP/2 connection: one per link, but between replicas, where a task of its own drives it.
pub(super) enum Connection<R: Runtime> {
    #[cfg(feature = "server")]
    Server(Box<h2::server::Connection<Io<R>, Outgoing>>),
    Client(Box<h2::client::Connection<Io<R>, Outgoing>>),
    #[cfg(feature = "server")]
    SharedServer,
    #[cfg(feature = "server")]
    SharedClient,
}

impl<R: Runtime> Connection<R> {
    /// Moves bytes. Ready when it is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Loss> {
        match self {
            #[cfg(feature = "server")]
            Connection::Server(connection) => loop {
                match ready!(connection.poll_accept(cx)) {
                    // One connection, one link.
                    Some(Ok((_, mut respond))) => respond.send_reset(h2::Reason::REFUSED_STREAM),
                    Some(Err(error)) => return Poll::Ready(broken(&error)),
                    None => return Poll::Ready(Loss::Closed),
                }
            },
            Connection::Client(connection) => match ready!(Pin::new(connection).poll(cx)) {
                Ok(()) => Poll::Ready(Loss::Closed),
                Err(error) => Poll::Ready(broken(&error)),
            },
            // Its end is heard by the stream.
            #[cfg(feature = "server")]
            Connection::SharedServer | Connection::SharedClient => Poll::Pending,
        }
    }

    /// Its pings; none where a task of its own drives it.
    pub(super) fn ping_pong(&mut self) -> Option<h2::PingPong> {
        match self {
            #[cfg(feature = "server")]
            Connection::Server(connection) => connection.ping_pong(),
            Connection::Client(connection) => connection.ping_pong(),
            #[cfg(feature = "server")]
            Connection::SharedServer | Connection::SharedClient => None,
        }
    }

    /// What the other side may have under way. Not taken while it has not acknowledged the last settings.
    pub(super) fn set_window(&mut self, bytes: u32) -> Result<(), h2::Error> {
        match self {
            #[cfg(feature = "server")]
            Connection::Server(connection) => {
                connection.set_target_window_size(bytes);
                connection.set_initial_window_size(bytes)
            }
            Connection::Client(connection) => {
                connection.set_target_window_size(bytes);
                connection.set_initial_window_size(bytes)
            }
            // Replicas speak version 1 alone, which has windows of its own.
            #[cfg(feature = "server")]
            Connection::SharedServer | Connection::SharedClient => Ok(()),
        }
    }

    /// Ends the stream: a server's with a status, a client's by closing its half.
    #[cfg_attr(not(feature = "server"), allow(unused_variables))]
    pub(super) fn end(
        &mut self,
        send: &mut h2::SendStream<Outgoing>,
        code: u16,
        text: &'static str,
    ) {
        match self {
            #[cfg(feature = "server")]
            Connection::Server(connection) => {
                end_with(send, code, text);
                connection.graceful_shutdown();
            }
            #[cfg(feature = "server")]
            Connection::SharedServer => end_with(send, code, text),
            // The side that made the connection has no status to give.
            _ => {
                let _ = send.send_data(Outgoing::default(), true);
            }
        }
    }

    /// After the stream's end there is nothing on it to wait for.
    pub(super) fn ends_with_its_stream(&self) -> bool {
        match self {
            #[cfg(feature = "server")]
            Connection::Server(_) => false,
            _ => true,
        }
    }
}

/// Ends a server's stream with a status.
#[cfg(feature = "server")]
fn end_with(send: &mut h2::SendStream<Outgoing>, code: u16, text: &'static str) {
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, HeaderValue::from(code));
    trailers.insert(MESSAGE, HeaderValue::from_static(text));
    if send.send_trailers(trailers).is_err() {
        send.send_reset(h2::Reason::CANCEL);
    }
}
