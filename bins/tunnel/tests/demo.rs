//! How `tunnel demo` ends when it can't go on, with stand-ins for all that it runs. The demo itself, with the real
//! parts, is run by the real tests.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_cloud_that_dies_is_shown_with_the_end_of_its_log() {
    let stage = Stage::new("#!/bin/sh\necho the port is taken\nexit 3\n");
    let output = stage.demo().stdin(Stdio::null()).output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(
        words.contains("tunnel-cloud has ended (exit status: 3)"),
        "{words}"
    );
    assert!(words.contains("\n    the port is taken\n"), "{words}");
    stage.check_nothing_left();
}

#[test]
fn a_signal_ends_the_children_and_takes_the_folder_away() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // It tells its process id by the log, and would stay for long.
        let stage = Stage::new("#!/bin/sh\necho $$ >\"$PIDFILE\"\nexec sleep 1000\n");
        let mut demo = stage
            .demo()
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut words = BufReader::new(demo.stderr.take().unwrap());
        let mut line = String::new();
        words.read_line(&mut line).unwrap();
        let pid = loop {
            if let Ok(text) = fs::read_to_string(stage.pid_file())
                && text.ends_with('\n')
            {
                break text.trim().parse::<i32>().unwrap();
            }
            std::thread::yield_now();
        };
        kill(Pid::from_raw(demo.id().try_into().unwrap()), signal).unwrap();
        assert_eq!(demo.wait().unwrap().code(), Some(128 + signal as i32));
        assert!(
            kill(Pid::from_raw(pid), None).is_err(),
            "the child lives on"
        );
        stage.check_nothing_left();
    }
}

#[test]
fn what_is_missing_is_named_at_once() {
    let stage = Stage::new("#!/bin/sh\n");
    fs::remove_file(stage.root.path().join("bin/tunnel-edge")).unwrap();
    let output = stage.demo().env("PATH", "/nonexistent").output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        words.contains("tunnel-edge (built beside tunnel") && words.contains("ssh-keygen"),
        "{words}"
    );
    assert_eq!(words.lines().count(), 1, "{words}");
}

/// A folder with our program, and scripts in the place of everybody else.
struct Stage {
    root: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// One stage at a time: a program that is being written when another test forks can't be run until that child has
/// begun its own ("text file busy").
static ALONE: Mutex<()> = Mutex::new(());

impl Stage {
    fn new(cloud: &str) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::create_dir(root.path().join("tmp")).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_tunnel"), bin.join("tunnel")).unwrap();
        // The last argument is the key's file.
        let keygen =
            "#!/bin/sh\nfor file; do :; done\necho key >\"$file\"\necho key >\"$file.pub\"\n";
        for (name, text) in [
            ("tunnel-cloud", cloud),
            ("tunnel-edge", "#!/bin/sh\n"),
            ("ssh", "#!/bin/sh\n"),
            ("sshd", "#!/bin/sh\n"),
            ("ssh-keygen", keygen),
        ] {
            let path = bin.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self {
            root,
            _alone: alone,
        }
    }

    fn demo(&self) -> Command {
        let bin = self.root.path().join("bin");
        let mut command = Command::new(bin.join("tunnel"));
        command
            .arg("demo")
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("TMPDIR", self.root.path().join("tmp"))
            .env("PIDFILE", self.pid_file());
        command
    }

    fn pid_file(&self) -> PathBuf {
        self.root.path().join("pid")
    }

    fn check_nothing_left(&self) {
        let left: Vec<_> = fs::read_dir(self.root.path().join("tmp"))
            .unwrap()
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
