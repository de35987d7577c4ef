//! `tunnel demo --torture`: a session that is never still, while everything between its ends is cut, killed and replaced.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::child::{command, end};
use super::orders::Order;
use super::{Demo, NODES, Stop};

/// Between two lines of the session.
const LINE_INTERVAL: Duration = Duration::from_millis(10);
/// For the session to move again.
const MOVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Lines that have to come back before the session counts as moving.
const LINES_TO_TRUST: u64 = 50;

/// What is done, in order.
const ACTS: [(&str, Order); 8] = [
    ("the node's line cut", Order::Cut),
    ("the operator's line cut", Order::CutClients),
    ("the node's line cut", Order::Cut),
    ("the serving replica killed", Order::Kill),
    ("all replicas replaced", Order::Roll),
    ("the operator's line cut", Order::CutClients),
    ("the serving replica killed", Order::Kill),
    ("all replicas replaced", Order::Roll),
];

/// What has come back of the session's lines.
#[derive(Default)]
struct Echo {
    received: u64,
    last: Option<Instant>,
    longest: Duration,
    /// A line came that was not the next one.
    wrong: Option<String>,
    ended: bool,
}

/// The session: `cat` on the node, and a line every few milliseconds.
struct Session {
    ssh: Child,
    echo: Arc<(Mutex<Echo>, Condvar)>,
}

impl Demo {
    /// Runs it all and prints a line for each act. The status is a failure if a byte was lost or the session ended.
    pub(super) fn torture(&mut self) -> Result<(), Stop> {
        let session = self.session()?;
        session.moves_again("the session does not start")?;
        println!("{:<28}  longest stall", "what was done");
        let mut worst = Duration::ZERO;
        for (what, order) in ACTS {
            session.forget_stalls();
            self.obey(order)?;
            let stall = session.moves_again(what)?;
            worst = worst.max(stall);
            println!("{what:<28}  {:>6} ms", stall.as_millis());
        }
        let lines = session.finish()?;
        println!(
            "{lines} lines went there and back, each once and in order; the longest stall was {} ms",
            worst.as_millis()
        );
        Ok(())
    }

    fn session(&self) -> Result<Session, Stop> {
        let mut ssh = command(&self.programs.own, &self.programs.ssh);
        ssh.arg("-F")
            .arg(self.folder.join("ssh/config"))
            .args(["-T", NODES[0], "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut ssh = ssh
            .spawn()
            .map_err(|error| format!("cannot run ssh: {error}"))?;
        let echo: Arc<(Mutex<Echo>, Condvar)> = Arc::default();
        let (input, output) = (ssh.stdin.take(), ssh.stdout.take());
        let heard = Arc::clone(&echo);
        let say = move || {
            let Some(mut input) = input else { return };
            for number in 0_u64.. {
                if writeln!(input, "{number}").is_err() {
                    return;
                }
                std::thread::sleep(LINE_INTERVAL);
            }
        };
        let hear = move || {
            let lines = output.map(|output| BufReader::new(output).lines());
            for line in lines.into_iter().flatten().map_while(Result::ok) {
                locked(&heard.0).hear(&line);
                heard.1.notify_all();
            }
            locked(&heard.0).ended = true;
            heard.1.notify_all();
        };
        let threads = [
            std::thread::Builder::new().spawn(say),
            std::thread::Builder::new().spawn(hear),
        ];
        for thread in threads {
            thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        }
        Ok(Session { ssh, echo })
    }
}

impl Session {
    fn forget_stalls(&self) {
        locked(&self.echo.0).longest = Duration::ZERO;
    }

    /// Waits until lines come back again; the longest that none did.
    fn moves_again(&self, what: &str) -> Result<Duration, Stop> {
        let deadline = Instant::now() + MOVE_TIMEOUT;
        let mut echo = locked(&self.echo.0);
        let enough = echo.received + LINES_TO_TRUST;
        while echo.received < enough {
            if let Some(wrong) = &echo.wrong {
                return Err(format!("{what}: {wrong}").into());
            }
            if echo.ended {
                return Err(format!("{what}: the session has ended").into());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = MOVE_TIMEOUT.as_secs();
                return Err(format!("{what}: the session stands still for {seconds} s").into());
            }
            let waited = self.echo.1.wait_timeout(echo, left);
            echo = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(echo.longest)
    }

    fn finish(mut self) -> Result<u64, Stop> {
        let echo = locked(&self.echo.0);
        if let Some(wrong) = &echo.wrong {
            return Err(wrong.clone().into());
        }
        let lines = echo.received;
        drop(echo);
        end(&mut self.ssh);
        Ok(lines)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        end(&mut self.ssh);
    }
}

impl Echo {
    fn hear(&mut self, line: &str) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
        if line != self.received.to_string() {
            let expected = self.received;
            self.wrong
                .get_or_insert_with(|| format!("line {expected} came back as {line:?}"));
        }
        self.received += 1;
    }
}

fn locked(echo: &Mutex<Echo>) -> MutexGuard<'_, Echo> {
    echo.lock().unwrap_or_else(PoisonError::into_inner)
}
