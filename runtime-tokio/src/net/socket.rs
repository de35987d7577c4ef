//! The local end of a stream: a CONNECT client's connection, in TLS or not, or a dialed target's.
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::homing::Homing;
use super::options;

/// Slices handed to one vectored write.
const SLICES_MAX: usize = 16;

/// A connection that carries a stream's bytes.
#[derive(Debug)]
pub enum Socket {
    /// In plaintext.
    Tcp(Homing),
    /// In TLS; boxed, because most aren't.
    Tls(Box<TlsStream<Homing>>),
    /// Within the process: a client's own end.
    Unix(UnixStream),
}

impl Socket {
    /// In plaintext, on this thread.
    pub fn plain(tcp: TcpStream) -> Socket {
        Socket::Tcp(Homing::new(tcp))
    }

    /// Closing it will send RST instead of FIN.
    pub fn reset_on_close(&self) {
        let homing = match self {
            Socket::Tcp(tcp) => tcp,
            Socket::Tls(tls) => tls.get_ref().0,
            Socket::Unix(_) => return,
        };
        if let Some(tcp) = homing.tcp() {
            options::reset_on_close(tcp);
        }
    }

    /// There is no TLS on it.
    pub fn is_plain(&self) -> bool {
        matches!(self, Socket::Tcp(_) | Socket::Unix(_))
    }

    /// The client's certificate, already verified.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Socket::Tcp(_) | Socket::Unix(_) => None,
            Socket::Tls(tls) => tls.get_ref().1.peer_certificates()?.first(),
        }
    }

    /// Reads at most `limit` bytes into `buffer`'s spare room, without a task of its own; 0 is the end.
    pub fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        use bytes::BufMut;
        let mut limited = buffer.limit(limit);
        let read = std::pin::pin!(self.read_buf(&mut limited));
        std::future::Future::poll(read, cx).map(|result| match result {
            // TLS that ends without a word of it ends as plain TCP does. A killed helper does that; and ssh has its own
            // proof that nothing was cut off.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            result => result,
        })
    }

    /// Writes from `chunks` what the socket takes at once.
    pub fn poll_write_chunks<'a>(
        &mut self,
        cx: &mut Context<'_>,
        chunks: impl Iterator<Item = &'a Bytes>,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(chunks) {
            *slice = IoSlice::new(chunk);
            count += 1;
        }
        if count == 0 {
            return Poll::Ready(Ok(0));
        }
        Pin::new(self).poll_write_vectored(cx, &slices[..count])
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Socket::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Socket::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Socket::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Socket::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Socket::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Socket::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Socket::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Socket::Unix(unix) => Pin::new(unix).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Socket::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}
