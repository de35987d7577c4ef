//! Standard output and standard error, whoever reads them: what nobody takes is left out, and nothing else waits for it.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::LogFormat;

/// How long a reader may take, in milliseconds, before lines are left out: a burst fills a pipe faster than it is read.
const PATIENCE_MS: u16 = 100;
/// What a pipe takes at once, where it takes anything.
const PIECE_BYTES: usize = 4096;

/// What is remembered of a stream's reader.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// It didn't read in time: until it does, it is not waited for again.
    is_over: bool,
}

impl Patience {
    /// Writes a line, unless that would take long.
    pub(super) fn write(&mut self, to: &mut (impl Write + AsFd), line: &[u8]) -> io::Result<()> {
        for piece in line.chunks(PIECE_BYTES) {
            self.wait(to)?;
            to.write_all(piece)?;
        }
        to.flush()
    }

    fn wait(&mut self, to: &impl AsFd) -> io::Result<()> {
        let patience = match self.is_over {
            true => PollTimeout::ZERO,
            false => PollTimeout::from(PATIENCE_MS),
        };
        let mut asked = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
        // What can't be asked is written to.
        self.is_over = poll(&mut asked, patience) == Ok(0);
        match self.is_over {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => Ok(()),
        }
    }
}

/// What becomes of a log's lines.
#[derive(Debug, Default)]
pub(super) struct Log {
    patience: Patience,
    left_out: u64,
}

impl Log {
    fn write(
        &mut self,
        to: &mut (impl Write + AsFd),
        line: &[u8],
        format: LogFormat,
    ) -> io::Result<()> {
        if self.left_out > 0 {
            let note = note(self.left_out, format);
            self.patience.write(to, note.as_bytes())?;
            self.left_out = 0; // This is told, whatever becomes of the line.
        }
        self.patience.write(to, line)
    }
}

/// Takes a log's lines, each in one piece.
#[derive(Clone, Debug)]
pub(super) struct Lines<T> {
    to: T,
    log: Arc<Mutex<Log>>,
    format: LogFormat,
}

impl<T> Lines<T> {
    pub(super) fn new(to: T, log: Arc<Mutex<Log>>, format: LogFormat) -> Lines<T> {
        Lines { to, log, format }
    }
}

impl<T: Write + AsFd> Write for Lines<T> {
    /// Always well: a log that can't be written is nobody's fault who has something to say.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.write(&mut self.to, line, self.format).is_err() {
            log.left_out += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// That lines are missing, in the form of a line.
fn note(left_out: u64, format: LogFormat) -> String {
    let now = humantime::format_rfc3339_micros(SystemTime::now());
    let (level, target) = ("WARN", module_path!());
    let message = "lines are missing here: standard error did not take them";
    match format {
        LogFormat::Text => format!("{now}  {level} {target}: {message} left_out={left_out}\n"),
        LogFormat::Json => format!(
            "{{\"timestamp\":\"{now}\",\"level\":\"{level}\",\"message\":\"{message}\",\"left_out\":{left_out},\"target\":\"{target}\"}}\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, PipeWriter, Read, pipe};
    use std::time::{Duration, Instant};

    fn lines(format: LogFormat) -> (PipeReader, Lines<PipeWriter>) {
        let (reader, writer) = pipe().expect("a pipe");
        (reader, Lines::new(writer, Arc::default(), format))
    }

    #[test]
    fn a_reader_that_hangs_holds_up_nobody_and_hears_what_it_missed() {
        let (mut reader, mut lines) = lines(LogFormat::Json);
        let start = Instant::now();
        let line = [b"\"", [b'x'; 997].as_slice(), b"\"\n"].concat();
        for _ in 0..1000 {
            lines.write_all(&line).expect("always well");
        }
        assert!(start.elapsed() < Duration::from_secs(2));
        let mut taken = vec![0; 1 << 20];
        let first = reader.read(&mut taken).expect("what it had room for");
        lines.write_all(b"\"the last\"\n").expect("always well");
        drop(lines);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("the rest");
        let whole = first / line.len();
        let text = String::from_utf8_lossy(&taken[..first]).into_owned() + &rest;
        let read: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("a whole line"))
            .collect();
        assert_eq!(read.len(), whole + 2);
        assert_eq!(read[whole]["left_out"], 1000 - whole);
        assert_eq!(read[whole + 1], "the last");
    }

    #[test]
    fn a_reader_that_is_gone_is_no_error() {
        let (reader, mut lines) = lines(LogFormat::Text);
        drop(reader);
        lines.write_all(b"a line\n").expect("always well");
        lines.write_all(b"a line\n").expect("always well");
    }
}
