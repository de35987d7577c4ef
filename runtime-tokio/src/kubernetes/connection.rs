//! Connections to the API server: TCP, TLS, and what hyper wants to know of them.
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use runtime_shared::net::reach::reach;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ANSWER_TIMEOUT;
use crate::Tokio;
use crate::net::homing::Homing;
use crate::net::options;

/// Makes connections, each with the TLS configuration of its moment.
#[derive(Clone)]
pub(super) struct Connector {
    tls: watch::Receiver<Arc<rustls::ClientConfig>>,
}

impl Connector {
    pub(super) fn new(tls: watch::Receiver<Arc<rustls::ClientConfig>>) -> Connector {
        Connector { tls }
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Tls>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Tls>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let tls = TlsConnector::from(self.tls.borrow().clone());
        // hyper makes it in the background, also when whoever asked has given up.
        Box::pin(async move {
            tokio::time::timeout(ANSWER_TIMEOUT, connect(server, tls))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    }
}

async fn connect(server: Uri, tls: TlsConnector) -> io::Result<TokioIo<Tls>> {
    let bracketed = server.host().unwrap_or_default();
    let host = bracketed.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let port = server.port_u16().unwrap_or(443);
    let addresses = lookup_host((host, port)).await?;
    let connection = reach::<Tokio>(addresses)
        .await
        .map_err(|failed| io::Error::other(failed.text))?;
    // A watch is silent for minutes: a server that vanished is noticed as a link's other end is.
    if let Some(tcp) = connection.tcp() {
        options::tune_watch(tcp);
    }
    Ok(TokioIo::new(Tls(tls.connect(name, connection).await?)))
}

/// A connection in TLS.
pub(super) struct Tls(TlsStream<Homing>);

impl Connection for Tls {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
