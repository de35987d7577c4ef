//! Accepting connections, for as long as the process lives: no error ends the loop, and none makes it spin.
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// How long to wait when the process is out of descriptors or memory: nothing tells when there are some again.
const PAUSE: Duration = Duration::from_millis(50);

/// A listener that outlives EMFILE.
///
/// Out of descriptors, it gives up a reserved one to accept and drop the connection at the head of the queue, so that its client hears
/// a closed connection instead of silence, and pauses.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    reserve: Option<File>,
}

impl Acceptor {
    /// Around a listener.
    pub fn new(listener: TcpListener) -> Acceptor {
        Acceptor {
            listener,
            reserve: reserve(),
        }
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection. `failed` is told of each error.
    pub async fn accept(&mut self, failed: impl Fn(&io::Error)) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    failed(&error);
                    if is_of_one_connection(&error) {
                        continue;
                    }
                    self.shed().await;
                }
            }
        }
    }

    async fn shed(&mut self) {
        if self.reserve.take().is_some() {
            // Accepted and dropped at once; if another thread was quicker to take the descriptor, the pause is all there is.
            let _ = tokio::time::timeout(PAUSE, self.listener.accept()).await;
        }
        tokio::time::sleep(PAUSE).await;
        self.reserve = reserve();
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Errors of the connection at the head of the queue, which is gone with them.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn shedding_drops_the_first_in_the_queue_and_serves_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut acceptor = Acceptor::new(listener);
        let address = acceptor.local_addr().expect("an address");
        let mut shed = TcpStream::connect(address).await.expect("a connection");
        acceptor.shed().await;
        assert_eq!(
            shed.read(&mut [0]).await.expect("an end"),
            0,
            "it hears that it is not served"
        );
        assert!(
            acceptor.reserve.is_some(),
            "a descriptor is set aside again"
        );
        let next = TcpStream::connect(address).await.expect("a connection");
        let failures = AtomicUsize::new(0);
        let (_, peer) = acceptor
            .accept(|_| {
                failures.fetch_add(1, Ordering::Relaxed);
            })
            .await;
        assert_eq!(
            (peer, failures.into_inner()),
            (next.local_addr().expect("an address"), 0)
        );
    }
}
