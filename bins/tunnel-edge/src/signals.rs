//! The signals that end a process or put another in its place, as datagrams: so any runtime can wait for them.
use std::future::poll_fn;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::task::{Context, Poll};

use runtime_shared::{Datagrams, Runtime as _};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::low_level::pipe;

use crate::runtime::Runtime;

type Arrivals = <Runtime as runtime_shared::Runtime>::Datagrams;

/// A process is to be started that takes this one's place.
pub(crate) const SUCCESSOR_WANTED: u8 = SIGUSR1 as u8;
/// It has.
pub(crate) const REPLACED: u8 = SIGUSR2 as u8;

/// Those, SIGTERM and SIGINT, from now on.
pub(crate) struct Signals {
    caught: [(u8, Arrivals); 4],
}

impl Signals {
    /// None ends the process by itself any more.
    pub(crate) fn catch() -> io::Result<Signals> {
        Ok(Signals {
            caught: [
                (15, catch(SIGTERM)?),
                (2, catch(SIGINT)?),
                (SUCCESSOR_WANTED, catch(SIGUSR1)?),
                (REPLACED, catch(SIGUSR2)?),
            ],
        })
    }

    /// The number of the next one.
    pub(crate) async fn next(&mut self) -> u8 {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<u8> {
        for (number, arrivals) in &mut self.caught {
            // An empty one is no signal: that is how signal-hook tries out what it was given.
            while let Poll::Ready(Ok(bytes)) = arrivals.poll_next(cx, &mut [0; 8]) {
                if bytes > 0 {
                    return Poll::Ready(*number);
                }
            }
        }
        Poll::Pending
    }
}

fn catch(signal: i32) -> io::Result<Arrivals> {
    let (here, there) = UnixDatagram::pair()?;
    here.set_nonblocking(true)?;
    pipe::register(signal, there)?;
    Runtime::datagrams(here)
}
