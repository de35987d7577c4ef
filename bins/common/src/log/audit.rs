//! Audit records: one JSON object a line.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;
use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::Fields;
use super::patient::Patience;
use crate::config::{Audit, ConfigError};

/// Writes each event as a record.
pub(super) struct AuditLayer {
    records: Mutex<Records>,
}

struct Records {
    to: To,
    /// Records that could not be written since one last was.
    lost: u64,
}

enum To {
    Stdout(Patience),
    File(Appended),
}

struct Appended {
    path: PathBuf,
    /// Not open while its disk doesn't let it be.
    file: Option<File>,
    /// It ends in the middle of a line, for which there was no room.
    is_torn: bool,
}

/// Says that records can't be written, once for all that follow.
pub(super) fn warn(error: &io::Error) {
    tracing::warn!(%error, "audit records can't be written; they are counted until they can be");
}

impl AuditLayer {
    /// With what is wrong with the disk, if it is the disk: that may pass, and a tunnel is wanted all the more while it lasts.
    pub(super) fn open(audit: &Audit) -> Result<(Option<Self>, Option<io::Error>), ConfigError> {
        let (to, trouble) = match audit {
            Audit::Off => return Ok((None, None)),
            Audit::Stdout => (To::Stdout(Patience::default()), None),
            Audit::File(path) => match append(path) {
                Ok(file) => (To::File(Appended::new(path, Some(file))), None),
                Err(error) if is_of_disk(&error) => {
                    (To::File(Appended::new(path, None)), Some(error))
                }
                Err(error) => {
                    return Err(ConfigError::of_file(
                        path,
                        format_args!("can't be written to (log.audit): {error}"),
                    ));
                }
            },
        };
        let records = Mutex::new(Records { to, lost: 0 });
        Ok((Some(Self { records }), trouble))
    }
}

/// The disk is full or lets nobody write: not what a wrong path is answered with.
fn is_of_disk(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
    )
}

fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

impl Appended {
    fn new(path: &Path, file: Option<File>) -> Appended {
        Appended {
            path: path.to_owned(),
            file,
            is_torn: false,
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(append(&self.path)?),
        };
        if self.is_torn {
            file.write_all(b"\n")?;
            self.is_torn = false;
        }
        // In one piece, so that a line is whole.
        let written = file.write(line)?;
        self.is_torn = written < line.len();
        match self.is_torn {
            true => Err(Errno::ENOSPC.into()),
            false => Ok(()),
        }
    }
}

impl To {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            To::Stdout(patience) => patience.write(&mut io::stdout(), line),
            To::File(file) => file.write(line),
        }
    }
}

impl Records {
    /// Writes a record. How many could not be written before it, or what is wrong now.
    fn put(&mut self, mut record: Map<String, Value>) -> io::Result<u64> {
        let lost = self.lost;
        if lost > 0 {
            record.insert("lost_before".to_owned(), lost.into());
        }
        let mut line = Value::Object(record).to_string();
        line.push('\n');
        match self.to.write(line.as_bytes()) {
            Ok(()) => {
                self.lost = 0;
                Ok(lost)
            }
            Err(error) => {
                self.lost += 1;
                Err(error)
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for AuditLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        fields.0.insert("time".to_owned(), Value::String(now));
        event.record(&mut fields);
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let put = records.put(fields.0);
        let lost = records.lost;
        drop(records);
        match put {
            Ok(0) => {}
            Ok(lost) => tracing::info!(lost, "audit records are written again"),
            Err(error) if lost == 1 => warn(&error),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_takes_nothing_is_tried_again_with_each_record() {
        let full = To::File(Appended::new(Path::new("/dev/full"), None));
        let mut records = Records { to: full, lost: 0 };
        for lost in 1..=3 {
            let error = records.put(Map::new()).expect_err("nothing fits");
            assert!(is_of_disk(&error), "{error}");
            assert_eq!(records.lost, lost);
        }
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("audit.log");
        records.to = To::File(Appended::new(&path, None));
        assert_eq!(records.put(Map::new()).expect("written"), 3);
        assert_eq!(records.put(Map::new()).expect("written"), 0);
        let text = std::fs::read_to_string(path).expect("file");
        assert_eq!(text, "{\"lost_before\":3}\n{}\n");
    }
}
