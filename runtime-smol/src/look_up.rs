//! Names, asked for on threads of their own: the system's resolver blocks.
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;

use tokio::sync::{Semaphore, oneshot};

/// Look-ups at once. Each is a thread, for as long as a name server may take.
const AT_ONCE: usize = 4;
/// What the system's resolver needs, and some more.
const STACK_BYTES: usize = 256 * 1024;

static SLOTS: Semaphore = Semaphore::const_new(AT_ONCE);

/// The addresses of `host:port`.
pub(crate) async fn look_up(name: String) -> io::Result<Vec<SocketAddr>> {
    let slot = SLOTS.acquire().await.map_err(io::Error::other)?;
    let (tell, told) = oneshot::channel();
    thread::Builder::new()
        .name("look-up".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            // Held for as long as the look-up goes on, also when nobody waits for it any more.
            let _slot = slot;
            let _ = tell.send(name.to_socket_addrs().map(Iterator::collect));
        })?;
    told.await.map_err(io::Error::other)?
}
