//! The edge's side of a link's beginning.
use std::io;

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::connection::Io;
use super::link::Link;
use super::message::Outgoing;
use super::request::Introduction;
use super::{
    FRAME_BYTES_MAX, HEADERS_BYTES_MAX, SEND_BUFFER_BYTES_MAX, TLS_BUFFER_BYTES_MAX, WINDOW_BYTES,
};
use crate::net::intake::Intake;
use crate::runtime::{Connection, Runtime};

/// TLS on a fresh connection. Its own step, because its failures are of another kind than HTTP/2's.
pub async fn secure<R: Runtime>(
    connection: R::Connection,
    tls: TlsConnector,
    server_name: ServerName<'static>,
) -> io::Result<Io<R>> {
    let mut io = tls.connect(server_name, Intake::new(connection)).await?;
    io.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES_MAX));
    Ok(Io::<R>::from(io))
}

/// HTTP/2 as every link of ours is begun with.
pub(super) fn http2() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES_MAX)
        .max_concurrent_streams(0)
        .enable_push(false);
    builder
}

/// Sends the request; the response's headers are waited for by the link.
pub async fn open<R: Runtime>(
    io: Io<R>,
    introduction: Introduction,
    message_bytes_max: usize,
) -> io::Result<Link<R>> {
    let local = io.get_ref().0.connection().local();
    let (mut requests, connection) = http2()
        .handshake::<_, Outgoing>(io)
        .await
        .map_err(io::Error::other)?;
    let request = introduction
        .request()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let (response, send) = requests
        .send_request(request, false)
        .map_err(io::Error::other)?;
    Ok(Link::of_client(
        Box::new(connection),
        send,
        response,
        message_bytes_max,
        local,
    ))
}
