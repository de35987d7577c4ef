//! `tunnel demo` leaves its command's output and status, and nothing else.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tunnel_tests::binaries::binary;
use tunnel_tests::wait::{secs, wait_until};

/// A demo whose temporary folder is inside `dir`. What is started in it says its folder on its command line.
fn demo(dir: &TempDir, line: &[&str]) -> Command {
    // A session's own user has to reach the folder, whoever that is.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(binary("tunnel"));
    command
        .arg("demo")
        .arg("--")
        .args(line)
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null());
    command
}

#[test]
fn a_command_runs_on_node_a_with_its_output_and_status() {
    let dir = tempfile::tempdir().unwrap();
    let output = demo(&dir, &["echo out; echo err >&2; exit 42"])
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(42), "{words}");
    assert_eq!(output.stdout, b"out\n", "{words}");
    for word in [
        "node-A",
        "node-B",
        "nc -X connect",
        "corkscrew",
        "tunnel connect",
    ] {
        assert!(words.contains(word), "no {word} in {words}");
    }
    nothing_left(dir.path());
}

#[test]
fn a_session_lives_through_cuts_kills_and_a_rolling_update() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(binary("tunnel"))
        .args(["demo", "--replicas", "3", "--torture"])
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}{words}");
    println!("{report}");
    let stalls = report.lines().filter(|line| line.ends_with(" ms")).count();
    assert_eq!(stalls, 9, "eight acts and the sum: {report}");
    assert!(report.contains("each once and in order"), "{report}");
    nothing_left(dir.path());
}

#[test]
fn a_second_terminal_cuts_and_kills_under_the_command() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut child = Command::new(binary("tunnel"))
        .args([
            "demo",
            "--replicas",
            "2",
            "--",
            "echo up; read word; echo $word",
        ])
        .env("TMPDIR", dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(out.next().unwrap().unwrap(), "up");
    let mut err = BufReader::new(child.stderr.take().unwrap()).lines();
    let control = fs::read_dir(dir.path()).unwrap().flatten().next().unwrap();
    let control = control.path().join("control");
    for (order, word) in [
        ("cut", "was cut"),
        ("kill", "was killed"),
        ("roll", "was replaced"),
    ] {
        fs::write(&control, format!("{order}\n")).unwrap();
        assert!(
            err.by_ref().flatten().any(|line| line.contains(word)),
            "nothing says that it {word}"
        );
    }
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"still here\n").unwrap();
    assert_eq!(out.next().unwrap().unwrap(), "still here");
    drop(err);
    assert!(child.wait().unwrap().success());
    nothing_left(dir.path());
}

#[test]
fn an_interrupt_in_the_middle_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = demo(&dir, &["echo up; sleep 1000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "up\n", "{}", words(&mut child));
        assert!(
            !running_in(dir.path()).is_empty(),
            "the demo's programs name its folder"
        );
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let mut status = None;
        wait_until("the demo ends", secs(15), || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(128 + signal as i32));
        nothing_left(dir.path());
    }
}

fn words(child: &mut Child) -> String {
    let _ = child.kill();
    let mut words = String::new();
    let _ = child.stderr.as_mut().unwrap().read_to_string(&mut words);
    words
}

#[track_caller]
fn nothing_left(dir: &Path) {
    wait_until("no program is left", secs(10), || {
        running_in(dir).is_empty()
    });
    let left: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Programs with a path inside `dir` on their command line.
fn running_in(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(dir))
        .collect()
}
