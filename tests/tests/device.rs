//! A small device's life: little memory, a clock that is wrong, a disk that takes nothing, names that come late, a line
//! that costs money. `./test device` puts the small edge into `TUNNEL_BIN_DIR`, which gives back what it has freed. Needs root.
//!
//! What was measured is printed in lines that begin with `measured:`; `./test device` shows them.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tunnel_tests::binaries::{binary, program};
use tunnel_tests::cgroup::MemoryGroup;
use tunnel_tests::dns::NameServer;
use tunnel_tests::metrics::Metrics;
use tunnel_tests::netns::{LINE, Networks, replica_address};
use tunnel_tests::pki::replace;
use tunnel_tests::targets::Target;
use tunnel_tests::wait::{is_long, secs, wait_until};
use tunnel_tests::world::{Settings, World};
use tunnel_tests::{Cloud, Connect, Edge};

const MIB: u64 = 1 << 20;

/// An edge by a command of the caller's, with its link up.
fn edge_by(world: &World, cloud: &Cloud, target: &Target, command: Command) -> Edge {
    let settings = world
        .edge_settings("node-A", &cloud.grpc, &target.address())
        .quiet();
    let mut edge = world.edge_by("node-A", settings, command);
    edge.process.wait_status("link", "up", secs(10));
    edge
}

/// What has ended leaves nothing in the edge's tables.
fn all_gone(edge: &Edge, streams: Vec<Connect>) {
    drop(streams);
    wait_until("streams are gone", secs(20), || {
        edge.metrics().sum("streams", &[]) == 0.0
    });
    assert_eq!(edge.metrics().sum("buffered_bytes", &[]), 0.0);
}

#[test]
fn two_hundred_streams_and_four_copies_hold_in_16_mib() {
    let group = MemoryGroup::new(16 * MIB);
    let (world, echo) = (World::new(), Target::echo());
    let cloud = world.cloud_with(world.cloud_settings().quiet());
    let command = group.command(&binary("tunnel-edge"));
    let edge = edge_by(&world, &cloud, &echo, command);
    let mut streams = cloud.idle_streams("node-A", 200);
    // Nobody reads what comes back at first: everything fills up that can, and has to wait.
    let bytes = if is_long() { 1024 * MIB } else { 48 * MIB };
    thread::scope(|scope| {
        for stream in streams.iter_mut().take(4) {
            scope.spawn(|| stream.there_and_back(bytes, secs(1)));
        }
    });
    for stream in &mut streams {
        stream.echo(b"still there");
    }
    println!(
        "measured: 200 streams, {} MiB there and back on four of them in a group of 16 MiB: {} KiB at most, the limit met {} times",
        bytes / MIB,
        group.peak_bytes() / 1024,
        group.met_its_limit(),
    );
    assert_eq!(group.killed(), 0, "a process was killed for want of memory");
    // By what it was promised and not by luck: a quarter for buffers, and what they may pin beside them.
    assert!(
        group.peak_bytes() <= 12 * MIB,
        "{} bytes",
        group.peak_bytes()
    );
    assert_eq!(
        edge.metrics().sum("links_opened_total", &[]),
        1.0,
        "the link was lost"
    );
    all_gone(&edge, streams);
}

#[test]
fn an_idle_stream_costs_little_and_nothing_adds_up() {
    let (world, echo) = (World::new(), Target::echo());
    let cloud = world.cloud_with(world.cloud_settings().quiet());
    let group = MemoryGroup::new(64 * MIB);
    let edge = edge_by(&world, &cloud, &echo, group.command(&binary("tunnel-edge")));
    // Without its program's pages, which are its own or shared by who else runs it just then.
    let own_kib = || edge.usage().private_kib;
    drop(cloud.idle_streams("node-A", 1)); // what the first stream alone needs
    let idle = own_kib();
    let mut rounds = Vec::new();
    for _ in 0..3 {
        let before = own_kib();
        let mut streams = cloud.idle_streams("node-A", 1000);
        let busy = own_kib();
        rounds.push(busy);
        assert!(
            busy <= before + 8 * 1000,
            "1,000 idle streams hold {} KiB",
            busy - before
        );
        streams[0].there_and_back(64 * MIB, Duration::ZERO);
        all_gone(&edge, streams);
        rounds.push(own_kib());
    }
    // Just after a copy it depends on what its last moments had in hand; what stays is what was not given back by and by.
    wait_until("what the rounds took is given back", secs(60), || {
        own_kib() <= idle + 1024
    });
    println!(
        "measured: KiB of the edge that are no program: {idle} idle; in three rounds with 1,000 idle streams, and after they and 64 MiB on one of them: {rounds:?}; once that is given back {}",
        own_kib(),
    );
    assert_eq!(group.killed(), 0, "a process was killed for want of memory");
}

/// A time as its certificate and a log have it.
fn from_now(seconds: i64) -> SystemTime {
    let now = SystemTime::now();
    match u64::try_from(seconds) {
        Ok(later) => now + secs(later),
        Err(_) => now - secs(seconds.unsigned_abs()),
    }
}

/// For the edge it is the same whether its clock is behind or the certificate is of tomorrow.
#[test]
fn a_certificate_that_is_not_valid_yet_is_told_with_both_times_until_it_is() {
    let world = World::new();
    let echo = Target::echo();
    let identity = world.cloud_identity();
    world
        .pki
        .cloud_between("cloud-1", from_now(5), from_now(3600));
    let cloud = world.cloud_with(world.cloud_settings().quiet());
    let settings = world
        .edge_settings("node-A", &cloud.grpc, &echo.address())
        .quiet();
    let mut edge = world.edge_with("node-A", settings);
    let told = [
        "is not valid yet: it holds from 20",
        "clock says 20",
        "clock is probably wrong",
    ];
    wait_until("the clock is named", secs(5), || {
        edge.process.log_lines(&told) > 0
    });
    edge.process.wait_status("link", "up", secs(20));
    cloud.open("node-A").echo(b"here");
    // The clock that is ahead: it would be over by now.
    drop(edge);
    world
        .pki
        .cloud_between("cloud-1", from_now(-7200), from_now(-3600));
    wait_until("the cloud has read it", secs(20), || {
        cloud.metrics().sum("reloads_total", &[("result", "ok")]) >= 1.0
    });
    let settings = world
        .edge_settings("node-A", &cloud.grpc, &echo.address())
        .quiet();
    let mut edge = world.edge_with("node-A", settings);
    let told = [
        "has expired: it held until 20",
        "clock says 20",
        "or the clock is wrong",
    ];
    wait_until("the clock is named", secs(10), || {
        edge.process.log_lines(&told) > 0
    });
    world.pki.cloud("cloud-1");
    edge.process.wait_status("link", "up", secs(30));
    cloud.open("node-A").echo(b"here");
    assert!(identity.cert.exists());
}

/// The edge's own: the cloud tells it by an alert, after a handshake that has succeeded for the edge.
#[test]
fn an_own_certificate_that_is_not_valid_yet_is_told_until_it_is() {
    let world = World::new();
    let echo = Target::echo();
    let cloud = world.cloud_with(world.cloud_settings().quiet());
    let identity = world
        .pki
        .node_between("node-A", "node-A", from_now(5), from_now(3600));
    let settings = world
        .edge_settings("node-A", &cloud.grpc, &echo.address())
        .quiet()
        .set("cloud.cert", identity.cert.to_str().unwrap())
        .set("cloud.key", identity.key.to_str().unwrap());
    let mut edge = world.edge_with("node-A", settings);
    let at_start = ["holds only from 20", "clock says 20"];
    assert!(edge.process.log_lines(&at_start) > 0, "a warning at start");
    let told = ["our certificate is not valid now", "clock over there"];
    wait_until("the clock is named", secs(5), || {
        edge.process.log_lines(&told) > 0
    });
    edge.process.wait_status("link", "up", secs(20));
    cloud.open("node-A").echo(b"here");
}

/// Bytes and packets that have gone over the edge's line, both ways, headers included.
fn on_the_line(networks: &Networks) -> (u64, u64) {
    networks.edge.enter(|| {
        let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let start = format!("{LINE}:");
        let mut lines = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix(&start));
        let numbers: Vec<u64> = lines
            .next()
            .unwrap()
            .split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect();
        (numbers[0] + numbers[8], numbers[1] + numbers[9])
    })
}

/// A heartbeat's cost doesn't depend on how often there is one: some in a short time, or with --long at the interval that is
/// meant.
#[test]
fn an_idle_day_costs_less_than_2_mb_at_30_s() {
    const A_DAY: u64 = 24 * 3600;
    let (interval, beats) = if is_long() { (30, 4) } else { (1, 8) };
    let (networks, world) = (Networks::new(), World::new());
    let beat = |settings: Settings| {
        settings
            .quiet()
            .set("heartbeat.interval", format!("{interval}s"))
    };
    let cloud = networks
        .cloud
        .enter(|| world.cloud_with(beat(world.cloud_settings_at(&replica_address(1)))));
    let settings = beat(world.edge_settings("node-A", &cloud.grpc, "127.0.0.1:22"));
    let edge = networks.edge.enter(|| {
        let mut edge = world.edge_with("node-A", settings);
        edge.process.wait_status("link", "up", secs(10));
        edge
    });
    // The kernel's own probes would cost as much again, and come only where heartbeats don't.
    let mut ss = Command::new(program("ss", "iproute2"));
    ss.args(["-tnoH", "state", "established", "dst", &replica_address(1)]);
    let mut shown = String::new();
    wait_until("nothing is under way", secs(5), || {
        let output = networks.edge.enter(|| ss.output().unwrap());
        shown = String::from_utf8_lossy(&output.stdout).into_owned();
        shown.contains("keepalive,")
    });
    let after = shown.split("keepalive,").nth(1).unwrap();
    let seconds = after.split("sec").next().unwrap().parse();
    assert!(seconds.is_ok_and(|seconds: u64| seconds > 30), "{shown}");
    // Whoever is first asks, and the other answers.
    let beaten = || {
        let count = |metrics: Metrics| metrics.sum("link_rtt_seconds_count", &[]);
        let at_edge = networks.edge.enter(|| count(edge.metrics()));
        at_edge + networks.cloud.enter(|| count(cloud.metrics()))
    };
    let link = on_the_line(&networks).0;
    let first = beaten();
    wait_until("the first heartbeat", secs(2 * interval + 2), || {
        beaten() > first
    });
    let (before, start) = (on_the_line(&networks), beaten());
    wait_until("heartbeats", secs((beats + 3) * interval), || {
        beaten() >= start + beats as f64
    });
    let after = on_the_line(&networks);
    let beats = (beaten() - start) as u64;
    let (bytes, packets) = (
        (after.0 - before.0) / beats,
        (after.1 - before.1) as f64 / beats as f64,
    );
    // Drawn up to a tenth earlier: by a twentieth in the middle, here by the whole of it.
    let a_day = bytes * A_DAY / 27;
    println!(
        "measured: a heartbeat every {interval} s costs {bytes} bytes in {packets:.1} packets: {:.2} MB in an idle day at 30 s; the link cost {link}",
        a_day as f64 / 1e6
    );
    assert!(a_day < 2_000_000, "{a_day} bytes a day");
}

/// A command that starts the edge by a shell: `before` may use `$0`, which is a path; what follows the program is redirection.
fn by_shell(before: &str, path: &Path, redirected: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    let script = format!("{before} exec \"$@\" {redirected}");
    let edge = binary("tunnel-edge");
    command.arg("-c").arg(script).arg(path).arg(edge);
    command
}

/// Streams that open, carry bytes and end, without a delay that a log could cause.
fn serves(cloud: &Cloud) {
    let start = Instant::now();
    for _ in 0..20 {
        let mut stream = cloud.open("node-A");
        stream.echo(&[7; 100_000]);
        stream.finish();
        assert!(stream.rest().unwrap().is_empty());
    }
    assert!(start.elapsed() < secs(10), "{:?}", start.elapsed());
}

/// A full disk, nobody, and somebody who doesn't read: of everything that the edge says, and of its audit records.
#[test]
fn a_log_that_nobody_takes_stops_no_session() {
    let (world, echo) = (World::new(), Target::echo());
    let cloud = world.cloud_with(world.cloud_settings().quiet());
    let pipe = world.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for case in ["full", "gone", "stuck"] {
        // Both ends at first, so that opening it waits for nobody.
        let both = File::options().read(true).write(true).open(&pipe).unwrap();
        let to = match case {
            "full" => Path::new("/dev/full"),
            _ => &pipe,
        };
        let settings = world
            .edge_settings("node-A", &cloud.grpc, &echo.address())
            .set("log.level", "trace,h2=trace")
            .set("log.audit", "stdout");
        let command = by_shell("", to, ">\"$0\" 2>&1");
        let mut edge = world.edge_by("node-A", settings, command);
        let reader = (case == "stuck").then_some(both); // else nobody
        edge.process.wait_status("link", "up", secs(10));
        serves(&cloud);
        assert_eq!(edge.metrics().sum("links_opened_total", &[]), 1.0, "{case}");
        let Some(mut reader) = reader else { continue };
        // It was full; whoever comes to read hears that something is missing.
        let mut read = String::new();
        let mut buffer = [0; 65_536];
        wait_until("missing lines are told", secs(10), || {
            let len = reader.read(&mut buffer).unwrap();
            read.push_str(&String::from_utf8_lossy(&buffer[..len]));
            let _ = cloud.open("node-A");
            read.contains("lines are missing here") && read.contains("lost_before")
        });
    }
}

/// Its state, if there were any, its audit records and its socket are on a disk that takes nothing: at start, while it runs,
/// and when it reads its files again.
#[test]
fn a_disk_that_takes_nothing_stops_no_session() {
    let (world, echo) = (World::new(), Target::echo());
    let cloud = world.cloud_with(world.cloud_settings().quiet());
    let disk = world.path("disk");
    fs::create_dir(&disk).unwrap();
    let audit = disk.join("audit.jsonl");
    let settings = world
        .edge_settings("node-A", &cloud.grpc, &echo.address())
        .set("log.audit", audit.to_str().unwrap())
        .set("admin.socket", disk.join("admin.sock").to_str().unwrap());
    // In a mount namespace of its own: the disk goes with the edge.
    let mut command = Command::new(program("unshare", "util-linux"));
    command.arg("--mount").arg("/bin/sh").arg("-c");
    command.arg("mount -t tmpfs -o ro,size=64k none \"$0\" && exec \"$@\"");
    command.arg(&disk).arg(binary("tunnel-edge"));
    let mut edge = world.edge_by("node-A", settings, command);
    edge.process.wait_status("link", "up", secs(10));
    let inside = |script: &str| {
        let mut command = Command::new(program("nsenter", "util-linux"));
        command.args(["--target", &edge.process.id().to_string(), "--mount"]);
        let status = command.args(["/bin/sh", "-c", script]).arg(&disk).status();
        assert!(status.unwrap().success(), "{script}");
    };
    let told =
        |words: &[&str]| wait_until(words[0], secs(10), || edge.process.log_lines(words) > 0);
    told(&["there is no admin socket", "Read-only file system"]);
    told(&["audit records can't be written", "Read-only file system"]);
    serves(&cloud);
    inside("mount -o remount,rw,size=64k \"$0\"");
    serves(&cloud);
    told(&["audit records are written again", "lost=20"]);
    inside("head -c 200000 /dev/zero >\"$0/fill\" 2>/dev/null || true");
    for _ in 0..10 {
        serves(&cloud);
    }
    told(&["audit records can't be written", "No space left"]);
    let reloads = || {
        let labels = [("file", "tls"), ("result", "ok")];
        edge.metrics().sum("reloads_total", &labels)
    };
    let before = reloads();
    let ca = world.pki.ca_pem() + "# the same, written again\n";
    replace(&world.pki.ca(), &ca);
    wait_until("files are read again", secs(10), || reloads() > before);
    inside("rm \"$0/fill\"");
    serves(&cloud);
    wait_until("records are written again", secs(10), || {
        edge.process.log_lines(&["audit records are written again"]) == 2
    });
    let path = format!("/proc/{}/root{}", edge.process.id(), audit.display());
    wait_until("each record is written or counted", secs(10), || {
        let text = fs::read_to_string(&path).unwrap();
        // Of one the disk had room for a part only.
        let records = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let count = |record: Value| 1 + record["lost_before"].as_u64().unwrap_or(0);
        records.map(count).sum::<u64>() == 13 * 20
    });
    assert_eq!(edge.metrics().sum("links_opened_total", &[]), 1.0);
}

/// A machine that is up before its network: no name server at first, one that can't be reached, then one that answers. Later
/// the name moves to another replica.
#[test]
fn names_that_come_late_and_change_are_found() {
    let (networks, world) = (Networks::new(), World::new());
    let clouds: Vec<Cloud> = [1, 2]
        .map(|number| {
            let address = format!("{}:9000", replica_address(number));
            let settings = world.cloud_settings_at(&replica_address(number));
            let settings = settings.quiet().set("grpc.listen", address);
            let command = Command::new(binary("tunnel-cloud"));
            let name = format!("cloud-{number}");
            networks
                .cloud
                .enter(|| world.cloud_by(&name, settings, command))
        })
        .into();
    let resolver = world.write("resolv.conf", "");
    let settings = world
        .edge_settings("node-A", "cloud.test:9000", "127.0.0.1:22")
        .quiet();
    let mut command = Command::new(program("unshare", "util-linux"));
    command.arg("--mount").arg("/bin/sh").arg("-c");
    command.arg("mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"");
    command.arg(&resolver).arg(binary("tunnel-edge"));
    let mut edge = networks
        .edge
        .enter(|| world.edge_by("node-A", settings, command));
    let refused = |edge: &Edge| edge.process.log_lines(&["the cloud could not be reached"]);
    wait_until("there is no name server", secs(10), || refused(&edge) >= 2);
    // In place, as a bind mount is of the file and not of its name.
    let options = "options timeout:1 attempts:1\n";
    fs::write(&resolver, format!("nameserver 10.77.0.99\n{options}")).unwrap();
    let before = refused(&edge);
    wait_until("it can't be reached", secs(20), || refused(&edge) > before);
    let address = |number| replica_address(number).parse().unwrap();
    let server = networks
        .edge
        .enter(|| NameServer::start("127.0.0.53:53", address(1)));
    fs::write(&resolver, format!("nameserver 127.0.0.53\n{options}")).unwrap();
    edge.process.wait_status("link", "up", secs(30));
    let links = |cloud: &Cloud| {
        networks
            .cloud
            .enter(|| cloud.metrics().sum("links", &[("kind", "edge")]))
    };
    assert_eq!(links(&clouds[0]), 1.0);
    server.now(address(2));
    let [mut first, second] = <[Cloud; 2]>::try_from(clouds).unwrap();
    first.process.kill();
    edge.process.wait_status("link", "up", secs(30));
    assert_eq!(links(&second), 1.0);
}
