//! The load generator: plain threads, blocking sockets, large buffers.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Result;
use crate::column::{Column, Door};
use crate::target::{self, Slot, Work};

/// A copy runs this long before it is measured, so that windows have grown, and what another column left under way has gone.
const WARM_UP: Duration = Duration::from_millis(400);

/// How long a column is measured before it is the next one's turn. What else the machine and its neighbours do comes and goes within
/// a second or two.
const TURN: Duration = Duration::from_millis(400);

/// Has every one of them measured for `window` in all, in short turns, there and back.
pub(crate) fn in_turns<T>(
    all: &mut [T],
    window: Duration,
    mut turn: impl FnMut(&mut T, Duration) -> Result<()>,
) -> Result<()> {
    let turns = (window.as_millis() / TURN.as_millis()).max(1) as u32;
    for round in 0..turns {
        let mut order: Vec<&mut T> = all.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for one in order {
            turn(one, window / turns)?;
        }
    }
    Ok(())
}

/// The direction of a bulk copy, seen from the load generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Target to load generator.
    Down,
    /// Load generator to target.
    Up,
}

/// Copies that run, or rest, until they are dropped.
#[derive(Debug)]
pub(crate) struct Copies {
    streams: Vec<(TcpStream, &'static Slot)>,
    threads: Vec<JoinHandle<()>>,
}

impl Copies {
    /// Makes the streams of `count` copies, which rest.
    pub(crate) fn start(door: &Door, direction: Direction, count: usize) -> io::Result<Self> {
        let mut copies = Self {
            streams: Vec::new(),
            threads: Vec::new(),
        };
        for _ in 0..count {
            let number = target::next_slot();
            let slot = target::slot(number);
            slot.go_on(false);
            let work = match direction {
                Direction::Down => Work::Down(number),
                Direction::Up => Work::Up(number),
            };
            let mut socket = door.open(&work.header())?;
            copies.streams.push((socket.try_clone()?, slot));
            // A copy ends when its socket is shut down.
            copies.threads.push(thread::spawn(move || {
                let _ = match direction {
                    Direction::Down => slot.read(&mut socket),
                    Direction::Up => slot.write(&mut socket),
                };
            }));
        }
        Ok(copies)
    }

    /// Lets them run, and warm up.
    pub(crate) fn run(&self) {
        self.go_on(true);
        thread::sleep(WARM_UP);
    }

    /// Has them stand still, as soon as what was written is through.
    pub(crate) fn rest(&self) {
        self.go_on(false);
    }

    fn go_on(&self, goes_on: bool) {
        self.streams
            .iter()
            .for_each(|(_, slot)| slot.go_on(goes_on));
    }

    /// Bytes that have arrived by each stream's slot so far.
    fn arrived(&self) -> Vec<u64> {
        self.streams.iter().map(|(_, slot)| slot.bytes()).collect()
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        for (socket, _) in &self.streams {
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Whoever rests finds out only when it goes on.
        self.go_on(true);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        // What is still on its way belongs to nobody's measurement.
        thread::sleep(Duration::from_millis(150));
    }
}

/// A bulk copy through one column that is measured in turns.
#[derive(Debug)]
pub(crate) struct Bulk<'a> {
    /// What it goes through.
    pub(crate) column: &'a Column,
    copies: Copies,
    /// Bytes by stream.
    each: Vec<u64>,
    seconds: f64,
    /// CPU seconds of the half that is entered.
    cloud: f64,
    /// CPU seconds of the half beside the target.
    edge: f64,
}

impl<'a> Bulk<'a> {
    /// Starts `count` copies at once, which rest between the turns.
    pub(crate) fn start(column: &'a Column, direction: Direction, count: usize) -> Result<Self> {
        Ok(Self {
            column,
            copies: Copies::start(&column.door, direction, count)?,
            each: vec![0; count],
            seconds: 0.0,
            cloud: 0.0,
            edge: 0.0,
        })
    }

    /// Copies, and measures for `window`.
    pub(crate) fn turn(&mut self, window: Duration) -> Result<()> {
        self.copies.run();
        let cpu = || {
            let Column { cloud, edge, .. } = self.column;
            (cloud.cpu_nanos() / 1e9, edge.cpu_nanos() / 1e9)
        };
        let (before, (cloud, edge)) = (self.copies.arrived(), cpu());
        let start = Instant::now();
        thread::sleep(window);
        let (after, (cloud_after, edge_after)) = (self.copies.arrived(), cpu());
        self.seconds += start.elapsed().as_secs_f64();
        self.copies.rest();
        if before == after {
            return Err(format!("{}: copies stand still", self.column.name).into());
        }
        self.cloud += cloud_after - cloud;
        self.edge += edge_after - edge;
        for (sum, (after, before)) in self.each.iter_mut().zip(after.iter().zip(&before)) {
            *sum += after - before;
        }
        Ok(())
    }

    fn bytes(&self) -> f64 {
        self.each.iter().sum::<u64>() as f64
    }

    fn per_gib(&self, seconds: f64) -> f64 {
        seconds / self.bytes() * f64::from(1u32 << 30)
    }

    /// Megabytes (10⁶) a second, all streams together.
    pub(crate) fn megabytes(&self) -> f64 {
        self.bytes() / 1e6 / self.seconds
    }

    /// CPU seconds per GiB of the half that is entered.
    pub(crate) fn cloud_cpu(&self) -> f64 {
        self.per_gib(self.cloud)
    }

    /// CPU seconds per GiB of the half beside the target.
    pub(crate) fn edge_cpu(&self) -> f64 {
        self.per_gib(self.edge)
    }

    /// Bytes of the slowest stream by those of the fastest.
    pub(crate) fn fairness(&self) -> f64 {
        let least = self.each.iter().min().copied().unwrap_or_default();
        let most = self.each.iter().max().copied().unwrap_or_default();
        least as f64 / most as f64
    }
}

/// A copy that nothing is compared with turn by turn.
pub(crate) fn bulk(
    column: &Column,
    direction: Direction,
    count: usize,
    window: Duration,
) -> Result<Bulk<'_>> {
    let mut bulk = Bulk::start(column, direction, count)?;
    bulk.turn(window)?;
    Ok(bulk)
}

/// One-byte round trips on one stream.
#[derive(Debug)]
pub(crate) struct RoundTrips {
    socket: TcpStream,
    /// Microseconds.
    times: Vec<f64>,
}

impl RoundTrips {
    /// Opens the stream.
    pub(crate) fn open(door: &Door) -> Result<Self> {
        Ok(Self {
            socket: door.open(&Work::Echo.header())?,
            times: Vec::new(),
        })
    }

    /// Goes there and back at most `tries` times, and no longer than `limit` once there is a fair number of them.
    pub(crate) fn turn(&mut self, tries: usize, limit: Duration) -> Result<()> {
        /// The first few are for caches and windows.
        const FIRST: usize = 20;
        let mut byte = [0];
        let start = Instant::now();
        for round in 0..tries + FIRST {
            let sent = Instant::now();
            self.socket.write_all(b"x")?;
            self.socket.read_exact(&mut byte)?;
            if round >= FIRST {
                self.times.push(micros(sent));
                if start.elapsed() > limit && self.times.len() >= FIRST {
                    break;
                }
            }
        }
        Ok(())
    }

    /// All times in microseconds, sorted.
    pub(crate) fn times(mut self) -> Vec<f64> {
        self.times.sort_by(f64::total_cmp);
        self.times
    }
}

/// One new stream and its first echo.
pub(crate) fn dial(door: &Door, early: bool) -> io::Result<TcpStream> {
    let mut first = Work::Echo.header().to_vec();
    first.push(b'x');
    let mut socket = if early {
        door.open_early(&first)?
    } else {
        door.open(&first)?
    };
    let mut byte = [0];
    socket.read_exact(&mut byte)?;
    Ok(socket)
}

/// Dials one after another; each one's time to its first echo in microseconds, sorted.
pub(crate) fn dials(door: &Door, early: bool, tries: usize, limit: Duration) -> Result<Vec<f64>> {
    let start = Instant::now();
    let mut times = Vec::with_capacity(tries);
    while times.len() < tries && (start.elapsed() < limit || times.len() < 5) {
        let dialed = Instant::now();
        let socket = dial(door, early)?;
        times.push(micros(dialed));
        drop(socket);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Connections a second (dial, first echo, close), `at_once` at a time.
pub(crate) fn connections(door: &Door, at_once: usize, window: Duration) -> Result<f64> {
    let done = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let threads: Vec<JoinHandle<io::Result<()>>> = (0..at_once)
        .map(|_| {
            let (door, done) = (door.clone(), Arc::clone(&done));
            thread::spawn(move || {
                while start.elapsed() < window {
                    dial(&door, false)?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a dialing thread panicked")??;
    }
    Ok(done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64())
}

/// The value at a fraction of a sorted list.
pub(crate) fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * fraction).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}
