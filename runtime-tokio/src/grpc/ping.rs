//! HTTP/2's own pings: what a base edge's link is judged by, as such an edge sends nothing of its own for a minute.
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

/// When to ping, and how long to wait for the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PingPace {
    pub(crate) interval: Duration,
    pub(crate) patience: Duration,
}

/// Pings a connection for as long as it is polled.
pub(super) struct Pinger {
    pings: PingPong,
    pace: PingPace,
    is_waiting: bool,
    /// Made in the first poll, by the runtime that will poll it.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pinger {
    pub(super) fn new(pings: PingPong, pace: PingPace) -> Pinger {
        Pinger {
            pings,
            pace,
            is_waiting: false,
            timer: None,
        }
    }

    /// Ready when a ping was not answered in time.
    pub(super) fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.is_waiting && self.pings.poll_pong(cx).is_ready() {
                // An error is the connection's end, which is heard elsewhere.
                self.is_waiting = false;
                self.timer = None;
            }
            let pace = self.pace;
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep(pace.interval)));
            ready!(timer.as_mut().poll(cx));
            if self.is_waiting {
                return Poll::Ready(());
            }
            self.is_waiting = self.pings.send_ping(Ping::opaque()).is_ok();
            timer.as_mut().reset(Instant::now() + pace.patience);
        }
    }
}
