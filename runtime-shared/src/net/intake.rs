//! A link's connection below its TLS: read in large pieces, and only so much at a stretch.
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::piece::Piece;

/// What is read before others get their turn. HTTP/2 reads on until there is nothing more: in a bulk copy that is when the other
/// side's window is used up.
const STRETCH_BYTES: usize = 64 * 1024;

/// A connection that is read ahead of TLS, which asks for 4 KiB: four reads and more for one record.
#[derive(Debug)]
pub struct Intake<T> {
    connection: T,
    /// What was read and not taken yet is from `start` to `end` of it; none, and both are 0, while there is nothing.
    piece: Option<Piece>,
    start: usize,
    end: usize,
    /// Read since there was last nothing to read, or others had their turn.
    stretch: usize,
}

impl<T: AsyncRead + Unpin> Intake<T> {
    /// Around a connection.
    pub fn new(connection: T) -> Intake<T> {
        Intake {
            connection,
            piece: None,
            start: 0,
            end: 0,
            stretch: 0,
        }
    }

    /// The connection.
    pub fn connection(&self) -> &T {
        &self.connection
    }

    /// Reads on. At the end the piece stays empty.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stretch >= STRETCH_BYTES {
            self.stretch = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut piece = Piece::take();
        let mut room = ReadBuf::new(&mut piece);
        let read = Pin::new(&mut self.connection).poll_read(cx, &mut room);
        let read = read.map_ok(|()| room.filled().len());
        if let Poll::Ready(Ok(bytes @ 1..)) = read {
            self.piece = Some(piece);
            (self.start, self.end) = (0, bytes);
            self.stretch += bytes;
        }
        if read.is_pending() {
            self.stretch = 0;
        }
        read.map_ok(|_| ())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Intake<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.start == this.end {
            ready!(this.poll_piece(cx))?;
        }
        let bytes = buf.remaining().min(this.end - this.start);
        if let Some(piece) = &this.piece {
            buf.put_slice(&piece[this.start..this.start + bytes]);
        }
        this.start += bytes;
        if this.start == this.end {
            (this.start, this.end) = (0, 0);
            this.piece = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Intake<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().connection).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().connection).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, Intake<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (there, here) = tokio::join!(TcpStream::connect(address), listener.accept());
        let here = here.expect("a connection").0;
        (there.expect("a connection"), Intake::new(here))
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn all_of_it_arrives_in_order_and_then_its_end() {
        let (mut there, mut here) = pair().await;
        let sent: Vec<u8> = (0..1_000_003u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let sender = tokio::spawn(async move { there.write_all(&sent).await });
        let mut received = Vec::new();
        here.read_to_end(&mut received).await.expect("read");
        assert!(received == expected);
        sender.await.expect("no panic").expect("written");
        assert!(here.piece.is_none(), "no buffer at rest");
    }

    #[tokio::test]
    async fn others_get_their_turn_before_all_is_read() {
        let (mut there, mut here) = pair().await;
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let sender = tokio::spawn(async move {
            there.write_all(&[7; STRETCH_BYTES * 2]).await?;
            io::Result::Ok(there)
        });
        let mut room = [0; 4096];
        let (mut read, mut pauses) = (0, 0);
        while read < STRETCH_BYTES * 2 {
            here.connection().readable().await.expect("up");
            let woken = count.0.load(Ordering::SeqCst);
            let mut room = ReadBuf::new(&mut room);
            match Pin::new(&mut here).poll_read(&mut cx, &mut room) {
                Poll::Ready(result) => {
                    result.expect("read");
                    read += room.filled().len();
                }
                // Woken at once: it was not for want of bytes.
                Poll::Pending if count.0.load(Ordering::SeqCst) > woken => pauses += 1,
                Poll::Pending => {}
            }
        }
        assert!(pauses >= 1);
        sender.await.expect("no panic").expect("written");
    }
}
