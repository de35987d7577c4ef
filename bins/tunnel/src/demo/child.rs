//! The demo's children: started so that they end with us, listened to, and ended by their own process id.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use super::{CHILD_COMMAND, Event};

/// How long a child may take to end in order.
const END_TIMEOUT: Duration = Duration::from_secs(4);

/// Lines of a log that are shown when its writer died.
const TAIL_LINES: usize = 15;

/// A command that runs `program` as a child that the kernel ends when we are gone, however we went.
///
/// The kernel's promise is asked for by the process itself, so we are run first, and become `program`.
pub(crate) fn command(own: &Path, program: &Path) -> Command {
    let mut command = Command::new(own);
    command
        .arg(CHILD_COMMAND)
        .arg(std::process::id().to_string())
        .arg(program);
    command
}

/// Becomes `program`, whose first word is our parent's process id; comes back with the reason if that failed.
pub(crate) fn exec_child(program: &[OsString]) -> String {
    let [parent, program, arguments @ ..] = program else {
        return "expected a parent and a program".to_owned();
    };
    if let Err(error) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
        return format!("cannot tie a child to its parent: {error}");
    }
    // It may have gone before we asked.
    if parent.to_str() != Some(nix::unistd::getppid().to_string().as_str()) {
        return String::new();
    }
    // Our parent keeps its signals for one thread; that is no concern of this program's.
    if let Err(error) = SigSet::empty().thread_set_mask() {
        return format!("cannot set a child's signals: {error}");
    }
    let error = Command::new(program).args(arguments).exec();
    format!("cannot run {}: {error}", Path::new(program).display())
}

/// A service of the demo's.
pub(super) struct Service {
    /// For people: `tunnel-cloud`, `node-A`.
    pub(super) name: String,
    child: Child,
    log: PathBuf,
    /// It was told to end, and may.
    leaves: bool,
}

impl Service {
    /// Starts it with its output in `log`; what it says to NOTIFY_SOCKET arrives as events of number `who`.
    pub(super) fn start(
        name: &str,
        mut command: Command,
        folder: &Path,
        who: usize,
        events: Sender<Event>,
    ) -> io::Result<Self> {
        let log = folder.join("log").join(format!("{name}.log"));
        let socket_path = folder.join(format!("{name}.notify"));
        // One that starts again finds its predecessor's.
        let _ = fs::remove_file(&socket_path);
        let socket = UnixDatagram::bind(&socket_path)?;
        std::thread::Builder::new()
            .name("notify".into())
            .spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count) = socket.recv(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    if events.send(Event::Notified(who, text)).is_err() {
                        break;
                    }
                }
            })?;
        let out = OpenOptions::new().create(true).append(true).open(&log)?;
        command
            .env("NOTIFY_SOCKET", &socket_path)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            // Ctrl-C at the terminal is ours to handle.
            .process_group(0);
        let child = command.spawn()?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            leaves: false,
        })
    }

    /// Its successor, under the same name.
    pub(super) fn start_again(
        &mut self,
        command: Command,
        folder: &Path,
        who: usize,
        events: Sender<Event>,
    ) -> io::Result<()> {
        *self = Service::start(&self.name, command, folder, who, events)?;
        Ok(())
    }

    /// Asks it to leave in good order; its end is no failure then.
    pub(super) fn ask_to_leave(&mut self) {
        self.leaves = true;
        self.ask_to_end();
    }

    /// Ends it now, without a word.
    pub(super) fn kill(&mut self) {
        self.leaves = true;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, if it has and should not have.
    pub(super) fn died(&mut self) -> Option<ExitStatus> {
        (!self.leaves).then(|| self.ended()).flatten()
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Why it isn't there: how it ended and the last lines of its log.
    pub(super) fn obituary(&self, how: &str) -> String {
        let tail = tail(&self.log);
        let log = if tail.is_empty() {
            "its log is empty".to_owned()
        } else {
            format!("its log ends with:\n{tail}")
        };
        format!("{} {how}; {log}", self.name)
    }

    /// Asks it to end.
    pub(super) fn ask_to_end(&mut self) {
        signal(&mut self.child, Signal::SIGTERM);
    }

    /// Waits until it has ended; after a while by force.
    pub(super) fn end(&mut self) {
        end(&mut self.child);
    }
}

/// Sends `signal` unless the child has ended: a pid that was waited for may be somebody else's.
pub(super) fn signal(child: &mut Child, signal: Signal) {
    if matches!(child.try_wait(), Ok(None))
        && let Ok(pid) = i32::try_from(child.id())
    {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Ends `child`: in order, after [`END_TIMEOUT`] by force.
pub(super) fn end(child: &mut Child) {
    signal(child, Signal::SIGTERM);
    let deadline = Instant::now() + END_TIMEOUT;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The last lines of a log, indented; empty if there are none.
pub(super) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    lines[from..]
        .iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Runs a short helper to its end; its words are the error.
pub(super) fn run_to_end(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{name} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

/// The `name=value` pairs of a STATUS line, if the message has one.
pub(super) fn status_of(message: &str) -> Option<BTreeMap<String, String>> {
    let status = message
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("STATUS="))?;
    let pair = |word: &str| {
        word.split_once('=')
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    Some(status.split_whitespace().filter_map(pair).collect())
}

/// A file for output that is appended to by several.
pub(super) fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_into_its_pairs() {
        let pairs = status_of(
            "READY=1\nSTATUS=grpc=127.0.0.1:1 connect=127.0.0.1:2,127.0.0.1:3 admin=127.0.0.1:4\n",
        )
        .expect("a status");
        assert_eq!(pairs["grpc"], "127.0.0.1:1");
        assert_eq!(pairs["connect"], "127.0.0.1:2,127.0.0.1:3");
        assert_eq!(status_of("STOPPING=1"), None);
    }
}
