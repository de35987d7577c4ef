//! The edge as it gets onto a machine: the unit, `tunnel-edge install`, the packages; run by a real systemd.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;
use tunnel_tests::binaries::{binary, program};
use tunnel_tests::machine::Machine;
use tunnel_tests::netns::Namespace;
use tunnel_tests::openssh::{Ssh, Sshd, TUNNEL_SSH, success};
use tunnel_tests::pages::{between, read, repository, shell};
use tunnel_tests::session::{Busy, Idle};
use tunnel_tests::wait::{is_long, secs, wait_until};
use tunnel_tests::world::TOKEN;
use tunnel_tests::{Cloud, World};

const UNIT: &str = "tunnel-edge.service";

/// A package, `tunnel-edge install` and a service, from first to last; sessions go on through all that happens to it.
#[test]
fn a_package_becomes_a_service_that_keeps_its_sessions() {
    let network = Namespace::new();
    network.enter(|| {
        let world = World::new();
        let cloud = world.cloud();
        let sshd = Sshd::start(&world);
        let machine = Machine::boot();
        let packages = [pack(&world, "1"), pack(&world, "2")];

        // Nothing is started before it is set up.
        machine.put("/root/first.deb", fs::read(&packages[0]).unwrap());
        machine.ask("dpkg", &["-i", "/root/first.deb"]);
        let verified = machine.run(
            "systemd-analyze",
            &["verify", &format!("/lib/systemd/system/{UNIT}")],
        );
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert!(verified.status.success() && said.is_empty(), "{said}");
        assert_eq!(machine.ask("systemctl", &["is-enabled", UNIT]), "enabled");
        assert_eq!(machine.show(UNIT, "ActiveState"), "inactive");
        for (property, value) in [
            ("Restart", "always"),
            ("TimeoutStopUSec", "5min 10s"),
            ("MemoryMax", "134217728"),
        ] {
            assert_eq!(machine.show(UNIT, property), value, "{property}");
        }

        // The cloud is away: the service is active, and says that it isn't linked.
        let port = cloud.grpc.rsplit_once(':').unwrap().1;
        cloud.process.signal(Signal::SIGSTOP);
        set_up(&machine, &world, port, &sshd);
        assert_eq!(machine.show(UNIT, "ActiveState"), "active");
        assert!(machine.show(UNIT, "StatusText").ends_with("link=down"));
        cloud.process.signal(Signal::SIGCONT);
        linked(&machine);
        let first = main_pid(&machine);

        the_token_is_the_services_own(&machine, first);

        // A login, by plain nc and by a link of the operator's own.
        let ssh = Ssh::new(&world, &cloud).by_links(&world, &cloud.grpc);
        for by in ["nc", TUNNEL_SSH] {
            let output = ssh.login(by, "echo there").output().unwrap();
            success(by, &output);
            assert_eq!(output.stdout, b"there\n");
        }

        // A reload is another process by the new files; sessions stay with the old one.
        let mut idle = Idle::start(&ssh, TUNNEL_SSH);
        let busy = Busy::start(&ssh, "nc");
        let config = machine.path("/etc/tunnel/edge.toml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.clone() + "broken\n").unwrap();
        let refused = machine.run("systemctl", &["reload", UNIT]);
        assert!(!refused.status.success());
        assert_eq!(main_pid(&machine), first);
        assert!(machine.log(UNIT).contains("edge.toml:"));
        let renamed = text.replace("interval = \"9s\"", "interval = \"8s\"");
        assert_ne!(renamed, text);
        fs::write(&config, renamed).unwrap();
        machine.ask("systemctl", &["reload", UNIT]);
        let second = main_pid(&machine);
        assert_ne!(second, first);
        assert!(is_there(&machine, first), "it has sessions");
        idle.ask("reloaded");
        busy.moves_after(Instant::now(), secs(5));
        assert_eq!(machine.show(UNIT, "ActiveState"), "active");
        new_login(&ssh);

        // So is an upgrade.
        machine.put("/root/second.deb", fs::read(&packages[1]).unwrap());
        machine.ask("dpkg", &["-i", "/root/second.deb"]);
        let third = main_pid(&machine);
        assert_ne!(third, second);
        wait_until("one without sessions ends", secs(10), || {
            !is_there(&machine, second)
        });
        idle.ask("upgraded");
        busy.moves_after(Instant::now(), secs(5));
        new_login(&ssh);
        busy.finish();
        idle.finish();
        wait_until("the first ends with its last session", secs(10), || {
            !is_there(&machine, first)
        });
        // The third answers the watchdog as the first did.
        let heard = machine.show(UNIT, "WatchdogTimestampMonotonic");
        wait_until("the watchdog hears of it", secs(10), || {
            machine.show(UNIT, "WatchdogTimestampMonotonic") != heard
        });
        assert_eq!(machine.show(UNIT, "NRestarts"), "0");

        if is_long() {
            a_new_one_without_a_link_changes_nothing(&machine, &cloud, third);
        }
        a_frozen_one_is_started_again(&machine, third);
        new_login(&ssh);
        a_stop_waits_for_sessions(&machine, &ssh);

        // What was set up outlives the package; a purge takes it along.
        machine.ask("dpkg", &["-r", "tunnel-edge"]);
        assert!(machine.path("/etc/tunnel/token").exists());
        machine.ask("dpkg", &["-P", "tunnel-edge"]);
        assert!(!machine.path("/etc/tunnel/token").exists());
        drop(cloud);
    });
}

/// docs/edge.md, as it stands there.
#[test]
fn each_command_of_the_page_does_what_it_says() {
    let network = Namespace::new();
    network.enter(|| {
        let world = World::new();
        let cloud = world.cloud_with(world.cloud_settings().set("grpc.listen", "127.0.0.1:9000"));
        let _sshd = Sshd::start_at(&world, "127.0.0.1:22");
        let ssh = Ssh::new(&world, &cloud);
        let machine = Machine::boot();
        machine.put("/etc/hosts", "127.0.0.1 localhost cloud.example.com\n");
        let page = read("docs/edge.md");
        let blocks: Vec<_> = shell(&page).collect();
        let [token, package, set_up, without, reload, back] = blocks[..] else {
            panic!("the page has other blocks: {blocks:?}");
        };

        // Where the cloud is, and where programs are built.
        let tokens = world.write("tokens", "node-B:other\n");
        let here = format!("set -eu\n{token}{package}")
            .replace("/etc/tunnel/tokens", tokens.to_str().unwrap())
            .replace("target/release/tunnel-edge", binary("tunnel-edge").to_str().unwrap())
            .replace("deploy/packages/pack", repository("deploy/packages/pack").to_str().unwrap());
        let dir = world.path("page");
        fs::create_dir(&dir).unwrap();
        let output = Command::new("bash").args(["-c", &here]).current_dir(&dir).output();
        success("the page, at the cloud", &output.unwrap());

        // On the machine.
        for file in fs::read_dir(&dir).unwrap() {
            let (path, name) = (file.as_ref().unwrap().path(), file.unwrap().file_name());
            machine.put(&format!("/root/{}", name.display()), fs::read(path).unwrap());
        }
        let on_it = |block: &str| machine.ask("bash", &["-euc", &format!("cd\n{block}")]);
        machine.put("/root/ca.crt", world.pki.ca_pem());
        on_it(set_up);
        new_login(&ssh);
        on_it(reload);
        new_login(&ssh);
        on_it(back);
        assert_eq!(machine.show(UNIT, "ActiveState"), "inactive");

        // What it has is enough for it once more.
        machine.ask("cp", &["/etc/tunnel/token", "/root/token"]);
        machine.put("/root/tunnel-edge", fs::read(binary("tunnel-edge")).unwrap());
        machine.ask("chmod", &["755", "/root/tunnel-edge"]);
        on_it(without);
        assert_eq!(
            machine.show(UNIT, "FragmentPath"),
            "/etc/systemd/system/tunnel-edge.service"
        );
        linked(&machine);
        new_login(&ssh);
        assert!(on_it(without).ends_with("run systemctl start tunnel-edge"));

        // A certificate in the place of the token.
        let own = world.pki.node("node-a", "node-A");
        machine.put("/etc/tunnel/tls/tls.crt", fs::read(own.cert).unwrap());
        machine.put("/etc/tunnel/tls/tls.key", fs::read(own.key).unwrap());
        machine.ask("rm", &["/etc/tunnel/token"]);
        let edited = between(&page, "```ini\n", "```");
        machine.put("/etc/systemd/system/tunnel-edge.service.d/override.conf", edited);
        let config = "node = { name = \"node-A\", token_file = \"\" }\ncloud = { addresses = [\"localhost:9000\"], \
                      cert = \"/etc/tunnel/tls/tls.crt\", key = \"$CREDENTIALS_DIRECTORY/tls.key\" }\n";
        machine.put("/etc/tunnel/edge.toml", config);
        machine.ask("systemctl", &["daemon-reload"]);
        machine.ask("systemctl", &["restart", UNIT]);
        linked(&machine);
        new_login(&ssh);
    });
}

/// What systemd thinks of the unit: of its words, and of what a service that was taken over could do.
#[test]
fn the_unit_is_understood_and_exposes_little() {
    let unit = repository("deploy/systemd/tunnel-edge.service");
    // The other test has a shorter one.
    let text = fs::read_to_string(&unit).unwrap();
    assert!(text.contains("\nWatchdogSec=30\n"));
    let mut analyze = Command::new(program("systemd-analyze", "systemd"));
    let output = analyze
        .args(["security", "--offline=true", "--threshold=20"])
        .arg(unit)
        .output()
        .unwrap();
    success("an exposure of at most 2.0", &output);
}

/// Where nobody would start it, it says so, and what to do.
#[test]
fn without_systemd_it_says_what_to_do() {
    // systemd's folder may be there outside.
    let output = Command::new(program("unshare", "util-linux"))
        .args([
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs tmpfs /run && exec \"$0\" install --cloud a:1",
        ])
        .arg(binary("tunnel-edge"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("neither systemd nor procd") && said.contains("--root DIR"),
        "{said}"
    );
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("tunnel-edge");
    fs::copy(binary("tunnel-edge"), &copy).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(program("setpriv", "util-linux"))
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["install", "--cloud", "a:1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("sudo") && said.contains("--dry-run"),
        "{said}"
    );
}

/// OpenWrt's script, against a stand-in for what sources it there: what it asks of procd.
#[test]
fn the_script_for_openwrt_asks_procd_for_what_it_needs() {
    let script = repository("deploy/openwrt/tunnel-edge.init");
    let text = fs::read_to_string(&script).unwrap();
    assert!(text.starts_with("#!/bin/sh /etc/rc.common\n"));
    let mut scripts = vec![script.clone()];
    for folder in ["debian", "openwrt"] {
        for file in fs::read_dir(repository("deploy/packages").join(folder)).unwrap() {
            scripts.push(file.unwrap().path());
        }
    }
    let output = Command::new(program("shellcheck", "shellcheck"))
        // rc.common reads what looks unused.
        .args(["--shell=dash", "--exclude=SC2034"])
        .args(&scripts)
        .output()
        .unwrap();
    success("shellcheck", &output);

    let start = |check: &str| {
        let stand_in = "for word in open_instance close_instance set_param; do \
             eval \"procd_$word() { echo $word \\\"\\$@\\\"; }\"; done; logger() { echo logger; }; \
             . \"$0\"; PROG=$1; echo \"$START $STOP $USE_PROCD\"; start_service";
        let output = Command::new("sh")
            .args(["-euc", stand_in])
            .arg(&script)
            .arg(check)
            .output();
        let output = output.unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (started, asked) = start("true");
    assert!(started, "{asked}");
    let expected = "95 05 1\nopen_instance\nset_param command true\nset_param respawn 3600 5 0\n\
                    set_param limits core=0 0 nofile=16384 16384\nset_param no_new_privs 1\nset_param stdout 1\n\
                    set_param stderr 1\nset_param term_timeout 30\nset_param file /etc/tunnel/edge.toml\nclose_instance\n";
    assert_eq!(asked, expected);
    // What can't run isn't begun.
    let (started, asked) = start("false");
    assert!(!started && asked == "95 05 1\nlogger\n", "{asked}");
}

/// One description, two kinds of packages, any architecture.
#[test]
fn packages_are_for_their_systems_and_the_same_each_time() {
    let world = World::new();
    let made: Vec<_> = ["one", "two"]
        .map(|dir| {
            let dir = world.path(dir);
            fs::create_dir(&dir).unwrap();
            let output = Command::new(repository("deploy/packages/pack"))
                .arg(&dir)
                .arg(binary("tunnel-edge"))
                .args(["arm64", "deb", "ipk"])
                .output();
            let output = output.unwrap();
            success("pack", &output);
            let names = String::from_utf8(output.stdout).unwrap();
            names.lines().map(PathBuf::from).collect::<Vec<_>>()
        })
        .into();
    assert_eq!(made[0].len(), 2, "{made:?}");
    for (one, two) in made[0].iter().zip(&made[1]) {
        assert!(
            fs::read(one).unwrap() == fs::read(two).unwrap(),
            "{one:?} differs from run to run"
        );
    }
    let [deb, ipk] = &made[0][..] else { panic!() };
    let ask = |name: &str, line: &[&str]| {
        let output = Command::new(name).args(line).output().unwrap();
        success(name, &output);
        String::from_utf8(output.stdout).unwrap()
    };
    let deb = deb.to_str().unwrap();
    assert_eq!(
        ask("dpkg-deb", &["-f", deb, "Architecture"]).trim(),
        "arm64"
    );
    let inside = ask("dpkg-deb", &["-c", deb]);
    assert!(
        inside.contains("./lib/systemd/system/tunnel-edge.service") && !inside.contains("init.d"),
        "{inside}"
    );
    assert_eq!(
        ask("dpkg-deb", &["-I", deb, "conffiles"]),
        "/etc/tunnel/edge.toml.example\n"
    );
    let data = ask(
        "sh",
        &[
            "-c",
            "tar -xzOf \"$0\" ./data.tar.gz | tar -tzv",
            ipk.to_str().unwrap(),
        ],
    );
    for line in [
        "-rwxr-xr-x root/root",
        "./etc/init.d/tunnel-edge",
        "./lib/upgrade/keep.d/tunnel-edge",
        "./usr/bin/tunnel-edge",
    ] {
        assert!(data.contains(line), "{line}: {data}");
    }
    assert!(!data.contains("systemd"), "{data}");
}

/// As an owner does, with what they were given.
fn set_up(machine: &Machine, world: &World, port: &str, sshd: &Sshd) {
    machine.put("/root/token", TOKEN);
    machine.put("/root/ca.crt", world.pki.ca_pem());
    // Short, so that the test needn't wait for half a minute.
    machine.put(
        "/etc/systemd/system/tunnel-edge.service.d/test.conf",
        "[Service]\nWatchdogSec=3\nRestartSec=100ms\n",
    );
    let said = machine.ask(
        "tunnel-edge",
        &[
            "install",
            "--node-name=node-A",
            &format!("--cloud=localhost:{port}"),
            "--token-file=/root/token",
            "--ca=/root/ca.crt",
            &format!("--set=targets.map.22={}", sshd.address()),
            "--set=heartbeat.interval=9s",
        ],
    );
    assert!(
        said.contains("write /etc/tunnel/token (mode 0600)"),
        "{said}"
    );
}

fn the_token_is_the_services_own(machine: &Machine, pid: u32) {
    let environment = about(machine, pid, "environ");
    let file = environment
        .split('\0')
        .find_map(|line| line.strip_prefix("TUNNEL_TOKEN_FILE="))
        .unwrap();
    assert_eq!(file, "/run/credentials/tunnel-edge.service/token");
    assert_eq!(machine.ask("cat", &[file]), TOKEN);
    let status = about(machine, pid, "status");
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    assert!(!line("Uid:").split_whitespace().any(|id| id == "0"));
    assert_eq!(line("CapBnd:"), "0000000000000000");
    assert_eq!(line("NoNewPrivs:"), "1");
    for path in [file, "/etc/tunnel/token"] {
        let others = machine.run(
            "setpriv",
            &["--reuid=nobody", "--clear-groups", "cat", path],
        );
        assert!(!others.status.success(), "{path}");
    }
}

/// It would find its cloud gone: the old one is as good as that, and stays.
fn a_new_one_without_a_link_changes_nothing(machine: &Machine, cloud: &Cloud, pid: u32) {
    cloud.process.signal(Signal::SIGSTOP);
    let refused = machine.run("systemctl", &["reload", UNIT]);
    cloud.process.signal(Signal::SIGCONT);
    assert!(!refused.status.success());
    assert_eq!(main_pid(machine), pid);
    assert!(machine.log(UNIT).contains("its link isn't up after 30 s"));
    linked(machine);
}

/// systemd hears nothing of it any more, ends it and starts another.
fn a_frozen_one_is_started_again(machine: &Machine, pid: u32) {
    machine.ask("kill", &["-STOP", &pid.to_string()]);
    wait_until("another one runs", secs(20), || {
        let now = main_pid(machine);
        now != pid && now != 0 && machine.show(UNIT, "ActiveState") == "active"
    });
    assert_eq!(machine.show(UNIT, "NRestarts"), "1");
    assert!(!is_there(machine, pid));
    linked(machine);
}

fn a_stop_waits_for_sessions(machine: &Machine, ssh: &Ssh) {
    let mut idle = Idle::start(ssh, TUNNEL_SSH);
    let pid = main_pid(machine);
    machine.ask("systemctl", &["stop", "--no-block", UNIT]);
    wait_until("it drains", secs(10), || {
        machine.show(UNIT, "StatusText") == "draining streams=1"
    });
    assert_eq!(machine.show(UNIT, "ActiveState"), "deactivating");
    idle.ask("draining");
    idle.finish();
    wait_until("it has stopped", secs(10), || {
        machine.show(UNIT, "ActiveState") == "inactive"
    });
    assert!(!is_there(machine, pid));
    assert_eq!(machine.show(UNIT, "Result"), "success");
}

fn new_login(ssh: &Ssh) {
    let output = ssh.login("nc", "echo new").output().unwrap();
    success("a new login", &output);
    assert_eq!(output.stdout, b"new\n");
}

fn linked(machine: &Machine) {
    wait_until("the service is linked", secs(20), || {
        machine.show(UNIT, "StatusText").ends_with("link=up")
    });
}

/// Of the service, as the machine numbers it.
fn main_pid(machine: &Machine) -> u32 {
    machine.show(UNIT, "MainPID").parse().unwrap()
}

fn about(machine: &Machine, pid: u32, file: &str) -> String {
    let path = machine.path(&format!("/proc/{pid}/{file}"));
    String::from_utf8(fs::read(path).unwrap_or_default()).unwrap()
}

fn is_there(machine: &Machine, pid: u32) -> bool {
    let status = about(machine, pid, "status");
    !status.is_empty() && !status.contains("\nState:\tZ")
}

/// Makes a package of this build.
fn pack(world: &World, release: &str) -> PathBuf {
    let dir = world.path(&format!("release-{release}"));
    fs::create_dir(&dir).unwrap();
    let output = Command::new(repository("deploy/packages/pack"))
        .arg(&dir)
        .arg(binary("tunnel-edge"))
        .env("PACKAGE_RELEASE", release)
        .output()
        .unwrap();
    success("pack", &output);
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}
