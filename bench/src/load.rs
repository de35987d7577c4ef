//! The load generator: plain threads, blocking sockets, large buffers.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Result;
use crate::column::{Column, Door};
use crate::target::{CHUNK_BYTES, Work, uploaded};

/// A copy runs this long before it is measured, so that windows have grown.
const WARM_UP: Duration = Duration::from_millis(400);

/// The direction of a bulk copy, seen from the load generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Target to load generator.
    Down,
    /// Load generator to target.
    Up,
}

/// What a bulk copy measured.
#[derive(Debug)]
pub(crate) struct Bulk {
    /// Megabytes (10⁶) a second, all streams together.
    pub(crate) megabytes: f64,
    /// CPU seconds per GiB of the half that is entered.
    pub(crate) cloud_cpu: f64,
    /// CPU seconds per GiB of the half beside the target.
    pub(crate) edge_cpu: f64,
    /// Bytes of the slowest stream by those of the fastest.
    pub(crate) fairness: f64,
}

/// Copies that run until they are dropped.
#[derive(Debug)]
pub(crate) struct Copies {
    direction: Direction,
    streams: Vec<(TcpStream, Arc<AtomicU64>)>,
    threads: Vec<JoinHandle<()>>,
}

impl Copies {
    /// Starts `count` copies.
    pub(crate) fn start(door: &Door, direction: Direction, count: usize) -> io::Result<Self> {
        let mut copies = Self {
            direction,
            streams: Vec::new(),
            threads: Vec::new(),
        };
        for slot in 0..count {
            let work = match direction {
                Direction::Down => Work::Down,
                Direction::Up => Work::Up(slot),
            };
            let socket = door.open(&work.header())?;
            let bytes = Arc::new(AtomicU64::new(0));
            copies
                .streams
                .push((socket.try_clone()?, Arc::clone(&bytes)));
            // A copy ends when its socket is shut down.
            copies.threads.push(thread::spawn(move || {
                let _ = match direction {
                    Direction::Down => read_all(socket, &bytes),
                    Direction::Up => write_all(socket),
                };
            }));
        }
        Ok(copies)
    }

    /// Bytes that have arrived by each stream so far.
    fn arrived(&self) -> Vec<u64> {
        match self.direction {
            Direction::Down => {
                let each = self.streams.iter();
                each.map(|(_, bytes)| bytes.load(Ordering::Relaxed))
                    .collect()
            }
            Direction::Up => (0..self.streams.len()).map(uploaded).collect(),
        }
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        for (socket, _) in &self.streams {
            let _ = socket.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        // What is still on its way belongs to nobody's measurement.
        thread::sleep(Duration::from_millis(150));
    }
}

fn read_all(mut socket: TcpStream, bytes: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match socket.read(&mut buffer)? {
            0 => return Ok(()),
            len => bytes.fetch_add(len as u64, Ordering::Relaxed),
        };
    }
}

fn write_all(mut socket: TcpStream) -> io::Result<()> {
    let buffer = vec![7; CHUNK_BYTES];
    loop {
        socket.write_all(&buffer)?;
    }
}

/// Copies through `count` streams at once and measures for `window`.
pub(crate) fn bulk(
    column: &Column,
    direction: Direction,
    count: usize,
    window: Duration,
) -> Result<Bulk> {
    let copies = Copies::start(&column.door, direction, count)?;
    thread::sleep(WARM_UP);
    let before = copies.arrived();
    let (cloud, edge) = (column.cloud.cpu_seconds(), column.edge.cpu_seconds());
    let start = Instant::now();
    thread::sleep(window);
    let after = copies.arrived();
    let seconds = start.elapsed().as_secs_f64();
    let (cloud, edge) = (
        column.cloud.cpu_seconds() - cloud,
        column.edge.cpu_seconds() - edge,
    );
    let each: Vec<f64> = after
        .iter()
        .zip(&before)
        .map(|(after, before)| (after - before) as f64)
        .collect();
    let bytes: f64 = each.iter().sum();
    if bytes == 0.0 {
        return Err(format!("{}: {count} {direction:?} copies stand still", column.name).into());
    }
    let gib = bytes / f64::from(1u32 << 30);
    let slowest = each.iter().copied().fold(f64::INFINITY, f64::min);
    let fastest = each.iter().copied().fold(0.0, f64::max);
    Ok(Bulk {
        megabytes: bytes / 1e6 / seconds,
        cloud_cpu: cloud / gib,
        edge_cpu: edge / gib,
        fairness: slowest / fastest,
    })
}

/// One-byte round trips on one stream, in microseconds, sorted; at most `tries`, and no longer than `limit`.
pub(crate) fn round_trips(door: &Door, tries: usize, limit: Duration) -> Result<Vec<f64>> {
    let mut socket = door.open(&Work::Echo.header())?;
    let mut byte = [0];
    let start = Instant::now();
    let mut times = Vec::with_capacity(tries);
    // The first few are for caches and windows.
    for round in 0..tries + 20 {
        let sent = Instant::now();
        socket.write_all(b"x")?;
        socket.read_exact(&mut byte)?;
        if round >= 20 {
            times.push(micros(sent));
        }
        if start.elapsed() > limit && times.len() >= 20 {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
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
