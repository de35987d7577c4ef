//! Closing a socket so that the other side sees all of what was said.
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::socket::Socket;

/// How long the other side has to take the last words and close.
const PATIENCE: Duration = Duration::from_secs(2);
/// What it may still send meanwhile.
const DRAINED_BYTES_MAX: usize = 256 * 1024;

/// Writes `last_words`, closes the sending side and waits a moment for the other side to close its own.
pub(crate) async fn say(socket: Socket, last_words: Bytes) {
    let _ = tokio::time::timeout(PATIENCE, say_and_drain(socket, last_words)).await;
}

/// Unread bytes would turn the close into a reset, which takes our words back on their way.
async fn say_and_drain(mut socket: Socket, last_words: Bytes) -> std::io::Result<()> {
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
