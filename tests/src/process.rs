//! A program under test: started with a notification socket, waited for, ended by its id.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running program with its notifications and its log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    notify: UnixDatagram,
    log: PathBuf,
    status: Vec<(String, String)>,
    seen: VecDeque<Vec<(String, String)>>,
    ready: bool,
}

impl Process {
    /// Starts `command` with its output in `dir/log/NAME.log`.
    pub fn start(name: &str, dir: &Path, command: &mut Command) -> Self {
        let socket = dir.join(format!("{name}.notify"));
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).expect("the notification socket binds");
        fs::create_dir_all(dir.join("log")).unwrap();
        let log = dir.join("log").join(format!("{name}.log"));
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = command
            .env("NOTIFY_SOCKET", &socket)
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} doesn't start: {error}"));
        Self {
            name: name.to_owned(),
            child,
            notify,
            log,
            status: Vec::new(),
            seen: VecDeque::new(),
            ready: false,
        }
    }

    /// Waits for `READY=1`.
    #[track_caller]
    pub fn ready(&mut self) {
        let limit = Duration::from_secs(10);
        let start = Instant::now();
        while !self.ready {
            self.datagram(limit.saturating_sub(start.elapsed()), "READY=1");
        }
    }

    /// Waits until the newest `STATUS` has `key=value`. Statuses that came in between count, too: a link that went down
    /// and up again is seen as both.
    #[track_caller]
    pub fn wait_status(&mut self, key: &str, value: &str, limit: Duration) {
        let start = Instant::now();
        loop {
            while let Some(status) = self.seen.pop_front() {
                if status.iter().any(|(k, v)| k == key && v == value) {
                    return;
                }
            }
            let left = limit.saturating_sub(start.elapsed());
            self.datagram(left, &format!("STATUS with {key}={value}"));
        }
    }

    /// A value of the newest `STATUS`.
    #[track_caller]
    pub fn status(&self, key: &str) -> String {
        let found = self.status.iter().find(|(k, _)| k == key);
        match found {
            Some((_, value)) => value.clone(),
            None => panic!("{}: no {key}= in STATUS {:?}", self.name, self.status),
        }
    }

    #[track_caller]
    fn datagram(&mut self, limit: Duration, what: &str) {
        let start = Instant::now();
        let mut buffer = [0; 4096];
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!(
                    "{} ended with {status} before {what}\n{}",
                    self.name,
                    self.log()
                );
            }
            let left = limit.saturating_sub(start.elapsed());
            assert!(!left.is_zero(), "{}: no {what}\n{}", self.name, self.log());
            let step = left.min(Duration::from_millis(200));
            self.notify.set_read_timeout(Some(step)).unwrap();
            let Ok(len) = self.notify.recv(&mut buffer) else {
                continue;
            };
            self.note(&String::from_utf8_lossy(&buffer[..len]));
            return;
        }
    }

    fn note(&mut self, text: &str) {
        for line in text.lines() {
            if line == "READY=1" {
                self.ready = true;
            } else if let Some(status) = line.strip_prefix("STATUS=") {
                let pairs = status
                    .split_whitespace()
                    .filter_map(|pair| pair.split_once('='));
                self.status = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
                self.seen.push_back(self.status.clone());
            }
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How many of its log's lines hold all of `words`.
    pub fn log_lines(&self, words: &[&str]) -> usize {
        let log = self.log();
        log.lines()
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .count()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn exit(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                start.elapsed() < limit,
                "{} hasn't ended in {limit:?}\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.name, tail(&self.log(), 120));
        }
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
