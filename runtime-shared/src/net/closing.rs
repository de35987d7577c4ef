//! Closing a socket so that the other side sees all of what was said.
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::runtime::{Runtime, within};

/// How long the other side has to take the last words and close.
const PATIENCE: Duration = Duration::from_secs(2);
/// What it may still send meanwhile.
const DRAINED_BYTES_MAX: usize = 256 * 1024;

/// Writes `last_words`, closes the sending side and waits a moment for the other side to close its own.
pub async fn say<R: Runtime>(socket: R::Socket, last_words: Bytes) {
    let _ = within::<R, _>(PATIENCE, say_and_drain(socket, last_words)).await;
}

/// Unread bytes would turn the close into a reset, which takes our words back on their way.
async fn say_and_drain(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    last_words: Bytes,
) -> std::io::Result<()> {
    socket.write_all(&last_words).await?;
    socket.shutdown().await?;
    let mut sink = [0; 4096];
    let mut drained = 0;
    while drained < DRAINED_BYTES_MAX {
        match socket.read(&mut sink).await? {
            0 => break,
            read => drained += read,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn a_client_that_sent_more_than_was_read_still_hears_the_reply() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut client, server) = (
            client.expect("a connection"),
            server.expect("a connection").0,
        );
        client.write_all(&[b'x'; 100_000]).await.expect("written");
        let closing = tokio::spawn(say_and_drain(server, Bytes::from_static(b"no")));
        let mut reply = Vec::new();
        client
            .read_to_end(&mut reply)
            .await
            .expect("an end, not a reset");
        assert_eq!(reply, b"no");
        drop(client);
        closing.await.expect("no panic").expect("closed");
    }
}
