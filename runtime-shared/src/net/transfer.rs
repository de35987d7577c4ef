//! Reading and writing a stream's local end.
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Slices handed to one vectored write.
const SLICES_MAX: usize = 16;

/// Reads at most `limit` bytes into `buffer`'s spare room, without a task of its own; 0 is the end.
pub(crate) fn poll_read_into(
    socket: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    limit: usize,
) -> Poll<io::Result<usize>> {
    let mut limited = buffer.limit(limit);
    let read = std::pin::pin!(socket.read_buf(&mut limited));
    std::future::Future::poll(read, cx).map(|result| match result {
        // TLS that ends without a word of it ends as plain TCP does. A killed helper does that; and ssh has its own
        // proof that nothing was cut off.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        result => result,
    })
}

/// Writes from `chunks` what the socket takes at once.
pub(crate) fn poll_write_chunks<'a>(
    socket: &mut (impl AsyncWrite + Unpin),
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
    Pin::new(socket).poll_write_vectored(cx, &slices[..count])
}
