//! What this machine's C library is to do otherwise than it does by itself. Where that is nothing, this is nothing.
//!
//! AMD's Zen 3 and 4 copy by `rep movsb` at a twentieth of their speed where the place that is written lies, within its page, up to 31 bytes
//! behind the one that is read (sourceware's bug 30994). glibc before 2.40 copies whatever has 4 KiB or more by it, so each TLS record on
//! its way; which addresses these get is settled when a process starts, and with it, by chance, a tenth to a quarter of its processor
//! time. It is told otherwise by its environment and no other way, and reads that before anything else runs.
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};

const VARIABLE: &str = "GLIBC_TUNABLES";
const NAME: &str = "glibc.cpu.x86_rep_movsb_threshold";
/// No copy is as large: all are made by vector instructions.
const BYTES: &str = "0x10000000";

/// Starts this program once more in this same process, with its arguments, if the C library copies better then. Call it before
/// anything else has begun. It returns if there is nothing to be won or it can't be: all works without.
pub fn apply() {
    if cfg!(all(
        target_os = "linux",
        target_arch = "x86_64",
        target_env = "gnu"
    )) && let Some(wanted) = wanted(std::env::var_os(VARIABLE).as_deref())
        && first_processor().is_ok_and(|processor| copies_badly(&processor))
    {
        let _ = start_anew(&wanted);
    }
}

/// The beginning of what Linux says of the processors: the whole of the first one, and little of hundreds.
fn first_processor() -> io::Result<String> {
    let mut text = Vec::new();
    File::open("/proc/cpuinfo")?
        .take(4 << 10)
        .read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Whether it is of those that `rep movsb` is slow on, and that glibc uses it on.
fn copies_badly(processor: &str) -> bool {
    let has = |word: &str| processor.split_whitespace().any(|other| other == word);
    has("AuthenticAMD") && has("erms")
}

/// The variable's value, unless it is good as it is: whoever has set this himself knows why.
fn wanted(set: Option<&OsStr>) -> Option<OsString> {
    let mut value = set.unwrap_or_default().to_owned();
    if value.to_string_lossy().contains(NAME) {
        return None;
    }
    if !value.is_empty() {
        value.push(":");
    }
    value.push(format!("{NAME}={BYTES}"));
    Some(value)
}

#[cfg(unix)]
fn start_anew(tunables: &OsStr) -> io::Error {
    use std::os::unix::process::CommandExt;
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut line = std::env::args_os();
    let mut command = std::process::Command::new(program);
    if let Some(name) = line.next() {
        command.arg0(name);
    }
    command.args(line).env(VARIABLE, tunables).exec()
}

#[cfg(not(unix))]
fn start_anew(_tunables: &OsStr) -> io::Error {
    io::ErrorKind::Unsupported.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_copies_well_is_left_alone() {
        assert!(copies_badly(
            "vendor_id\t: AuthenticAMD\nflags\t\t: fpu erms fsrm\n"
        ));
        assert!(!copies_badly("vendor_id : GenuineIntel\nflags : erms\n"));
        assert!(!copies_badly("vendor_id : AuthenticAMD\nflags : fpu\n"));
        assert!(!copies_badly(""));
    }

    #[test]
    fn what_is_set_already_stays() {
        let ours = wanted(None);
        assert_eq!(
            ours.as_deref(),
            Some(OsStr::new("glibc.cpu.x86_rep_movsb_threshold=0x10000000"))
        );
        assert_eq!(wanted(ours.as_deref()), None, "it would start for ever");
        let own = OsStr::new("glibc.cpu.x86_rep_movsb_threshold=2048");
        assert_eq!(wanted(Some(own)), None);
        let both = wanted(Some(OsStr::new("glibc.malloc.arena_max=1")));
        assert!(both.is_some_and(|both| {
            both.to_string_lossy()
                .starts_with("glibc.malloc.arena_max=1:glibc.cpu.")
        }));
    }
}
