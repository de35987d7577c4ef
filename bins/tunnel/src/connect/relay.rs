//! The bytes between stdin, stdout and the server: one thread for each direction, plain blocking reads and writes.
//!
//! stdin and stdout are shared with whoever started us, so their flags are left as they are: a pipe or a terminal made
//! non-blocking would be so for its other users too.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::handshake::{Refusal, Reply};
use super::line::{Line, READ_BYTES};

/// What may be sent behind the request before there is an answer: the credit that every stream starts with.
pub(crate) const EARLY_BYTES_MAX: usize = 4096;

/// The server answers within its own `answer_timeout` and `node_wait`; one that says nothing for so long is not there.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// A pipe's room, where it is ours to choose.
#[cfg(target_os = "linux")]
const PIPE_BYTES: i32 = 256 * 1024;

/// How a connection failed.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The server said no.
    Refused(Refusal),
    /// It ended or kept silent before its answer.
    NoReply(&'static str),
    /// The open stream broke.
    Lost(io::Error),
    /// Nobody reads stdout any more; there is nobody to tell either.
    Abandoned,
}

/// Sends `request` and copies until both directions have ended.
pub(crate) fn run(line: Line, mut request: Vec<u8>) -> Result<(), Broken> {
    let line = Arc::new(line);
    widen(io::stdin().as_fd());
    widen(io::stdout().as_fd());
    let mut early = Early::default();
    early.append_to(&mut request).map_err(Broken::Lost)?;
    line.send(&request).map_err(Broken::Lost)?;

    let gate = Arc::new(Gate::default());
    let (ended, up_ended) = UnixStream::pair().map_err(Broken::Lost)?;
    let upward = {
        let (line, gate) = (Arc::clone(&line), Arc::clone(&gate));
        move || {
            // The receiving side sees what a broken connection means; here it only ends the sending.
            let _ = send_stdin(&line, &gate, early);
            drop(ended);
        }
    };
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(upward)
        .map_err(Broken::Lost)?;

    let mut buffer = vec![0; READ_BYTES];
    let first = await_reply(&line, &mut buffer)?;
    gate.open();
    write_stdout(&first)?;
    drop(first);
    loop {
        match line.receive(&mut buffer, |socket| readable(socket.as_fd(), None)) {
            Ok(0) => break,
            Ok(count) => write_stdout(&buffer[..count])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(Broken::Abandoned),
            Err(error) => return Err(Broken::Lost(error)),
        }
    }
    close_stdout().map_err(Broken::Lost)?;
    until_sent(&up_ended, line.socket());
    Ok(())
}

/// Gives a pipe room for what is read at once: half as many switches between us and ssh. What is no pipe, or a pipe that
/// may not grow, stays as it is.
#[cfg(target_os = "linux")]
pub(super) fn widen(fd: BorrowedFd<'_>) {
    use nix::fcntl::{FcntlArg, fcntl};
    let _ = fcntl(fd, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
}

#[cfg(not(target_os = "linux"))]
pub(super) fn widen(_: BorrowedFd<'_>) {}

/// Waits for the server's word; what came behind it is the stream's.
fn await_reply(line: &Line, buffer: &mut [u8]) -> Result<Vec<u8>, Broken> {
    let deadline = Instant::now() + REPLY_TIMEOUT;
    let mut reply = Reply::default();
    loop {
        match line.receive(buffer, |socket| readable(socket.as_fd(), Some(deadline))) {
            Ok(0) if reply.is_empty() => {
                return Err(Broken::NoReply("ended the connection without an answer"));
            }
            Ok(0) => {
                return Err(Broken::NoReply(
                    "ended the connection in the middle of its answer",
                ));
            }
            Ok(count) => {
                if let Some(rest) = reply.push(&buffer[..count]).map_err(Broken::Refused)? {
                    return Ok(rest);
                }
            }
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::BrokenPipe => return Err(Broken::Abandoned),
                ErrorKind::TimedOut => return Err(Broken::NoReply("has not answered for 30 s")),
                _ => return Err(Broken::Lost(error)),
            },
        }
    }
}

/// What stdin gave before the answer.
#[derive(Default)]
struct Early {
    bytes: usize,
    eof: bool,
}

impl Early {
    /// Puts what stdin has at this moment behind the request, so that both travel in one segment.
    fn append_to(&mut self, request: &mut Vec<u8>) -> io::Result<()> {
        if !stdin_has_something()? {
            return Ok(());
        }
        let mut buffer = [0; EARLY_BYTES_MAX];
        let count = read_stdin(&mut buffer)?;
        request.extend_from_slice(&buffer[..count]);
        self.bytes = count;
        self.eof = count == 0;
        Ok(())
    }
}

/// Holds back what is over the early bytes until the stream is open.
#[derive(Default)]
struct Gate {
    opened: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn is_open(&self) -> bool {
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        while !*opened {
            opened = self
                .changed
                .wait(opened)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Sends stdin until it ends, and then says so. The end is held back until the stream is open: a server may take the
/// end of a connection that it hasn't answered yet for a client that went away.
fn send_stdin(line: &Line, gate: &Gate, mut early: Early) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    while !early.eof {
        let room = if gate.is_open() {
            buffer.len()
        } else {
            EARLY_BYTES_MAX - early.bytes
        };
        if room == 0 {
            gate.wait();
            continue;
        }
        let count = read_stdin(&mut buffer[..room])?;
        early.bytes = (early.bytes + count).min(EARLY_BYTES_MAX);
        early.eof = count == 0;
        line.send(&buffer[..count])?;
    }
    gate.wait();
    line.finish()
}

/// Whether stdin has bytes, or its end, at this moment.
pub(super) fn stdin_has_something() -> io::Result<bool> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut fds, PollTimeout::ZERO)? != 0)
}

pub(super) fn read_stdin(buffer: &mut [u8]) -> io::Result<usize> {
    let stdin = io::stdin();
    loop {
        match nix::unistd::read(stdin.as_fd(), buffer) {
            Ok(count) => return Ok(count),
            Err(Errno::EINTR) => {}
            // Non-blocking by its owner's will.
            Err(Errno::EAGAIN) => wait_for(stdin.as_fd(), PollFlags::POLLIN)?,
            // A terminal or socket that was hung up.
            Err(Errno::EIO | Errno::ECONNRESET) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) fn write_stdout(mut bytes: &[u8]) -> Result<(), Broken> {
    let stdout = io::stdout();
    while !bytes.is_empty() {
        match nix::unistd::write(stdout.as_fd(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                wait_for(stdout.as_fd(), PollFlags::POLLOUT).map_err(Broken::Lost)?
            }
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::EIO) => return Err(Broken::Abandoned),
            Err(error) => return Err(Broken::Lost(error.into())),
        }
    }
    Ok(())
}

/// Whoever reads stdout sees its end now, while we go on sending.
pub(super) fn close_stdout() -> io::Result<()> {
    io::stdout().flush()?;
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    // A socket is one descriptor's worth for both directions and may be open as stdin too: say it to the socket.
    let _ = nix::sys::socket::shutdown(1, nix::sys::socket::Shutdown::Write);
    nix::unistd::dup2_stdout(&null)?;
    Ok(())
}

fn wait_for(fd: BorrowedFd<'_>, what: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(fd, what)], PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until there is something to receive. `BrokenPipe`: the reader of stdout went away meanwhile, which an idle
/// stream would never notice by writing. `TimedOut`: at `deadline`.
pub(super) fn readable(socket: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<()> {
    let stdout = io::stdout();
    loop {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(ErrorKind::TimedOut.into());
                }
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = [
            PollFd::new(socket, PollFlags::POLLIN),
            PollFd::new(stdout.as_fd(), PollFlags::empty()),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[1].any() == Some(true) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if fds[0].any() == Some(true) {
            return Ok(());
        }
    }
}

/// Waits until stdin has been sent to its end, or can't be any more.
fn until_sent(up_ended: &UnixStream, socket: &TcpStream) {
    let mut fds = [
        PollFd::new(up_ended.as_fd(), PollFlags::POLLIN),
        PollFd::new(socket.as_fd(), PollFlags::empty()),
    ];
    while matches!(poll(&mut fds, PollTimeout::NONE), Err(Errno::EINTR)) {}
}
