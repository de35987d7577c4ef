//! What must hold under load and under faults: nothing leaks, nobody waits for another, everything comes back.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tunnel_tests::binaries::binary;
use tunnel_tests::connect::{dial, exchange, refusal};
use tunnel_tests::fake_edge::{EdgeOptions, FakeEdge, instance};
use tunnel_tests::openssh::{Ssh, Sshd, success};
use tunnel_tests::targets::{BlackHole, ClosedPort, Target};
use tunnel_tests::usage::Usage;
use tunnel_tests::wait::{is_long, millis, secs, wait_until};
use tunnel_tests::world::{Settings, TOKEN, World};
use tunnel_tests::{Cloud, Connect, Edge};

fn quiet_pair(world: &World, target: &str) -> (Cloud, Edge) {
    let cloud = world.cloud_with(world.cloud_settings().quiet());
    let mut edge = world.edge_with(
        "node-A",
        world.edge_settings("node-A", &cloud.grpc, target).quiet(),
    );
    edge.process.wait_status("link", "up", secs(10));
    (cloud, edge)
}

/// Descriptors, threads, streams and memory are where they were.
#[track_caller]
fn settled(cloud: &Cloud, edge: &Edge, before: [Usage; 2]) {
    wait_until("streams are gone", secs(20), || {
        cloud.streams() == 0.0 && edge.metrics().sum("streams", &[]) == 0.0
    });
    wait_until("descriptors are back", secs(20), || {
        cloud.usage().fds <= before[0].fds + 2 && edge.usage().fds <= before[1].fds + 2
    });
    for (name, before, after) in [
        ("cloud", before[0], cloud.usage()),
        ("edge", before[1], edge.usage()),
    ] {
        assert!(
            after.threads <= before.threads + 2,
            "{name}: {before:?} became {after:?}"
        );
        assert!(
            after.private_kib <= before.private_kib + 4096,
            "{name}: {before:?} became {after:?}"
        );
        eprintln!("{name}: {before:?} became {after:?}");
    }
    for metrics in [cloud.metrics(), edge.metrics()] {
        assert_eq!(metrics.sum("buffered_bytes", &[]), 0.0);
    }
}

#[test]
fn ten_thousand_connections_leave_nothing() {
    let world = World::new();
    let echo = Target::echo();
    let (cloud, edge) = quiet_pair(&world, &echo.address());
    let some = |count: usize| {
        for n in 0..count {
            let mut open = cloud.open("node-A");
            open.echo(b"hello");
            // All ways to end: ours first, the target's after it, and a reset with bytes on their way.
            if n % 2 == 0 {
                open.finish();
                assert!(open.rest().unwrap().is_empty());
            }
        }
    };
    some(1000); // pools, allocator and tables have their size now
    wait_until("streams are gone", secs(20), || cloud.streams() == 0.0);
    let before = [cloud.usage(), edge.usage()];
    let start = Instant::now();
    some(10_000);
    eprintln!("10,000 connections in {:?}", start.elapsed());
    settled(&cloud, &edge, before);
    assert_eq!(
        cloud
            .metrics()
            .sum("connect_replies_total", &[("code", "200")]),
        11_000.0
    );
}

#[test]
fn failed_dials_leave_nothing() {
    let world = World::new();
    let (closed, hole) = (ClosedPort::new(), BlackHole::new());
    let cloud = world.cloud_with(world.cloud_settings().quiet());
    let settings = world
        .edge_settings("node-A", &cloud.grpc, &closed.address())
        .quiet()
        .set("targets.map.23", hole.address())
        .set("targets.dial_timeout", "1s");
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    let refuse = |count: usize| {
        for _ in 0..count {
            assert_eq!(
                refusal(&cloud.connect, "CONNECT node-A:22 HTTP/1.1\r\n\r\n").code(),
                502
            );
        }
    };
    // Clients that leave while the edge still dials.
    let vanish = |count: usize| {
        for _ in 0..count {
            let mut socket = dial(&cloud.connect).unwrap();
            socket
                .write_all(b"CONNECT node-A:23 HTTP/1.1\r\n\r\n")
                .unwrap();
        }
    };
    refuse(300);
    vanish(100);
    wait_until("streams are gone", secs(20), || {
        cloud.streams() == 0.0 && edge.metrics().sum("streams", &[]) == 0.0
    });
    let before = [cloud.usage(), edge.usage()];
    let (refusals, vanishings) = if is_long() { (10_000, 100) } else { (3000, 10) };
    refuse(refusals);
    for _ in 0..vanishings {
        vanish(100);
        wait_until("streams are gone", secs(20), || {
            cloud.streams() == 0.0 && edge.metrics().sum("streams", &[]) == 0.0
        });
    }
    settled(&cloud, &edge, before);
}

#[test]
fn an_edge_that_goes_away_in_mid_dial_leaves_nothing() {
    let world = World::new();
    let hole = BlackHole::new();
    let cloud = world.cloud();
    let before = cloud.usage();
    for _ in 0..5 {
        let mut edge = world.edge(&cloud, "node-A", &hole.address());
        let clients: Vec<TcpStream> = (0..20)
            .map(|_| {
                let mut socket = dial(&cloud.connect).unwrap();
                socket
                    .write_all(b"CONNECT node-A:22 HTTP/1.1\r\n\r\n")
                    .unwrap();
                socket
            })
            .collect();
        wait_until("dials are under way", secs(5), || {
            edge.metrics().sum("streams", &[("state", "dialing")]) == 20.0
        });
        edge.process.kill();
        for mut client in clients {
            let reply = tunnel_tests::connect::read_refusal(&mut client);
            assert!([503, 504].contains(&reply.code()), "{reply:?}");
        }
    }
    wait_until("streams are gone", secs(10), || cloud.streams() == 0.0);
    wait_until("descriptors are back", secs(10), || {
        cloud.usage().fds <= before.fds + 2
    });
}

/// Round trips of one byte, turn by turn over all streams, in µs: the median and the 99th percentile.
fn round_trips(streams: &mut [Connect], rounds: usize) -> (u128, u128) {
    let mut times = Vec::with_capacity(streams.len() * rounds);
    let mut byte = [0];
    for _ in 0..rounds {
        for stream in streams.iter_mut() {
            let start = Instant::now();
            stream.socket.write_all(b"x").unwrap();
            stream.socket.read_exact(&mut byte).unwrap();
            times.push(start.elapsed().as_micros());
        }
    }
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

#[test]
fn one_reader_that_stops_harms_itself_only() {
    const WINDOW: usize = 4 << 20;
    let world = World::new();
    let target = Target::many_sided();
    let cloud = world.cloud_with(
        world
            .cloud_settings()
            .quiet()
            .set("streams.window_bytes_max", WINDOW as i64),
    );
    let settings = world
        .edge_settings("node-A", &cloud.grpc, &target.address())
        .quiet()
        .set("streams.window_bytes_max", WINDOW as i64);
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    let mut others: Vec<Connect> = (0..50)
        .map(|_| {
            let mut open = cloud.open("node-A");
            open.socket.write_all(b"e").unwrap();
            open.echo(b"ready");
            open
        })
        .collect();
    round_trips(&mut others, 20);
    let before = [cloud.usage(), edge.usage()];
    // A machine that others use, too, is given three tries; a tunnel that stalls fails them all.
    let mut tries = Vec::new();
    let good = (0..3).any(|_| {
        let (mut idle, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            idle.push(round_trips(&mut others, 40).1);
            let sent = target.sent();
            let mut stuck = cloud.open("node-A");
            stuck.socket.write_all(b"s").unwrap();
            stalled(&target, sent);
            beside.push(round_trips(&mut others, 40).1);
            for (name, before, now) in [
                ("cloud", before[0], cloud.usage()),
                ("edge", before[1], edge.usage()),
            ] {
                let grown = now.private_kib.saturating_sub(before.private_kib);
                assert!(grown <= WINDOW / 1024 + 4096, "{name} grew by {grown} KiB");
            }
            drop(stuck);
            wait_until("the stuck stream is gone", secs(10), || {
                cloud.streams() == 50.0
            });
        }
        idle.sort_unstable();
        beside.sort_unstable();
        tries.push((idle[2], beside[2]));
        beside[2] <= 2 * idle[2]
    });
    eprintln!("p99 in µs, idle and beside a reader that stopped: {tries:?}");
    assert!(
        good,
        "p99 in µs, idle and beside a reader that stopped: {tries:?}"
    );
}

/// Waits until no further byte is taken for a stream that isn't read.
fn stalled(target: &Target, before: u64) {
    let mut last = before;
    let mut since = Instant::now();
    wait_until("the stream stalls", secs(20), || {
        if target.sent() != last {
            (last, since) = (target.sent(), Instant::now());
        }
        last > before && since.elapsed() > millis(200)
    });
}

#[test]
fn a_target_that_stops_reading_harms_itself_only() {
    let world = World::new();
    let target = Target::many_sided();
    let (cloud, edge) = quiet_pair(&world, &target.address());
    let mut other = cloud.open("node-A");
    other.socket.write_all(b"e").unwrap();
    let before = [cloud.usage(), edge.usage()];
    let mut stuck = cloud.open("node-A");
    stuck.socket.write_all(b"h").unwrap();
    stuck.socket.set_write_timeout(Some(secs(1))).unwrap();
    let block = vec![0; 65_536];
    let mut sent = 0usize;
    while sent < 256 << 20 && stuck.socket.write_all(&block).is_ok() {
        sent += block.len();
    }
    assert!(
        sent < 64 << 20,
        "{sent} bytes were taken for a target that reads nothing"
    );
    let start = Instant::now();
    other.echo(b"at once");
    assert!(start.elapsed() < millis(500), "{:?}", start.elapsed());
    for (before, after) in [(before[0], cloud.usage()), (before[1], edge.usage())] {
        assert!(
            after.private_kib < before.private_kib + 24 * 1024,
            "{before:?} became {after:?}"
        );
    }
}

#[test]
fn a_target_that_swallows_syns_stalls_nobody() {
    let world = World::new();
    let (echo, hole) = (Target::echo(), BlackHole::new());
    let cloud = world.cloud();
    let settings = world
        .edge_settings("node-A", &cloud.grpc, &echo.address())
        .set("targets.map.23", hole.address());
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    let mut open = cloud.open("node-A");
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let front = cloud.connect.clone();
            thread::spawn(move || {
                let start = Instant::now();
                let reply = refusal(&front, "CONNECT node-A:23 HTTP/1.1\r\n\r\n");
                (reply, start.elapsed())
            })
        })
        .collect();
    wait_until("the edge dials into the hole", secs(5), || {
        edge.metrics().sum("streams", &[("state", "dialing")]) == 20.0
    });
    let mut slowest = Duration::ZERO;
    while !clients.iter().all(thread::JoinHandle::is_finished) {
        let start = Instant::now();
        open.echo(b"x");
        cloud.open("node-A").echo(b"y");
        slowest = slowest.max(start.elapsed());
    }
    assert!(slowest < secs(1), "somebody waited {slowest:?}");
    for client in clients {
        let (reply, took) = client.join().unwrap();
        assert_eq!(reply.code(), 504, "{reply:?}");
        assert!(
            (4000..6500).contains(&took.as_millis()),
            "504 after {took:?}"
        );
    }
}

#[test]
fn a_flood_against_128_descriptors_passes() {
    let world = World::new();
    let echo = Target::echo();
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -n 128 && exec \"$0\" \"$@\""])
        .arg(binary("tunnel-cloud"));
    let cloud = world.cloud_by("cloud", world.cloud_settings().quiet(), limited);
    let mut edge = world.edge_with(
        "node-A",
        world
            .edge_settings("node-A", &cloud.grpc, &echo.address())
            .quiet(),
    );
    edge.process.wait_status("link", "up", secs(10));
    let mut open = cloud.open("node-A");
    let flood: Vec<TcpStream> = (0..300).filter_map(|_| dial(&cloud.connect).ok()).collect();
    wait_until("its descriptors are used up", secs(10), || {
        cloud.usage().fds >= 126
    });
    // An open stream goes on, and the accept loop neither ends nor spins.
    open.echo(b"through the flood");
    let spent = cpu_ticks(cloud.process.id());
    thread::sleep(secs(1)); // a second to measure, not to wait for something
    let spent = cpu_ticks(cloud.process.id()) - spent;
    assert!(spent < 50, "{spent} ticks of CPU in a second of being full");
    drop(flood);
    let start = Instant::now();
    wait_until("service is back", secs(10), || {
        exchange(&cloud.connect, "CONNECT node-A:22 HTTP/1.1\r\n\r\n")
            .is_ok_and(|(_, reply)| reply.code() == 200)
    });
    assert!(
        start.elapsed() < secs(1),
        "back after {:?}",
        start.elapsed()
    );
    assert!(
        cloud.metrics().sum("accept_errors_total", &[]) > 0.0,
        "EMFILE is counted"
    );
    open.echo(b"still");
}

/// CPU time of a process in ticks of 10 ms.
fn cpu_ticks(id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_login_works_within_two_seconds_of_a_killed_clouds_return() {
    let world = World::new();
    let sshd = Sshd::start(&world);
    let mut cloud = world.cloud();
    let mut edge = world.edge(&cloud, "node-A", &sshd.address());
    let (grpc, connect) = (cloud.grpc.clone(), cloud.connect.clone());
    let ssh = Ssh::new(&world, &cloud);
    for _ in 0..5 {
        success("before", &ssh.run("nc", "true"));
        cloud.process.kill();
        edge.process.wait_status("link", "down", secs(5));
        drop(cloud);
        let settings = world
            .cloud_settings()
            .set("grpc.listen", grpc.clone())
            .set("limits.node_wait", "3s");
        let settings = settings.set("connect", vec![listener(&connect)]);
        cloud = world.cloud_with(settings);
        let back = Instant::now();
        let output = ssh.run("nc", "echo again");
        success("a login after the cloud's return", &output);
        assert!(back.elapsed() < secs(2), "it took {:?}", back.elapsed());
        edge.process.wait_status("link", "up", secs(2));
    }
}

fn listener(address: &str) -> toml::Value {
    let mut table = toml::Table::new();
    table.insert("listen".into(), address.into());
    table.insert("tls".into(), "off".into());
    table.insert("auth".into(), "none".into());
    toml::Value::Table(table)
}

#[test]
fn of_two_edges_with_one_name_the_newest_has_it() {
    let world = World::new();
    let (one, two) = (Target::greeter("one"), Target::greeter("two"));
    let cloud = world.cloud();
    let who = |cloud: &Cloud| {
        let mut open = cloud.open("node-A");
        let mut name = [0; 3];
        open.socket.read_exact(&mut name).unwrap();
        String::from_utf8_lossy(&name).into_owned()
    };
    let mut first = world.edge(&cloud, "node-A", &one.address());
    assert_eq!(who(&cloud), "one");
    let settings = world.edge_settings("node-A", &cloud.grpc, &two.address());
    let mut second = world.edge_with("the-second-node-A", settings);
    second.process.wait_status("link", "up", secs(5));
    first.process.wait_status("link", "down", secs(5));
    assert_eq!(who(&cloud), "two");
    // The older one's late end takes nothing away.
    first.process.kill();
    for _ in 0..20 {
        assert_eq!(who(&cloud), "two");
    }
    assert_eq!(cloud.metrics().sum("links", &[("kind", "edge")]), 1.0);

    // The same to the message: an older instance is told ABORTED, a newer link of one instance replaces nothing.
    let link = |id: &str, n: u32| {
        let options = EdgeOptions::version_1("node-B", TOKEN, &format!("{id}.{n}"));
        FakeEdge::connect(&world, &cloud.grpc, &options).unwrap()
    };
    let same = instance(1);
    let id = same.split('.').next().unwrap();
    let older = link(id, 1);
    let newer = link(id, 2);
    let _other = link("0b5c7e52-9d1f-4f4e-8a57-3c1e7c3a9d10", 1);
    for replaced in [older, newer] {
        let status = replaced.wire.end(secs(5)).expect("an error");
        assert_eq!(status.code(), tonic::Code::Aborted, "{status:?}");
        assert!(status.message().contains("replaced"), "{status:?}");
    }
}

#[test]
fn a_frozen_edge_is_noticed_and_a_thawed_one_comes_back() {
    use nix::sys::signal::Signal;
    let world = World::new();
    let echo = Target::echo();
    let beats = |settings: Settings| {
        settings
            .set("heartbeat.interval", "1s")
            .set("heartbeat.probe", "200ms")
    };
    let cloud = world.cloud_with(beats(world.cloud_settings()));
    let mut edge = world.edge_with(
        "node-A",
        beats(world.edge_settings("node-A", &cloud.grpc, &echo.address())),
    );
    edge.process.wait_status("link", "up", secs(10));
    edge.process.signal(Signal::SIGSTOP);
    wait_until("the cloud notices", secs(10), || {
        cloud.metrics().sum("links", &[("kind", "edge")]) == 0.0
    });
    let reply = refusal(&cloud.connect, "CONNECT node-A:22 HTTP/1.1\r\n\r\n");
    assert_eq!(reply.code(), 503, "{reply:?}");
    edge.process.signal(Signal::SIGCONT);
    wait_until("it is back", secs(10), || {
        exchange(&cloud.connect, "CONNECT node-A:22 HTTP/1.1\r\n\r\n")
            .is_ok_and(|(_, reply)| reply.code() == 200)
    });
}

#[test]
fn limits_on_streams_and_on_waiting_connects_are_kept() {
    let world = World::new();
    let (echo, hole) = (Target::echo(), BlackHole::new());
    let settings = world
        .cloud_settings()
        .set("limits.streams_per_link_max", 10)
        .set("limits.pending_per_node_max", 5);
    let cloud = world.cloud_with(settings);
    let settings = world
        .edge_settings("node-A", &cloud.grpc, &echo.address())
        .set("targets.map.23", hole.address());
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    let waiting: Vec<TcpStream> = (0..5)
        .map(|_| {
            let mut socket = dial(&cloud.connect).unwrap();
            socket
                .write_all(b"CONNECT node-A:23 HTTP/1.1\r\n\r\n")
                .unwrap();
            socket
        })
        .collect();
    wait_until("five wait", secs(5), || cloud.streams() == 5.0);
    let reply = refusal(&cloud.connect, "CONNECT node-A:22 HTTP/1.1\r\n\r\n");
    assert_eq!(
        (reply.code(), reply.header("Retry-After").is_some()),
        (503, true),
        "{reply:?}"
    );
    drop(waiting);
    wait_until("none waits", secs(10), || cloud.streams() == 0.0);
    let open: Vec<Connect> = (0..10).map(|_| cloud.open("node-A")).collect();
    let reply = refusal(&cloud.connect, "CONNECT node-A:22 HTTP/1.1\r\n\r\n");
    assert_eq!(reply.code(), 503, "{reply:?}");
    assert!(
        cloud
            .metrics()
            .sum("connect_replies_total", &[("reason", "over-limit")])
            >= 2.0
    );
    drop(open);
    wait_until("room is back", secs(10), || {
        exchange(&cloud.connect, "CONNECT node-A:22 HTTP/1.1\r\n\r\n")
            .is_ok_and(|(_, reply)| reply.code() == 200)
    });
}

#[test]
fn an_idle_session_lives() {
    let world = World::new();
    let echo = Target::echo();
    // Ten minutes with the defaults; else as many heartbeats in a few seconds.
    let beats = |settings: Settings| match is_long() {
        true => settings,
        false => settings
            .set("heartbeat.interval", "100ms")
            .set("heartbeat.probe", "100ms"),
    };
    let cloud = world.cloud_with(beats(world.cloud_settings()));
    let settings = beats(world.edge_settings("node-A", &cloud.grpc, &echo.address()));
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    let mut open = cloud.open("node-A");
    open.echo(b"before");
    thread::sleep(secs(if is_long() { 600 } else { 6 })); // idleness is what is tested
    open.echo(b"after");
    let opened = cloud
        .metrics()
        .sum("links_opened_total", &[("result", "ok")]);
    assert_eq!(opened, 1.0, "the same link all the time");
}

#[test]
fn both_ends_copy_by_what_their_processor_is_quick_at() {
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let first = processors.split("\n\n").next().unwrap();
    let slow_at_it = cfg!(all(target_arch = "x86_64", target_env = "gnu"))
        && first.contains("AuthenticAMD")
        && first.contains(" erms");
    let world = World::new();
    let (cloud, edge) = quiet_pair(&world, "127.0.0.1:9");
    for (name, process) in [("cloud", &cloud.process), ("edge", &edge.process)] {
        let environment = std::fs::read(format!("/proc/{}/environ", process.id())).unwrap();
        let told = String::from_utf8_lossy(&environment)
            .contains("GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=0x10000000");
        assert_eq!(told, slow_at_it, "the {name}, on\n{first}");
    }
}
