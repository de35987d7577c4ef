//! An interactive program at a pseudo terminal: type, and wait for what appears.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::binaries::program;

/// A program under util-linux's `script`, which gives it the terminal.
#[derive(Debug)]
pub struct Session {
    child: Child,
    screen: Arc<(Mutex<Screen>, Condvar)>,
}

#[derive(Debug, Default)]
struct Screen {
    text: String,
    seen: usize,
    ended: bool,
}

impl Session {
    /// Starts a shell command line at a terminal.
    pub fn start(line: &str) -> Self {
        let mut child = Command::new(program("script", "bsdutils"))
            .args(["-q", "-e", "-f", "-c", line, "/dev/null"])
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("script starts");
        let mut out = child.stdout.take().unwrap();
        let screen = Arc::new((Mutex::new(Screen::default()), Condvar::new()));
        let shared = screen.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let len = out.read(&mut buffer).unwrap_or(0);
                let mut screen = shared.0.lock().unwrap();
                screen
                    .text
                    .push_str(&String::from_utf8_lossy(&buffer[..len]));
                screen.ended = len == 0;
                shared.1.notify_all();
                if len == 0 {
                    return;
                }
            }
        });
        Self { child, screen }
    }

    /// Types text.
    pub fn send(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).expect("the program reads");
        stdin.flush().unwrap();
    }

    /// Waits until `text` appears behind what was expected before.
    #[track_caller]
    pub fn expect(&self, text: &str) {
        let limit = Duration::from_secs(20);
        let start = Instant::now();
        let mut screen = self.screen.0.lock().unwrap();
        loop {
            if let Some(at) = screen.text[screen.seen..].find(text) {
                screen.seen += at + text.len();
                return;
            }
            let left = limit.saturating_sub(start.elapsed());
            assert!(
                !screen.ended && !left.is_zero(),
                "no {text:?} in {:?}",
                screen.text
            );
            screen = self.screen.1.wait_timeout(screen, left).unwrap().0;
        }
    }

    /// Waits for its end.
    pub fn exit(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
