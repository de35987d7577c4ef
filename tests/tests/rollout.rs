//! Replicas that are killed or replaced, and edges that are, under real SSH sessions: through `nc`, and by `tunnel ssh`.
//!
//! What was measured is printed in lines that begin with `measured:`; `./test rollout` shows them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tunnel_tests::cluster::Cluster;
use tunnel_tests::cutter::Cutter;
use tunnel_tests::http;
use tunnel_tests::metrics::Metrics;
use tunnel_tests::openssh::{Ssh, Sshd, TUNNEL_SSH};
use tunnel_tests::session::{Busy, Idle, measured};
use tunnel_tests::targets::Target;
use tunnel_tests::wait::{secs, wait_until};
use tunnel_tests::world::TOKEN;
use tunnel_tests::{Cloud, Connect, Edge, World};

/// A session may stand still for so long when its replica is killed, on a machine that is busy with the test itself.
const KILLED_STALL_MAX: Duration = secs(5);
/// The same when it is replaced in good order. What a user would notice is in the median.
const ROLLED_STALL_MAX: Duration = secs(5);
const ROLLED_MEDIAN_MAX: Duration = secs(1);
/// Sessions of each kind.
const SESSIONS: usize = 20;
/// Logins at once.
const LOGINS: usize = 4;

/// An edge of node-A that knows these replicas.
fn edge(world: &World, clouds: &[&Cloud], name: &str, target: &str) -> Edge {
    let addresses: Vec<String> = clouds.iter().map(|cloud| cloud.grpc.clone()).collect();
    let settings = world
        .edge_settings("node-A", &addresses[0], target)
        .set("cloud.addresses", addresses);
    let mut edge = world.edge_with(name, settings);
    edge.process.wait_status("link", "up", secs(20));
    edge
}

fn links(cloud: &Cloud, kind: &str) -> f64 {
    cloud.metrics().sum("links", &[("kind", kind)])
}

/// One for each replica's CONNECT; by links they all may go to any.
fn clients(world: &World, cluster: &Cluster) -> Vec<Ssh> {
    let grpc = cluster.replicas.iter().map(|cloud| cloud.grpc.as_str());
    let servers = grpc.collect::<Vec<_>>().join(",");
    let client = |cloud| Ssh::new(world, cloud).by_links(world, &servers);
    cluster.replicas.iter().map(client).collect()
}

/// Many logins, a few at a time.
fn logins(ssh: &[&Ssh], alias: &str) -> Vec<Busy> {
    let mut sessions = Vec::new();
    for some in ssh.chunks(LOGINS) {
        sessions.extend(thread::scope(|scope| {
            let starting: Vec<_> = some
                .iter()
                .map(|ssh| scope.spawn(|| Busy::start_quiet(ssh, alias)))
                .collect();
            let started = starting.into_iter().map(|session| session.join().unwrap());
            started.collect::<Vec<_>>()
        }));
    }
    sessions
}

/// Prints what these sessions have stood still for since this was last asked, and holds it against what is promised.
#[track_caller]
fn stalls<'a>(what: &str, sessions: impl IntoIterator<Item = &'a Busy>) {
    let mut stalls: Vec<Duration> = sessions.into_iter().map(Busy::stall).collect();
    stalls.sort_unstable();
    let (median, longest) = (stalls[stalls.len() / 2], stalls[stalls.len() - 1]);
    measured(
        &format!("{what}, {} sessions", stalls.len()),
        &[("stall median", median), ("longest", longest)],
    );
    assert!(longest <= ROLLED_STALL_MAX, "{what}: {stalls:?}");
    assert!(median <= ROLLED_MEDIAN_MAX, "{what}: {stalls:?}");
}

/// Waits until bytes that are sent from now on have come back in all of these sessions.
#[track_caller]
fn all_move<'a>(sessions: impl IntoIterator<Item = &'a Busy>) {
    let now = Instant::now();
    for session in sessions {
        session.moves_after(now, secs(30));
    }
}

fn forget_stalls<'a>(sessions: impl IntoIterator<Item = &'a Busy>) {
    for session in sessions {
        session.stall();
    }
}

#[test]
fn sessions_outlive_the_replica_that_serves_them() {
    let world = World::new();
    let sshd = Sshd::start(&world);
    let mut cluster = Cluster::start(&world, 3);
    let clouds: Vec<&Cloud> = cluster.replicas.iter().take(2).collect();
    let _edge = edge(&world, &clouds, "node-A", &sshd.address());
    cluster.wait_linked();
    // The operators' balancer: to the replica that serves the edge as long as it is there.
    let balancer = Cutter::before(&[]);
    let ssh = Ssh::new(&world, &cluster.replicas[2]).by_links(&world, balancer.address());
    drop(cluster.open(2, "node-A"));
    let mut serving = lead_to_serving(&cluster, &balancer);
    let mut sessions =
        ["nc", TUNNEL_SSH].map(|kind| (kind, Busy::start(&ssh, kind), Idle::start(&ssh, kind)));
    for round in 0..3 {
        wait_until("the operators are at that replica", secs(20), || {
            links(&cluster.replicas[serving], "client") == 2.0
        });
        for (_, busy, idle) in &mut sessions {
            idle.ask("before");
            all_move([&*busy]);
            busy.stall();
        }
        cluster.replicas[serving].process.kill();
        let killed_at = Instant::now();
        for (kind, busy, idle) in &mut sessions {
            let answer = idle.ask("after");
            busy.moves_after(killed_at + answer, secs(40));
            let stall = busy.stall();
            let way = match *kind {
                "nc" => "nc through another",
                _ => "tunnel ssh through that one",
            };
            measured(
                &format!("serving replica killed, {way}"),
                &[("stall", stall), ("idle session answers after", answer)],
            );
            assert!(
                stall <= KILLED_STALL_MAX && answer <= KILLED_STALL_MAX,
                "{kind}, round {round}"
            );
        }
        cluster.restart(&world, serving);
        cluster.wait_linked();
        serving = lead_to_serving(&cluster, &balancer);
        balancer.cut();
    }
    for (_, busy, idle) in sessions {
        assert!(busy.finish() > 0);
        idle.finish();
    }
}

/// New lines of operators go to the replica that has the edge's link, else to the third. Which it is.
fn lead_to_serving(cluster: &Cluster, balancer: &Cutter) -> usize {
    let mut serving = None;
    wait_until("the edge is linked", secs(20), || {
        serving = (0..2).find(|at| links(&cluster.replicas[*at], "edge") > 0.0);
        serving.is_some()
    });
    let serving = serving.unwrap();
    let grpc = [serving, 2].map(|at| cluster.replicas[at].grpc.clone());
    balancer.lead(&grpc);
    serving
}

#[test]
fn nobody_notices_that_all_replicas_are_replaced() {
    let world = World::new();
    let sshd = Sshd::start(&world);
    let mut cluster = Cluster::start_with(&world, 3, |_, _, settings| {
        settings
            .set("drain.max", "60s")
            .set("drain.jitter", "500ms")
    });
    let clouds: Vec<&Cloud> = cluster.replicas.iter().collect();
    let edge = edge(&world, &clouds, "node-A", &sshd.address());
    cluster.wait_linked();
    for at in 0..3 {
        drop(cluster.open(at, "node-A"));
    }
    let ssh = clients(&world, &cluster);
    let spread: Vec<&Ssh> = (0..SESSIONS).map(|number| &ssh[number % 3]).collect();
    let by_links = logins(&spread, TUNNEL_SSH);
    let of = |at: usize| {
        spread
            .iter()
            .copied()
            .skip(at)
            .step_by(3)
            .collect::<Vec<_>>()
    };
    let mut by_nc: Vec<Vec<Busy>> = (0..3).map(|at| logins(&of(at), "nc")).collect();
    let mut idle: Vec<Idle> = ssh.iter().map(|ssh| Idle::start(ssh, TUNNEL_SSH)).collect();
    for at in 0..3 {
        all_move(by_links.iter().chain(by_nc.iter().flatten()));
        forget_stalls(by_links.iter().chain(by_nc.iter().flatten()));
        let replica = &cluster.replicas[at];
        replica.process.signal(Signal::SIGTERM);
        wait_until("it is not ready", secs(5), || {
            http::get(&replica.admin, "/readyz").0 == 503
        });
        let refused = Connect::try_open(&replica.connect, "node-A:22").unwrap();
        assert_eq!(refused.unwrap_err().code(), 503);
        wait_until("edges and clients have left it", secs(30), || {
            links(replica, "edge") + links(replica, "client") == 0.0
        });
        all_move(by_links.iter().chain(by_nc.iter().flatten()));
        for idle in &mut idle {
            idle.ask("while it leaves");
        }
        stalls(&format!("replica {} leaves, tunnel ssh", at + 1), &by_links);
        stalls(
            &format!("replica {} leaves, nc", at + 1),
            by_nc.iter().flatten(),
        );
        // Those that it opened itself finish within `drain.max`; it waits for the last of them, and no longer.
        let own = std::mem::take(&mut by_nc[at]);
        assert!(!own.is_empty());
        for session in own {
            session.finish();
        }
        let exit = cluster.replicas[at].process.exit(secs(30));
        assert_eq!(exit.code(), Some(0));
        cluster.restart(&world, at);
        cluster.wait_linked();
        drop(cluster.open(at, "node-A"));
    }
    all_move(&by_links);
    let resumed = edge.metrics().sum("resumes_total", &[]);
    println!(
        "measured: three replicas replaced: {resumed} resumptions at the edge, no session lost"
    );
    for session in by_links {
        session.finish();
    }
    for idle in idle {
        idle.finish();
    }
    all_are_recorded(&world, &edge);
}

/// Wherever a stream went meanwhile: its end is recorded by its edge and, once each, by the replicas that it went through then.
fn all_are_recorded(world: &World, edge: &Edge) {
    wait_until("no stream is left", secs(20), || {
        edge.metrics().sum("streams", &[]) == 0.0
    });
    let at_edge = ends(&edge.audit);
    assert!(at_edge.len() >= 2 * SESSIONS, "{}", at_edge.len());
    let badly = at_edge.iter().find(|(.., reason)| reason != "done");
    assert_eq!(badly, None, "each ssh has ended by itself");
    let (mut missing, mut by_replica) = (at_edge.clone(), Vec::new());
    wait_until(
        "each stream's end is recorded in the cluster",
        secs(20),
        || {
            let files = (0..3).map(|at| world.path(&format!("audit-{at}.jsonl")));
            by_replica = files.map(|file| ends(&file)).collect();
            let told: BTreeSet<&End> = by_replica.iter().flatten().collect();
            let before = missing.len();
            missing.retain(|end| !told.contains(end));
            if missing.len() < before {
                println!("no replica has recorded {missing:?}");
            }
            missing.is_empty()
        },
    );
    for ends in by_replica {
        let topics: BTreeSet<&String> = ends.iter().map(|(topic, ..)| topic).collect();
        assert_eq!(topics.len(), ends.len(), "twice: {ends:?}");
    }
}

/// What both ends have to record alike: the topic, the bytes to the edge and from it, and the reason.
type End = (String, u64, u64, String);

fn ends(audit: &Path) -> Vec<End> {
    let records = fs::read_to_string(audit).unwrap_or_default();
    let records = records.lines().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| record[key].as_str().unwrap().to_owned();
        let number = |key: &str| record[key].as_u64().unwrap();
        let (to, from) = (number("bytes_to_edge"), number("bytes_from_edge"));
        (text("topic"), to, from, text("reason"))
    });
    records.collect()
}

/// Many edges are told to leave one by one, so that the next replica isn't met by all of them at once.
#[test]
fn edges_leave_a_replica_one_after_another() {
    const EDGES: usize = 20;
    const JITTER: Duration = secs(4);
    let world = World::new();
    let echo = Target::echo();
    let nodes: Vec<String> = (0..EDGES).map(|number| format!("many-{number}")).collect();
    let tokens: Vec<String> = nodes
        .iter()
        .map(|node| format!("{node}:{TOKEN}\n"))
        .collect();
    world.write("tokens", &tokens.concat());
    let cluster = Cluster::start_with(&world, 2, |_, _, settings| {
        settings.set("drain.jitter", format!("{}ms", JITTER.as_millis()))
    });
    cluster.wait_linked();
    let line = Cutter::to(&cluster.replicas[0].grpc);
    let edges: Vec<Edge> = nodes
        .iter()
        .map(|node| {
            world.write(&format!("token-{node}"), TOKEN);
            let settings = world.edge_settings(node, line.address(), &echo.address());
            let mut edge = world.edge_with(node, settings);
            edge.process.wait_status("link", "up", secs(20));
            edge
        })
        .collect();
    line.lead(&[cluster.replicas[1].grpc.clone()]);
    let mut open: Vec<Connect> = nodes.iter().map(|node| cluster.open(1, node)).collect();
    let leaves = &cluster.replicas[0];
    assert_eq!(links(leaves, "edge"), EDGES as f64);
    leaves.process.signal(Signal::SIGTERM);
    let start = Instant::now();
    let mut left: Vec<Duration> = Vec::new();
    wait_until("all edges have left it", JITTER + secs(20), || {
        let there = match Metrics::try_read(&leaves.admin) {
            Some(metrics) => metrics.sum("links", &[("kind", "edge")]),
            None => 0.0, // It has nothing left to stay for.
        };
        while left.len() < EDGES - there as usize {
            left.push(start.elapsed());
        }
        left.len() == EDGES
    });
    let (first, last) = (left[0], left[EDGES - 1]);
    measured(
        &format!(
            "{EDGES} edges leave within {:.0} s of jitter",
            JITTER.as_secs_f64()
        ),
        &[
            ("first after", first),
            ("median", left[EDGES / 2]),
            ("last", last),
        ],
    );
    // By chance alone one in a million of such runs has so many in a quarter of the time, or none in the second half.
    let most = left.iter().map(|from| {
        let until = *from + JITTER / 4;
        left.iter()
            .filter(|at| (*from..until).contains(*at))
            .count()
    });
    assert!(most.max().unwrap() <= 3 * EDGES / 4, "{left:?}");
    assert!(last >= JITTER / 2 && last <= JITTER + secs(3), "{left:?}");
    for (node, open) in nodes.iter().zip(&mut open) {
        open.echo(node.as_bytes());
    }
    drop(edges);
}

/// `first` tells whether the successor is there before its predecessor is told to leave, as with a DaemonSet that may surge.
fn an_edge_is_replaced(first: bool) {
    const WORD: &str = "the successor\n";
    let world = World::new();
    let sshd = Sshd::start(&world);
    let greeter = Target::greeter(WORD);
    let cluster = Cluster::start(&world, 2);
    let clouds: Vec<&Cloud> = cluster.replicas.iter().collect();
    let mut old = edge(&world, &clouds, "node-A", &sshd.address());
    cluster.wait_linked();
    for at in 0..2 {
        drop(cluster.open(at, "node-A"));
    }
    let ssh = clients(&world, &cluster);
    let half: Vec<&Ssh> = (0..SESSIONS / 2).map(|number| &ssh[number % 2]).collect();
    let mut sessions = logins(&half, "nc");
    sessions.extend(logins(&half, TUNNEL_SSH));
    forget_stalls(&sessions);
    let start = || edge(&world, &clouds, "node-A-new", &greeter.address());
    let new = if first {
        let new = start();
        old.process.signal(Signal::SIGTERM);
        new
    } else {
        old.process.signal(Signal::SIGTERM);
        start()
    };
    wait_until("the old one takes nothing new", secs(10), || {
        old.process.log_lines(&["takes nothing new"]) > 0
    });
    // Each new session is the successor's, whichever replica takes it.
    for cloud in &clouds {
        wait_until("new sessions go to the successor", secs(15), || {
            let Ok(Ok(mut open)) = Connect::try_open(&cloud.connect, "node-A:22") else {
                return false;
            };
            let mut said = [0; WORD.len()];
            open.socket.read_exact(&mut said).is_ok() && said == *WORD.as_bytes()
        });
    }
    all_move(&sessions);
    let what = match first {
        true => "edge replaced, its successor before it",
        false => "edge replaced, its successor after it",
    };
    stalls(what, &sessions);
    for session in sessions {
        session.finish();
    }
    assert_eq!(old.process.exit(secs(20)).code(), Some(0));
    drop(new);
}

#[test]
fn an_edge_that_leaves_keeps_its_sessions_beside_its_successor() {
    an_edge_is_replaced(false);
}

#[test]
fn an_edge_whose_successor_comes_first_keeps_its_sessions() {
    an_edge_is_replaced(true);
}

#[test]
fn a_replica_that_is_told_twice_ends_at_once() {
    let world = World::new();
    let echo = Target::echo();
    let mut cluster = Cluster::start(&world, 2);
    let clouds: Vec<&Cloud> = cluster.replicas.iter().skip(1).collect();
    let _edge = edge(&world, &clouds, "node-A", &echo.address());
    let mut open = cluster.open(0, "node-A");
    open.echo(b"before");
    let (admin, process) = (
        cluster.replicas[0].admin.clone(),
        &mut cluster.replicas[0].process,
    );
    process.signal(Signal::SIGTERM);
    wait_until("it drains", secs(5), || {
        http::get(&admin, "/readyz").0 == 503
    });
    open.echo(b"and goes on");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.exit(secs(5)).code(), Some(128 + 15));
    assert!(open.ends(secs(5)));
}
