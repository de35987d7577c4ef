//! SSH sessions that must outlive what happens to their line: one that bytes run through all the time, one that waits.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::openssh::{Ssh, success};
use crate::wait::{millis, secs, wait_until};

/// A session that bytes run through, there and back. Each byte is checked for its place as it comes back.
#[derive(Debug)]
pub struct Busy {
    child: Child,
    stop: Arc<AtomicBool>,
    arrivals: Arc<(Mutex<Arrivals>, Condvar)>,
    sending: JoinHandle<u64>,
    receiving: JoinHandle<u64>,
}

#[derive(Debug)]
struct Arrivals {
    last: Instant,
    longest_gap: Duration,
}

/// A session in which nothing happens until it is asked.
#[derive(Debug)]
pub struct Idle {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

/// How long an answer is waited for.
const PATIENCE: Duration = secs(40);
/// Bytes sent at once, and how often: enough to be under way whenever the line goes, little enough to leave the
/// processors to what is measured.
const BLOCK: usize = 4096;
const PACE: Duration = millis(5);
/// The same for many sessions at once.
const QUIET_BLOCK: usize = 256;
const QUIET_PACE: Duration = millis(40);

/// Prints times in a line that `./test` shows.
pub fn measured(what: &str, times: &[(&str, Duration)]) {
    let times: Vec<String> = times
        .iter()
        .map(|(name, time)| format!("{name} {:.2} s", time.as_secs_f64()))
        .collect();
    println!("measured: {what}: {}", times.join(", "));
}

fn byte_at(position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn spawn(mut command: Command) -> (Child, ChildStdin, ChildStdout) {
    let piped = command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    (child, input, output)
}

impl Busy {
    /// Logs in as [`Ssh::login`] does, in the network of the calling thread.
    pub fn start(ssh: &Ssh, alias: &str) -> Self {
        Self::start_at(ssh, alias, BLOCK, PACE)
    }

    /// The same through a program that takes a stream by itself and gives back what it is given.
    pub fn through(command: Command) -> Self {
        Self::run(command, BLOCK, PACE)
    }

    /// One of many: with fewer bytes, so that all of them together leave the processors to what is measured.
    pub fn start_quiet(ssh: &Ssh, alias: &str) -> Self {
        Self::start_at(ssh, alias, QUIET_BLOCK, QUIET_PACE)
    }

    fn start_at(ssh: &Ssh, alias: &str, block: usize, pace: Duration) -> Self {
        Self::run(ssh.login(alias, "cat"), block, pace)
    }

    fn run(command: Command, block: usize, pace: Duration) -> Self {
        let (child, mut input, mut output) = spawn(command);
        let stop = Arc::new(AtomicBool::new(false));
        let arrivals = Arc::new((
            Mutex::new(Arrivals {
                last: Instant::now(),
                longest_gap: Duration::ZERO,
            }),
            Condvar::new(),
        ));
        let until = stop.clone();
        let sending = thread::spawn(move || {
            let mut sent = 0;
            while !until.load(Ordering::SeqCst) {
                let block: Vec<u8> = (sent..sent + block as u64).map(byte_at).collect();
                input.write_all(&block).expect("the session takes bytes");
                sent += block.len() as u64;
                thread::sleep(pace);
            }
            sent
        });
        let shared = arrivals.clone();
        let receiving = thread::spawn(move || {
            let (mut received, mut buffer) = (0, [0; 65536]);
            while let len @ 1.. = output.read(&mut buffer).expect("the session's output") {
                for byte in &buffer[..len] {
                    assert_eq!(*byte, byte_at(received), "the byte at {received}");
                    received += 1;
                }
                let (arrivals, told) = &*shared;
                let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
                let gap = arrivals.last.elapsed();
                arrivals.longest_gap = arrivals.longest_gap.max(gap);
                arrivals.last = Instant::now();
                told.notify_all();
            }
            received
        });
        let busy = Self {
            child,
            stop,
            arrivals,
            sending,
            receiving,
        };
        busy.begun()
    }

    /// Waits for its first bytes; if it ends instead, what its user was told is told.
    #[track_caller]
    fn begun(mut self) -> Self {
        let (arrivals, told) = &*self.arrivals;
        let begun = Instant::now();
        let mut first = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        while first.last <= begun {
            let wait = told.wait_timeout(first, millis(200));
            first = wait.unwrap_or_else(PoisonError::into_inner).0;
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
                let mut told = String::new();
                let errors = self.child.stderr.take();
                let _ = errors.unwrap().read_to_string(&mut told);
                panic!(
                    "no byte came in {:?}, ended {ended:?}: {told}",
                    begun.elapsed()
                );
            }
        }
        drop(first);
        self
    }

    /// Waits for bytes that come later than `then`; how much later they came.
    #[track_caller]
    pub fn moves_after(&self, then: Instant, limit: Duration) -> Duration {
        let (arrivals, told) = &*self.arrivals;
        let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = told.wait_timeout_while(arrivals, limit, |arrivals| arrivals.last <= then);
        let (arrivals, waited) = wait.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "nothing came for {limit:?}");
        arrivals.last.duration_since(then)
    }

    /// The longest time without a byte since this was last asked.
    pub fn stall(&self) -> Duration {
        let mut arrivals = self
            .arrivals
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut arrivals.longest_gap)
    }

    /// Sends a signal to all of its processes.
    pub fn signal(&self, signal: Signal) {
        killpg(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Ends it in good order: what was sent has all come back. The bytes.
    #[track_caller]
    pub fn finish(self) -> u64 {
        self.finish_told().0
    }

    /// The same, and what its user was told.
    #[track_caller]
    pub fn finish_told(self) -> (u64, String) {
        self.stop.store(true, Ordering::SeqCst);
        let sent = self.sending.join().expect("the sender");
        let received = self.receiving.join().expect("the receiver");
        let output = self.child.wait_with_output().unwrap();
        success("ssh", &output);
        assert_eq!(sent, received, "bytes sent and received");
        (sent, String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Idle {
    /// Logs in as [`Ssh::login`] does, in the network of the calling thread.
    pub fn start(ssh: &Ssh, alias: &str) -> Self {
        let line = "echo ready; while read word; do echo heard $word; done";
        let command = ssh.login(alias, line);
        let (child, input, output) = spawn(command);
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let idle = Self {
            child,
            input,
            lines,
        };
        idle.expect("ready");
        idle
    }

    /// Says something; how long the answer took.
    #[track_caller]
    pub fn ask(&mut self, word: &str) -> Duration {
        let start = Instant::now();
        self.input
            .write_all(format!("{word}\n").as_bytes())
            .expect("the session takes a word");
        self.expect(&format!("heard {word}"));
        start.elapsed()
    }

    #[track_caller]
    fn expect(&self, line: &str) {
        let got = self.lines.recv_timeout(PATIENCE);
        assert_eq!(got.as_deref(), Ok(line), "the session's answer");
    }

    /// Sends a signal to all of its processes.
    pub fn signal(&self, signal: Signal) {
        killpg(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Ends it in good order. What its user was told.
    #[track_caller]
    pub fn finish(self) -> String {
        drop(self.input);
        let output = self.child.wait_with_output().unwrap();
        success("ssh", &output);
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Waits for an end that its user didn't ask for: its status, and what the user was told.
    #[track_caller]
    pub fn ends(mut self, limit: Duration) -> (ExitStatus, String) {
        wait_until("the session ends", limit, || {
            self.child.try_wait().unwrap().is_some()
        });
        let output = self.child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status, told)
    }
}
