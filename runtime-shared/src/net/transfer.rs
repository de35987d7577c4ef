//! Reading and writing a stream's local end.
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Slices handed to one vectored write.
const SLICES_MAX: usize = 16;

/// Reads what is there, as far as `buffer` has room; 0 is the end.
pub(crate) fn poll_read_into(
    socket: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut room = ReadBuf::new(buffer);
    let read = Pin::new(socket).poll_read(cx, &mut room);
    read.map(|result| match result {
        // TLS that ends without a word of it ends as plain TCP does. A killed helper does that; and ssh has its own
        // proof that nothing was cut off.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        result => result.map(|()| room.filled().len()),
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
