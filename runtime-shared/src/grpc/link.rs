//! One gRPC stream and the HTTP/2 connection that carries it: what a driver polls.
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use proto_core::output::LinkLoss;
use proto_core::proto::StreamMsg;

use crate::net::reach::broken_text;
use crate::runtime::{Runtime, within};

use super::connection::{Connection, Io};
use super::message::{Decoder, Malformed, Outgoing};
use super::ping::{PingPace, Pinger};
use super::{BASE_WINDOW_BYTES, LINGER, code, request};

/// A link. It does nothing unless it is polled, all of it by one task.
pub struct Link<R: Runtime> {
    connection: Connection<R>,
    send: h2::SendStream<Outgoing>,
    receive: Receive,
    decoder: Decoder,
    pinger: Option<Box<Pinger<R::Timer>>>,
    /// A base peer's windows are to be made smaller, and that was not taken yet.
    narrows: bool,
    /// This end's address, if this end chose it.
    local: Option<IpAddr>,
}

enum Receive {
    /// The response's headers are not here yet.
    Headers(h2::client::ResponseFuture),
    Messages(h2::RecvStream),
}

/// What came by a link.
#[derive(Debug)]
// It is only ever passed on; a box would cost an allocation a message.
#[allow(clippy::large_enum_variant)]
pub enum Received {
    /// The response's headers: the other side took the link.
    Established {
        /// It speaks version 1.
        version1: bool,
    },
    /// A message.
    Message(StreamMsg),
}

/// How a link was lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Loss {
    /// The other side ended the stream in good order.
    Closed,
    /// It ended or refused it with a status.
    Status {
        /// gRPC's number.
        code: u16,
        /// For logs only.
        message: String,
        /// How long it asks us to stay away.
        pushback: Option<Duration>,
    },
    /// It sent what isn't a message.
    Malformed(Malformed),
    /// HTTP/2 pings are not answered.
    Silent,
    /// The connection broke; the reason is for logs.
    Broken(String),
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Loss::Closed => f.write_str("closed by the other side"),
            Loss::Status { code, message, .. } => write!(f, "gRPC status {code}: {message}"),
            Loss::Malformed(malformed) => write!(f, "not a message: {malformed:?}"),
            Loss::Silent => f.write_str("no answer to pings"),
            Loss::Broken(error) => f.write_str(error),
        }
    }
}

impl Loss {
    /// As the core has it.
    pub fn to_core(&self) -> LinkLoss {
        match self {
            Loss::Closed => LinkLoss::Closed,
            Loss::Malformed(_) => LinkLoss::Fault,
            Loss::Silent => LinkLoss::Silent,
            Loss::Broken(_) => LinkLoss::Broken,
            Loss::Status { code, pushback, .. } => match *code {
                code::UNAUTHENTICATED => LinkLoss::Unauthenticated,
                code::ABORTED => LinkLoss::Replaced,
                code::INVALID_ARGUMENT => LinkLoss::Fault,
                code::UNAVAILABLE | code::RESOURCE_EXHAUSTED => LinkLoss::Unavailable {
                    pushback: *pushback,
                },
                _ => LinkLoss::Broken,
            },
        }
    }
}

impl<R: Runtime> Link<R> {
    #[cfg(feature = "server")]
    pub(super) fn of_server(
        connection: Box<h2::server::Connection<Io<R>, Outgoing>>,
        send: h2::SendStream<Outgoing>,
        body: h2::RecvStream,
        message_bytes_max: usize,
    ) -> Link<R> {
        Link::of_taken(
            Connection::Server(connection),
            send,
            body,
            message_bytes_max,
        )
    }

    pub(super) fn of_client(
        connection: Box<h2::client::Connection<Io<R>, Outgoing>>,
        send: h2::SendStream<Outgoing>,
        response: h2::client::ResponseFuture,
        message_bytes_max: usize,
        local: Option<IpAddr>,
    ) -> Link<R> {
        Link {
            connection: Connection::Client(connection),
            send,
            receive: Receive::Headers(response),
            decoder: Decoder::new(message_bytes_max),
            pinger: None,
            narrows: false,
            local,
        }
    }

    #[cfg(feature = "server")]
    /// A link of the side that made the connection, which the other side has taken already.
    pub(super) fn of_shared_client(
        send: h2::SendStream<Outgoing>,
        body: h2::RecvStream,
        message_bytes_max: usize,
    ) -> Link<R> {
        Link::of_taken(Connection::SharedClient, send, body, message_bytes_max)
    }

    #[cfg(feature = "server")]
    /// A link of the other side.
    pub(super) fn of_shared_server(
        send: h2::SendStream<Outgoing>,
        body: h2::RecvStream,
        message_bytes_max: usize,
    ) -> Link<R> {
        Link::of_taken(Connection::SharedServer, send, body, message_bytes_max)
    }

    #[cfg(feature = "server")]
    fn of_taken(
        connection: Connection<R>,
        send: h2::SendStream<Outgoing>,
        body: h2::RecvStream,
        message_bytes_max: usize,
    ) -> Link<R> {
        Link {
            connection,
            send,
            receive: Receive::Messages(body),
            decoder: Decoder::new(message_bytes_max),
            pinger: None,
            narrows: false,
            local: None,
        }
    }

    /// This machine's address at a link that it made.
    pub fn local(&self) -> Option<IpAddr> {
        self.local
    }

    /// Bounds what a base peer may have under way: the base dialect has no windows of its own.
    pub fn narrow_to_base(&mut self) {
        self.narrows = true;
        self.try_narrow();
    }

    /// HTTP/2 takes new settings only when the other side has acknowledged the last ones: until then it is tried again.
    fn try_narrow(&mut self) {
        let narrowed = self.connection.set_window(BASE_WINDOW_BYTES);
        self.narrows = narrowed.is_err();
    }

    /// Judges the link by HTTP/2's own pings from now on.
    pub fn ping(&mut self, pace: PingPace) {
        let pings = self.connection.ping_pong();
        self.pinger = pings.map(|pings| Box::new(Pinger::new(pings, pace)));
    }

    /// Moves bytes between the socket and HTTP/2. Ready when the connection is over. Polled before and after the other polls.
    pub fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Loss> {
        if let Some(pinger) = &mut self.pinger
            && pinger.poll_silence(cx).is_ready()
        {
            return Poll::Ready(Loss::Silent);
        }
        let over = self.connection.poll(cx);
        if self.narrows && over.is_pending() {
            self.try_narrow();
            if !self.narrows {
                return self.connection.poll(cx); // Out with it.
            }
        }
        over
    }

    /// The next of what came.
    pub fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, Loss>> {
        let body = match &mut self.receive {
            Receive::Messages(body) => body,
            Receive::Headers(response) => {
                let response = match ready!(Pin::new(response).poll(cx)) {
                    Ok(response) => response,
                    Err(error) => return Poll::Ready(Err(broken(&error))),
                };
                if let Some(loss) = request::refusal(&response) {
                    return Poll::Ready(Err(loss));
                }
                let (head, body) = response.into_parts();
                self.receive = Receive::Messages(body);
                return Poll::Ready(Ok(Received::Established {
                    version1: request::is_version1(&head.headers),
                }));
            }
        };
        loop {
            match self.decoder.next() {
                Ok(Some(message)) => return Poll::Ready(Ok(Received::Message(message))),
                Ok(None) => {}
                Err(malformed) => return Poll::Ready(Err(Loss::Malformed(malformed))),
            }
            match ready!(body.poll_data(cx)) {
                Some(Ok(frame)) => {
                    let _ = body.flow_control().release_capacity(frame.len());
                    self.decoder.push(frame);
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                None => {
                    let trailers = ready!(body.poll_trailers(cx));
                    return Poll::Ready(Err(match trailers {
                        Ok(trailers) => trailers
                            .as_ref()
                            .and_then(request::status)
                            .unwrap_or(Loss::Closed),
                        Err(error) => broken(&error),
                    }));
                }
            }
        }
    }

    /// Ready when there is room for a message. That the link is over is heard from the other polls.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.reserve_capacity(1);
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    /// Sends a message, for which there is room.
    pub fn send(&mut self, message: StreamMsg) {
        // An error here is the stream's end, which `poll_received` tells.
        let _ = self.send.send_data(Outgoing::new(message), false);
    }

    /// Ends the stream with a status (or, at the client, by closing its half), lets that leave, and drops the connection.
    pub async fn end(mut self, code: u16, text: &'static str) {
        self.connection.end(&mut self.send, code, text);
        // What still comes is read and dropped: unread bytes would turn our last words into a reset.
        let over = std::future::poll_fn(|cx| {
            loop {
                if self.poll_connection(cx).is_ready() {
                    return Poll::Ready(());
                }
                match self.poll_received(cx) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => {
                        return match self.connection.ends_with_its_stream() {
                            true => Poll::Ready(()),
                            false => self.poll_connection(cx).map(drop),
                        };
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let _ = within::<R, _>(LINGER, over).await;
    }
}

pub(super) fn broken(error: &h2::Error) -> Loss {
    Loss::Broken(broken_text(error.to_string()))
}
