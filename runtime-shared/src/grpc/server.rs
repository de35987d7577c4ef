//! The cloud's side of a link's beginning: TLS, HTTP/2, and the request.
use std::io;
use std::task::Poll;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio_rustls::TlsAcceptor;

use super::connection::Io;
use super::link::Link;
use super::message::Outgoing;
use super::peer::{PeerRequest, PeerRequests};
use super::ping::PingPace;
use super::service::{self, LinkRequest};
use super::{
    FRAME_BYTES_MAX, HEADERS_BYTES_MAX, LINGER, SEND_BUFFER_BYTES_MAX, TLS_BUFFER_BYTES_MAX,
    WINDOW_BYTES,
};
use crate::net::intake::Intake;
use crate::runtime::{Runtime, within};

/// A request to open a link, to be accepted or refused.
pub struct Incoming<R: Runtime> {
    request: LinkRequest,
    /// The client's certificate, already verified.
    certificate: Option<CertificateDer<'static>>,
    connection: Box<h2::server::Connection<Io<R>, Outgoing>>,
    respond: h2::server::SendResponse<Outgoing>,
    body: h2::RecvStream,
    /// How many links it may have.
    links_max: u32,
}

/// Reads a connection up to the first request for a link. The caller bounds the time, and says how many links the bearer of a
/// certificate may have on it.
pub async fn handshake<R: Runtime>(
    tcp: R::Connection,
    tls: TlsAcceptor,
    links_max: impl FnOnce(Option<&CertificateDer<'_>>) -> u32,
) -> io::Result<Incoming<R>> {
    let mut io = tls.accept(Intake::new(tcp)).await?;
    io.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES_MAX));
    let certificate = io
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first().cloned())
        .map(CertificateDer::into_owned);
    let links_max = links_max(certificate.as_ref());
    let mut connection = Box::new(
        h2::server::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_send_buffer_size(SEND_BUFFER_BYTES_MAX)
            .max_concurrent_streams(links_max)
            .handshake::<_, Outgoing>(Io::<R>::from(io))
            .await
            .map_err(io::Error::other)?,
    );
    loop {
        let (http, mut respond) = match connection.accept().await {
            Some(Ok(request)) => request,
            Some(Err(error)) => return Err(io::Error::other(error)),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let (head, body) = http.into_parts();
        match LinkRequest::parse(head) {
            Ok(request) => {
                return Ok(Incoming {
                    request,
                    certificate,
                    connection,
                    respond,
                    body,
                    links_max,
                });
            }
            Err(response) => {
                let _ = respond.send_response(response, true);
            }
        }
    }
}

impl<R: Runtime> Incoming<R> {
    /// What the request says.
    pub fn request(&self) -> &LinkRequest {
        &self.request
    }

    /// The client's certificate, already verified.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.certificate.as_ref()
    }

    /// Done when whoever asks for the link has gone. It may be dropped at any time.
    pub async fn gone(&mut self) {
        // To hear of it, the connection is read on. One that may have many links would leave them all here.
        if self.links_max > 1 {
            return std::future::pending().await;
        }
        std::future::poll_fn(|cx| {
            let reset = self.respond.poll_reset(cx).is_ready();
            match reset || self.connection.poll_closed(cx).is_ready() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// Leaves the connection to links between replicas, of which this request is the first.
    pub fn into_peer(self) -> (PeerRequest, PeerRequests<R>) {
        let Incoming {
            request,
            connection,
            respond,
            body,
            ..
        } = self;
        let first = PeerRequest {
            request,
            respond,
            body,
        };
        (first, PeerRequests { connection })
    }

    /// Takes the link: the headers leave at once. A base edge's is pinged.
    pub fn accept(
        mut self,
        version1: bool,
        message_bytes_max: usize,
        base_pace: PingPace,
    ) -> io::Result<Link<R>> {
        let send = self
            .respond
            .send_response(service::accept(version1), false)
            .map_err(io::Error::other)?;
        let mut link = Link::of_server(self.connection, send, self.body, message_bytes_max);
        if !version1 {
            link.narrow_to_base();
            link.ping(base_pace);
        }
        Ok(link)
    }

    /// Refuses it with a status, and waits a moment for that to leave.
    pub async fn refuse(mut self, code: u16, text: &'static str, pushback: Option<Duration>) {
        if self
            .respond
            .send_response(service::refuse(code, text, pushback), true)
            .is_ok()
        {
            self.connection.graceful_shutdown();
            let closed = std::future::poll_fn(|cx| self.connection.poll_closed(cx));
            let _ = within::<R, _>(LINGER, closed).await;
        }
    }
}
