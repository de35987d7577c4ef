//! HTTP/2's own pings: what a base edge's link is judged by, as such an edge sends nothing of its own for a minute.
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use h2::{Ping, PingPong};

use crate::runtime::Timer;

/// When to ping, and how long to wait for the answer.
#[derive(Clone, Copy, Debug)]
pub struct PingPace {
    /// From one ping to the next.
    pub interval: Duration,
    /// For an answer.
    pub patience: Duration,
}

/// Pings a connection for as long as it is polled.
pub(super) struct Pinger<T> {
    pings: PingPong,
    pace: PingPace,
    is_waiting: bool,
    /// Made in the first poll, by the runtime that will poll it.
    timer: Option<T>,
}

impl<T: Timer> Pinger<T> {
    pub(super) fn new(pings: PingPong, pace: PingPace) -> Pinger<T> {
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
                .get_or_insert_with(|| T::new(Instant::now() + pace.interval));
            ready!(timer.poll(cx));
            if self.is_waiting {
                return Poll::Ready(());
            }
            self.is_waiting = self.pings.send_ping(Ping::opaque()).is_ok();
            timer.reset(Instant::now() + pace.patience);
        }
    }
}
