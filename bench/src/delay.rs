//! A line with latency: a TCP forwarder that hands on every byte a fixed time after it came.
//!
//! For machines where netem is missing. It delays bytes, not packets: its sockets acknowledge at once, so what is seen is
//! a line with delay and room, not the congestion control of a real one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks on the line at most: room for far more than 25 ms of 400 MB/s, even if each is small.
const CHUNKS_MAX: usize = 4096;

/// When a chunk is due, and its bytes.
type Due = (Instant, Vec<u8>);

/// Starts a forwarder to `to` that adds `each_way`; its address.
pub(crate) fn serve(to: String, each_way: Duration) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(&to) else {
                continue;
            };
            let _ = near.set_nodelay(true);
            let _ = far.set_nodelay(true);
            for (from, to) in [(&near, &far), (&far, &near)] {
                if let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) {
                    forward(from, to, each_way);
                }
            }
        }
    });
    Ok(address)
}

fn forward(from: TcpStream, to: TcpStream, delay: Duration) {
    let (line, due) = sync_channel::<Due>(CHUNKS_MAX);
    let (empty, free) = channel::<Vec<u8>>();
    thread::spawn(move || read(from, &line, &free, delay));
    thread::spawn(move || write(to, &due, &empty));
}

fn read(mut from: TcpStream, line: &SyncSender<Due>, free: &Receiver<Vec<u8>>, delay: Duration) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(len) = from.read(&mut buffer) {
        if len == 0 {
            break;
        }
        let mut bytes = free.try_recv().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(&buffer[..len]);
        if line.send((Instant::now() + delay, bytes)).is_err() {
            break;
        }
    }
}

fn write(mut to: TcpStream, due: &Receiver<Due>, empty: &Sender<Vec<u8>>) {
    while let Ok((at, bytes)) = due.recv() {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
        let _ = empty.send(bytes);
    }
    let _ = to.shutdown(Shutdown::Write);
}
