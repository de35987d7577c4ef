//! Sessions that outlive their link: the line between an edge and its cloud is cut under them.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tunnel_tests::client::Client;
use tunnel_tests::cutter::Cutter;
use tunnel_tests::metrics::Metrics;
use tunnel_tests::openssh::{Ssh, Sshd, TUNNEL_SSH, client_config, success};
use tunnel_tests::session::Idle;
use tunnel_tests::targets::{Shelf, Target};
use tunnel_tests::usage::Usage;
use tunnel_tests::wait::{is_long, secs, wait_until};
use tunnel_tests::world::TOKEN;
use tunnel_tests::{Cloud, Connect, Edge, World};

/// A cloud, an edge, and the line between them.
fn over_a_line(world: &World, target: &str) -> (Cloud, Edge, Cutter) {
    let cloud = world.cloud();
    let line = Cutter::to(&cloud.grpc);
    let settings = world
        .edge_settings("node-A", line.address(), target)
        .set("reconnect.max", "500ms");
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    (cloud, edge, line)
}

fn resumes(cloud: &Cloud) -> f64 {
    cloud.metrics().sum("resumes_total", &[])
}

#[test]
fn every_byte_comes_once_and_in_order_through_cuts() {
    let world = World::new();
    let echo = Target::echo();
    let (cloud, _edge, line) = over_a_line(&world, &echo.address());
    let mut open = cloud.open("node-A");
    let bytes: Vec<u8> = (0..16u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let (mut writer, sent) = (open.socket.try_clone().unwrap(), bytes.clone());
    let sending = thread::spawn(move || writer.write_all(&sent));
    let mut back = vec![0; bytes.len()];
    for (round, part) in back.chunks_mut(3 << 20).enumerate() {
        open.socket.read_exact(part).unwrap();
        if round < 5 {
            line.cut();
        }
    }
    sending.join().unwrap().unwrap();
    assert!(back == bytes);
    // A cut that finds the line down already is none; what the sockets held may have covered one.
    assert!(resumes(&cloud) >= 1.0, "{}", resumes(&cloud));
}

#[test]
fn an_ssh_session_outlives_its_link() {
    let world = World::new();
    let sshd = Sshd::start(&world);
    let (cloud, _edge, line) = over_a_line(&world, &sshd.address());
    let ssh = Ssh::new(&world, &cloud);
    thread::scope(|scope| {
        // The remote end waits for a word that is said only after the cut.
        let mut child = ssh
            .command("ssh")
            .args(["nc", "echo ready; read word; echo heard $word"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut ready = [0; 6];
        output.read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"ready\n");
        line.cut();
        wait_until("the stream is resumed", secs(20), || resumes(&cloud) >= 1.0);
        let mut input = child.stdin.take().unwrap();
        scope.spawn(move || input.write_all(b"you\n").unwrap());
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "heard you\n");
        success("ssh", &child.wait_with_output().unwrap());
    });
}

#[test]
fn with_resumption_off_a_session_ends_with_its_link() {
    let world = World::new();
    let echo = Target::echo();
    let cloud = world.cloud_with(world.cloud_settings().set("streams.resume", false));
    let line = Cutter::to(&cloud.grpc);
    let settings = world.edge_settings("node-A", line.address(), &echo.address());
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    let mut open = cloud.open("node-A");
    open.echo(b"hello");
    line.cut();
    assert!(open.ends(secs(10)), "it is over");
}

/// How long a stream without a way is kept, by whom the test tells.
const GRACE: Duration = secs(3);

/// The program as [`World::edge`] starts it, by a line, with the tests' grace.
fn edge_with_grace(world: &World, node: &str, line: &Cutter, target: &str) -> Edge {
    let settings = world
        .edge_settings(node, line.address(), target)
        .set("log.level", "info")
        .set("reconnect.max", "500ms")
        .set("streams.grace", text(GRACE));
    let mut edge = world.edge_with(node, settings);
    edge.process.wait_status("link", "up", secs(10));
    edge
}

fn text(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn expired(metrics: &Metrics) -> f64 {
    metrics.sum("streams_closed_total", &[("reason", "grace-expired")])
}

#[test]
fn a_login_whose_node_is_away_for_too_long_ends_clearly() {
    let world = World::new();
    let sshd = Sshd::start(&world);
    let settings = world.cloud_settings().set("streams.grace", text(GRACE));
    let cloud = world.cloud_with(settings);
    let line = Cutter::to(&cloud.grpc);
    let mut edge = edge_with_grace(&world, "node-A", &line, &sshd.address());
    let config = client_config(&world, &cloud.grpc, "alice-bearer-token");
    let mut file = File::options().append(true).open(&config).unwrap();
    writeln!(file, "grace = {:?}", text(GRACE)).unwrap();
    let ssh = Ssh::new(&world, &cloud).by_client(config);
    let kinds = ["nc", TUNNEL_SSH];
    let at_rest = [cloud.usage().fds, edge.usage().fds];
    let gone = |cloud: &Cloud, edge: &Edge| {
        wait_until("nothing is left", secs(20), || {
            cloud.streams() + edge.metrics().sum("streams", &[]) == 0.0 && sshd.open() == 0
        });
    };
    for kind in kinds {
        success(kind, &ssh.login(kind, "true").output().unwrap());
    }
    gone(&cloud, &edge);
    wait_until("the client's link is gone", secs(5), || {
        cloud.metrics().sum("links", &[]) == 1.0
    });
    // The last one's connection is a moment longer on its way out than it counts.
    let descriptors = |cloud: &Cloud, edge: &Edge| {
        wait_until("descriptors are back", secs(20), || {
            [cloud.usage().fds, edge.usage().fds] == at_rest
        });
    };
    descriptors(&cloud, &edge);
    let mut sessions = kinds.map(|kind| Idle::start(&ssh, kind));
    for session in &mut sessions {
        session.ask("before");
    }
    let held = Instant::now();
    line.hold();
    let ends = sessions.map(|session| session.ends(GRACE + secs(20)));
    assert!(held.elapsed() >= GRACE, "{:?}", held.elapsed());
    for (kind, (status, told)) in kinds.iter().zip(&ends) {
        println!("measured: {kind}, grace over: {status}, {told:?}");
        assert_eq!(status.code(), Some(255), "{kind}: {told}");
    }
    // nc itself has nothing to say; ssh does.
    assert!(!ends[0].1.is_empty());
    let told = &ends[1].1;
    assert!(told.contains("node-a was away for too long"), "{told}");
    // Both ends have given up by themselves: the line is still down.
    gone(&cloud, &edge);
    assert_eq!(expired(&edge.metrics()), 2.0);
    assert!(expired(&cloud.metrics()) >= 1.0);
    line.mend();
    edge.process.wait_status("link", "up", secs(10));
    descriptors(&cloud, &edge);
    for metrics in [cloud.metrics(), edge.metrics()] {
        assert_eq!(metrics.sum("buffered_bytes", &[]), 0.0);
    }
    for kind in kinds {
        success(kind, &ssh.login(kind, "true").output().unwrap());
    }
}

/// The user's end would go on for longer, and hears that there is nothing to go on with.
#[test]
fn what_the_edge_has_given_up_its_user_hears_of() {
    let world = World::new();
    let echo = Target::echo();
    let cloud = world.cloud();
    let line = Cutter::to(&cloud.grpc);
    let edge = edge_with_grace(&world, "node-A", &line, &echo.address());
    let mut client = Client::start(&world, &cloud.grpc, "node-A");
    let mut open = cloud.open("node-A");
    client.echo(b"before");
    open.echo(b"before");
    line.hold();
    wait_until("the edge has given them up", GRACE + secs(20), || {
        edge.metrics().sum("streams", &[]) == 0.0
    });
    line.mend();
    assert!(open.ends(secs(20)));
    let output = client.child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(255), "{told}");
    // What it heard last: the edge's last word, or, of a machine that is too slow for that, that there is none.
    let last = told.lines().last().unwrap_or_default();
    let clear = ["was away for too long", "lost the stream, try again"];
    assert!(clear.iter().any(|words| last.ends_with(words)), "{told}");
    wait_until("nothing is left", secs(20), || cloud.streams() == 0.0);
}

/// Many at once, again and again: what is there after the last time was there after the first.
#[test]
fn ten_thousand_streams_that_expire_leave_nothing() {
    const EDGES: usize = 10;
    let nodes: Vec<String> = (0..EDGES).map(|number| format!("many-{number}")).collect();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let world = World::new();
    let tokens: String = nodes
        .iter()
        .map(|node| format!("{node}:{TOKEN}\n"))
        .collect();
    world.write("tokens", &tokens);
    let settings = world
        .cloud_settings()
        .set("streams.grace", text(GRACE))
        .set("streams.buffers_bytes_max", 1 << 30)
        .set("limits.connects_max", 2 * EDGES as i64 * Shelf::ROOM as i64)
        .quiet();
    let cloud = world.cloud_with(settings);
    let line = Cutter::to(&cloud.grpc);
    let shelves: Vec<Shelf> = (0..EDGES).map(|_| Shelf::new()).collect();
    let mut edges: Vec<Edge> = nodes
        .iter()
        .zip(&shelves)
        .map(|(node, shelf)| {
            world.write(&format!("token-{node}"), TOKEN);
            edge_with_grace(&world, node, &line, &shelf.address())
        })
        .collect();
    let all = (EDGES * Shelf::ROOM) as f64;
    let usage = |edges: &[Edge]| -> Vec<Usage> {
        let edges = edges.iter().map(Edge::usage);
        std::iter::once(cloud.usage()).chain(edges).collect()
    };
    let descriptors =
        |edges: &[Edge]| -> Vec<usize> { usage(edges).iter().map(|one| one.fds).collect() };
    let at_rest = descriptors(&edges);
    let mut round = || {
        let start = Instant::now();
        let open = |nodes: &[String]| -> Vec<Connect> {
            let streams = nodes
                .iter()
                .flat_map(|node| (0..Shelf::ROOM).map(|_| cloud.open(node)));
            streams.collect()
        };
        let mut streams: Vec<Connect> = thread::scope(|scope| {
            let openers: Vec<_> = nodes
                .chunks(EDGES.div_ceil(2))
                .map(|nodes| scope.spawn(|| open(nodes)))
                .collect();
            openers
                .into_iter()
                .flat_map(|opener| opener.join().unwrap())
                .collect()
        });
        let opened = start.elapsed();
        line.hold();
        wait_until("all are detached", secs(20), || {
            cloud.metrics().sum("links", &[]) == 0.0
        });
        // To those that are still there: a slow machine may be late.
        let mut wrote = 0;
        for stream in &mut streams {
            wrote += usize::from(stream.socket.write_all(&[7; 1024]).is_ok());
        }
        let of_edges = |edges: &[Edge]| -> f64 {
            let streams = edges.iter().map(|edge| edge.metrics().sum("streams", &[]));
            streams.sum()
        };
        wait_until("all have expired", secs(60), || {
            cloud.streams() + of_edges(&edges) == 0.0
        });
        let expired = expired(&cloud.metrics());
        assert!(expired > 0.0 && expired % all == 0.0, "{expired}");
        for mut stream in streams {
            assert!(stream.ends(secs(20)), "a client's connection is kept");
        }
        for shelf in &shelves {
            assert_eq!(shelf.clear(), (Shelf::ROOM, Shelf::ROOM));
        }
        line.mend();
        for edge in &mut edges {
            edge.process.wait_status("link", "up", secs(20));
        }
        println!(
            "measured: {all} streams opened in {opened:.1?}, {wrote} with bytes that nobody took"
        );
        assert_eq!(cloud.metrics().sum("buffered_bytes", &[]), 0.0);
        // A try to connect that came to nothing is a moment longer on its way out.
        wait_until("descriptors are back", secs(20), || {
            descriptors(&edges) == at_rest
        });
        usage(&edges)
    };
    let rounds: Vec<Vec<Usage>> = (0..if is_long() { 5 } else { 2 })
        .map(|_| round())
        .collect();
    let (first, last) = (&rounds[rounds.len() / 4], &rounds[rounds.len() - 1]);
    let memory = |usage: &[Usage]| usage.iter().map(|one| one.private_kib).sum::<usize>();
    // Up to 4 MiB lie free at the end of the cloud's heap (malloc-trim), at one time and not at the other.
    for (name, before, after, margin_kib) in [
        ("cloud", &first[..1], &last[..1], 4096 + 2048),
        ("ten edges", &first[1..], &last[1..], 8192),
    ] {
        let (before_kib, after_kib) = (memory(before), memory(after));
        println!("measured: all expired, {name}: {before_kib} KiB, then {after_kib} KiB");
        assert!(after_kib <= before_kib + margin_kib, "{name}: {rounds:?}");
    }
}
