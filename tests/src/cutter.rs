//! A line between an edge and its cloud that a test cuts: a TCP proxy whose connections can be ended without a word,
//! and which may end them by itself, as balancers and NATs do.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::wait::millis;

/// The proxy. Its connections end with it.
#[derive(Debug)]
pub struct Cutter {
    address: String,
    lines: Arc<Mutex<Vec<Arc<Line>>>>,
    cuts: Arc<Cuts>,
    targets: Arc<Mutex<Vec<String>>>,
    down: Arc<AtomicBool>,
}

/// What the proxy cuts by itself.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections on which nothing has moved for so long.
    pub idle: Duration,
    /// Connections that are this old, whatever they carry.
    pub age: Duration,
}

#[derive(Debug, Default)]
struct Cuts {
    idle: AtomicUsize,
    age: AtomicUsize,
}

/// A connection through the proxy.
#[derive(Debug)]
struct Line {
    near: TcpStream,
    far: TcpStream,
    since: Instant,
    moved: Mutex<Instant>,
}

/// How often a line with limits is looked at.
const LOOK: Duration = millis(20);

impl Cutter {
    /// Listens on loopback and passes what comes to `target`.
    pub fn to(target: &str) -> Self {
        Self::at("127.0.0.1", target, None)
    }

    /// A balancer: passes what comes to the first of `targets` that takes it.
    pub fn before(targets: &[String]) -> Self {
        let balancer = Self::to("");
        balancer.lead(targets);
        balancer
    }

    /// Listens at an address, in the calling thread's network, and cuts by itself what passes `limits`.
    pub fn at(ip: &str, target: &str, limits: Option<Limits>) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (lines, cuts) = (
            Arc::<Mutex<Vec<Arc<Line>>>>::default(),
            Arc::<Cuts>::default(),
        );
        let targets = Arc::new(Mutex::new(vec![target.to_owned()]));
        let down = Arc::<AtomicBool>::default();
        let (to, is_down) = (targets.clone(), down.clone());
        let (kept, counted) = (lines.clone(), cuts.clone());
        thread::spawn(move || {
            for near in listener.incoming() {
                if is_down.load(Ordering::SeqCst) {
                    continue;
                }
                let targets = to.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let far = targets.iter().find_map(|to| TcpStream::connect(to).ok());
                let (Ok(near), Some(far)) = (near, far) else {
                    continue;
                };
                for end in [&near, &far] {
                    let _ = end.set_nodelay(true);
                }
                let (since, moved) = (Instant::now(), Mutex::new(Instant::now()));
                let line = Arc::new(Line {
                    near,
                    far,
                    since,
                    moved,
                });
                for towards_far in [true, false] {
                    let (line, counted) = (line.clone(), counted.clone());
                    thread::spawn(move || line.pass(towards_far, limits, &counted));
                }
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line.clone());
                if is_down.load(Ordering::SeqCst) {
                    line.end();
                }
            }
        });
        Self {
            address,
            lines,
            cuts,
            targets,
            down,
        }
    }

    /// From now on new connections go to the first of `targets` that takes them.
    pub fn lead(&self, targets: &[String]) {
        let mut to = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        *to = targets.to_vec();
    }

    /// Cuts, and takes no new connection until [`Cutter::mend`].
    pub fn hold(&self) {
        self.down.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Takes new connections again.
    pub fn mend(&self) {
        self.down.store(false, Ordering::SeqCst);
    }

    /// Where the edge connects to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Ends all connections, in the middle of whatever goes by them. New ones are taken.
    pub fn cut(&self) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines.drain(..) {
            line.end();
        }
    }

    /// Connections that it ended because nothing moved.
    pub fn idle_cuts(&self) -> usize {
        self.cuts.idle.load(Ordering::SeqCst)
    }

    /// Connections that it ended because of their age.
    pub fn age_cuts(&self) -> usize {
        self.cuts.age.load(Ordering::SeqCst)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Line {
    fn pass(&self, towards_far: bool, limits: Option<Limits>, cuts: &Cuts) {
        let (mut from, mut to) = match towards_far {
            true => (&self.near, &self.far),
            false => (&self.far, &self.near),
        };
        from.set_read_timeout(limits.map(|_| LOOK)).unwrap();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    if to.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                    *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                }
                Err(error) if is_timeout(error.kind()) => {}
                Err(_) => break,
            }
            // One of the two directions looks after both.
            if towards_far && let Some(cut) = limits.and_then(|limits| self.passes(limits, cuts)) {
                cut.fetch_add(1, Ordering::SeqCst);
                break;
            }
        }
        self.end();
    }

    fn passes<'a>(&self, limits: Limits, cuts: &'a Cuts) -> Option<&'a AtomicUsize> {
        let moved = *self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if self.since.elapsed() >= limits.age {
            return Some(&cuts.age);
        }
        (moved.elapsed() >= limits.idle).then_some(&cuts.idle)
    }

    fn end(&self) {
        let _ = self.near.shutdown(Shutdown::Both);
        let _ = self.far.shutdown(Shutdown::Both);
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
