//! `tunnel-edge install --root`: the files of another machine.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const OWN: &str = "/etc/systemd/system/tunnel-edge.service";
const WANTED: &str = "/etc/systemd/system/multi-user.target.wants/tunnel-edge.service";

/// A machine's files, and what its owner was given.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        let files = Files(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        // It installs itself; a build that goes on beside this test would make it another one.
        fs::hard_link(env!("CARGO_BIN_EXE_tunnel-edge"), files.program()).unwrap();
        fs::create_dir(files.path("/")).unwrap();
        fs::write(files.0.path().join("token"), "secret\n").unwrap();
        fs::write(files.0.path().join("ca"), "-----BEGIN").unwrap();
        files
    }

    fn program(&self) -> PathBuf {
        self.0.path().join("tunnel-edge")
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0
            .path()
            .join("root")
            .join(path.trim_start_matches('/'))
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn mode(&self, path: &str) -> u32 {
        let about = fs::metadata(self.path(path)).unwrap();
        about.permissions().mode() & 0o7777
    }

    fn run(&self, line: &[&str]) -> Output {
        let mut command = Command::new(self.program());
        command.args(line).arg("--root").arg(self.path("/"));
        command.env_remove("TUNNEL_CONFIG").env("NODE_NAME", "");
        command.output().unwrap()
    }

    /// With all that it needs.
    fn install(&self, more: &[&str]) -> Output {
        let given = |name: &str| self.0.path().join(name).to_str().unwrap().to_owned();
        let line = [
            "install",
            "--node-name=node-A",
            "--cloud=cloud.example.com:9000",
            "--token-file",
            &given("token"),
            "--ca",
            &given("ca"),
        ];
        self.run(&[&line[..], more].concat())
    }
}

#[track_caller]
fn done(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(output: Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn it_is_done_once_and_says_what_it_does() {
    let files = Files::new();
    let planned = done(files.install(&["--dry-run"]));
    assert!(fs::read_dir(files.path("/")).unwrap().next().is_none());
    let said = done(files.install(&[]));
    let would: Vec<_> = said.lines().map(|line| format!("would {line}")).collect();
    assert_eq!(planned.lines().collect::<Vec<_>>(), would);
    assert_eq!(
        files.text("/etc/tunnel/edge.toml"),
        "cloud = { addresses = [\"cloud.example.com:9000\"] }\nnode = { name = \"node-A\" }\n"
    );
    assert_eq!(files.text("/etc/tunnel/token"), "secret\n");
    for (path, mode) in [
        ("/etc/tunnel/edge.toml", 0o644),
        ("/etc/tunnel/token", 0o600),
        ("/etc/tunnel/tls/ca.crt", 0o644),
        ("/usr/local/bin/tunnel-edge", 0o755),
        (OWN, 0o644),
    ] {
        assert_eq!(files.mode(path), mode, "{path}");
    }
    let unit = files.text(OWN);
    assert!(unit.contains("\nExecStart=/usr/local/bin/tunnel-edge\n"));
    assert!(!unit.contains("=/usr/bin/tunnel-edge"));
    assert_eq!(fs::read_link(files.path(WANTED)).unwrap(), Path::new(OWN));
    assert_eq!(done(files.install(&[])), "nothing to do\n");

    // What somebody opened by mistake is closed.
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(files.path("/etc/tunnel/token"), open).unwrap();
    done(files.install(&[]));
    assert_eq!(files.mode("/etc/tunnel/token"), 0o600);

    done(files.run(&["uninstall"]));
    assert!(!files.path(OWN).exists() && fs::symlink_metadata(files.path(WANTED)).is_err());
    assert_eq!(files.text("/etc/tunnel/token"), "secret\n");
    done(files.run(&["uninstall", "--purge"]));
    assert!(!files.path("/etc/tunnel/token").exists());
}

#[test]
fn what_is_there_is_replaced_only_by_force() {
    let files = Files::new();
    done(files.install(&[]));
    let mine = files.text("/etc/tunnel/edge.toml") + "# mine\n";
    fs::write(files.path("/etc/tunnel/edge.toml"), &mine).unwrap();
    fs::remove_file(files.path(OWN)).unwrap();
    let why = refused(files.install(&[]), 1);
    assert!(
        why.contains("edge.toml is there") && why.contains("--force"),
        "{why}"
    );
    assert_eq!(files.text("/etc/tunnel/edge.toml"), mine);
    assert!(!files.path(OWN).exists(), "nothing of it is done");

    // Without flags of the configuration's own, the file is what it is to be.
    done(files.run(&["install"]));
    assert!(files.path(OWN).exists());
    assert_eq!(files.text("/etc/tunnel/edge.toml"), mine);

    fs::write(files.0.path().join("token"), "other\n").unwrap();
    let why = refused(files.install(&["--force", "--set=log.level=loud"]), 78);
    assert!(why.contains("log.level"), "{why}");
    let said = done(files.install(&["--force", "--set=log.level=debug"]));
    assert!(said.contains("replace "), "{said}");
    assert_eq!(files.text("/etc/tunnel/edge.toml.old"), mine);
    assert!(
        files
            .text("/etc/tunnel/edge.toml")
            .contains("level = \"debug\"")
    );
    assert_eq!(files.text("/etc/tunnel/token.old"), "secret\n");
    assert_eq!(files.mode("/etc/tunnel/token.old"), 0o600);
    assert_eq!(files.text("/etc/tunnel/token"), "other\n");
}

#[test]
fn what_is_missing_is_said_before_anything_is_done() {
    let files = Files::new();
    let why = refused(files.run(&["install"]), 78);
    assert!(why.contains("cloud.addresses"), "{why}");
    let why = refused(files.run(&["install", "--cloud=a:1"]), 2);
    assert!(why.contains("--token-file"), "{why}");
    let why = refused(
        files.run(&["install", "--cloud=a:1", "--token-file=/none"]),
        1,
    );
    assert!(why.contains("/none: No such file"), "{why}");
    assert!(fs::read_dir(files.path("/")).unwrap().next().is_none());
}

#[test]
fn a_packages_program_and_unit_are_used() {
    let files = Files::new();
    let unit = files.path("/lib/systemd/system/tunnel-edge.service");
    fs::create_dir_all(unit.parent().unwrap()).unwrap();
    fs::write(unit, "").unwrap();
    done(files.install(&[]));
    assert!(!files.path(OWN).exists() && !files.path("/usr/local").exists());
    let unit = fs::read_link(files.path(WANTED)).unwrap();
    assert_eq!(unit, Path::new("/lib/systemd/system/tunnel-edge.service"));
}

#[test]
fn openwrt_gets_procds_script_and_keeps_it() {
    let files = Files::new();
    fs::create_dir(files.path("/etc")).unwrap();
    fs::write(files.path("/etc/openwrt_release"), "").unwrap();
    let given = files.0.path().join("for-arm");
    fs::write(&given, "ELF").unwrap();
    done(files.install(&["--program", given.to_str().unwrap()]));
    assert_eq!(files.text("/usr/bin/tunnel-edge"), "ELF");
    assert_eq!(files.mode("/etc/init.d/tunnel-edge"), 0o755);
    let link = fs::canonicalize(files.path("/etc/rc.d/S95tunnel-edge")).unwrap();
    assert_eq!(
        link,
        fs::canonicalize(files.path("/etc/init.d/tunnel-edge")).unwrap()
    );
    // All that was laid out outlives an upgrade of the system.
    let keep = files.text("/lib/upgrade/keep.d/tunnel-edge");
    for path in [
        "/etc/tunnel/",
        "/etc/init.d/tunnel-edge",
        "/etc/rc.d/S95tunnel-edge",
        "/usr/bin/tunnel-edge",
    ] {
        assert!(keep.lines().any(|line| line == path), "{path}");
        assert!(files.path(path).exists(), "{path}");
    }
    done(files.run(&["uninstall"]));
    assert!(!files.path("/etc/init.d/tunnel-edge").exists());
}
