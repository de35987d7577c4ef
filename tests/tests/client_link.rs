//! `tunnel connect` by a link of its own (`grpcs://`): what comes of it when lines, replicas and edges go.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tunnel_tests::client::Client;
use tunnel_tests::cutter::Cutter;
use tunnel_tests::targets::Target;
use tunnel_tests::wait::{millis, secs, wait_until};
use tunnel_tests::{Cloud, Edge, World};

/// An echo behind an edge, and the edge's cloud.
fn echoing(world: &World) -> (Target, Cloud, Edge) {
    let echo = Target::echo();
    let cloud = world.cloud();
    let settings = world
        .edge_settings("node-A", &cloud.grpc, &echo.address())
        .set("reconnect.max", "500ms");
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    (echo, cloud, edge)
}

fn noise(bytes: u32) -> Vec<u8> {
    (0..bytes)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

#[test]
fn bytes_and_both_ends_come_through() {
    let world = World::new();
    let (_echo, cloud, _edge) = echoing(&world);
    // The node's name in any spelling, as ssh gives it.
    let mut client = Client::start(&world, &cloud.grpc, "NODE-a");
    let bytes = noise(8 << 20);
    let (mut stdin, sent) = (client.child.stdin.take().unwrap(), bytes.clone());
    let sending = thread::spawn(move || stdin.write_all(&sent).unwrap());
    let (back, error, status) = client.finish();
    sending.join().unwrap();
    assert_eq!((error.as_str(), status.code()), ("", Some(0)));
    assert!(back == bytes);
    wait_until("no stream is left", secs(5), || cloud.streams() == 0.0);
}

#[test]
fn a_cut_line_costs_no_byte() {
    let world = World::new();
    let (_echo, cloud, _edge) = echoing(&world);
    let line = Cutter::to(&cloud.grpc);
    let mut client = Client::start(&world, line.address(), "node-A");
    let bytes = noise(24 << 20);
    let (mut stdin, sent) = (client.child.stdin.take().unwrap(), bytes.clone());
    let sending = thread::spawn(move || stdin.write_all(&sent).unwrap());
    let mut stdout = client.child.stdout.take().unwrap();
    let mut back = vec![0; bytes.len()];
    for (round, part) in back.chunks_mut(4 << 20).enumerate() {
        stdout.read_exact(part).unwrap();
        if round < 5 {
            line.cut();
        }
    }
    sending.join().unwrap();
    assert!(back == bytes);
    let (_, error, status) = client.finish();
    assert_eq!((error.as_str(), status.code()), ("", Some(0)));
}

#[test]
fn a_hundred_cuts_and_the_session_moves_within_a_second_of_each() {
    let world = World::new();
    let (_echo, cloud, _edge) = echoing(&world);
    let line = Cutter::to(&cloud.grpc);
    let mut client = Client::start(&world, line.address(), "node-A");
    client.echo(b"first");
    let mut stalls: Vec<Duration> = (0..100)
        .map(|_| {
            line.cut();
            let cut = Instant::now();
            client.echo(b"word");
            let stalled = cut.elapsed();
            // Frequent, but not one upon the other.
            thread::sleep(millis(20));
            stalled
        })
        .collect();
    stalls.sort();
    println!("stalls: median {:?}, p99 {:?}", stalls[50], stalls[98]);
    assert!(stalls[98] <= secs(1), "{stalls:?}");
}

#[test]
fn the_replica_may_be_killed_and_started_again() {
    let world = World::new();
    let (_echo, mut cloud, _edge) = echoing(&world);
    let grpc = cloud.grpc.clone();
    let mut client = Client::start(&world, &grpc, "node-A");
    client.echo(b"before");
    cloud.process.kill();
    let stdin = client.child.stdin.as_mut().unwrap();
    stdin.write_all(b"while it is away").unwrap();
    // Long enough for a word about it.
    thread::sleep(secs(4));
    let cloud = world.cloud_with(world.cloud_settings().set("grpc.listen", grpc));
    let back = Instant::now();
    let mut heard = [0; 16];
    let stdout = client.child.stdout.as_mut().unwrap();
    stdout.read_exact(&mut heard).unwrap();
    println!("the session moved {:?} after the restart", back.elapsed());
    assert_eq!(&heard, b"while it is away");
    client.echo(b"after");
    let (_, error, status) = client.finish();
    assert_eq!(status.code(), Some(0));
    assert_eq!(error.matches("reconnecting").count(), 1, "{error}");
    assert_eq!(error.matches("connected again").count(), 1, "{error}");
    drop(cloud);
}

#[test]
fn refusals_are_one_clear_line() {
    let world = World::new();
    let (_echo, cloud, _edge) = echoing(&world);
    let cases = [
        ("wrong", "node-A", "does not take this token"),
        ("bob-bearer-token", "node-A", "may not reach"),
        ("alice-bearer-token", "node-C", "offline"),
        ("alice-bearer-token", "node-no-one-has", "known"),
        ("bob-bearer-token", "node-no-one-has", "may not reach"),
    ];
    for (token, node, line) in cases {
        let client = Client::with_token(&world, &cloud.grpc, node, token);
        let (_, error, status) = client.finish();
        assert_eq!(status.code(), Some(255), "{error}");
        assert!(
            error.contains(line) && error.lines().count() == 1,
            "{node}: {error}"
        );
    }
    let client = Client::start(&world, "127.0.0.1:9", "node-A");
    let (_, error, status) = client.finish();
    assert_eq!(status.code(), Some(255));
    assert!(
        error.contains("refused") && error.lines().count() == 1,
        "{error}"
    );
}

#[test]
fn an_edge_that_is_told_to_end_keeps_its_streams_until_they_do() {
    let world = World::new();
    let (_echo, cloud, mut edge) = echoing(&world);
    let mut client = Client::start(&world, &cloud.grpc, "node-A");
    client.echo(b"before");
    edge.process.signal(Signal::SIGTERM);
    wait_until("the edge drains", secs(5), || {
        edge.process.log_lines(&["takes nothing new"]) > 0
    });
    wait_until("its cloud gives it nothing new", secs(5), || {
        let late = Client::start(&world, &cloud.grpc, "node-A");
        late.finish().2.code() == Some(255)
    });
    client.echo(b"after");
    let (_, error, status) = client.finish();
    assert_eq!((error.as_str(), status.code()), ("", Some(0)));
    assert_eq!(edge.process.exit(secs(5)).code(), Some(0));
}

#[test]
fn an_edge_that_is_told_twice_ends_at_once() {
    let world = World::new();
    let (_echo, cloud, mut edge) = echoing(&world);
    let mut client = Client::start(&world, &cloud.grpc, "node-A");
    client.echo(b"before");
    edge.process.signal(Signal::SIGTERM);
    wait_until("the edge drains", secs(5), || {
        edge.process.log_lines(&["takes nothing new"]) > 0
    });
    edge.process.signal(Signal::SIGTERM);
    assert_eq!(edge.process.exit(secs(5)).code(), Some(128 + 15));
    let output = client.child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(255), "{output:?}");
}

#[test]
fn a_helper_that_ssh_ends_leaves_nothing_behind() {
    let world = World::new();
    let (_echo, cloud, edge) = echoing(&world);
    for signal in [Signal::SIGHUP, Signal::SIGTERM] {
        let mut client = Client::start(&world, &cloud.grpc, "node-A");
        client.echo(b"before");
        client.signal(signal);
        assert_eq!(client.child.wait().unwrap().code(), Some(255));
        let streams = || edge.metrics().sum("streams", &[]);
        wait_until("the edge's stream ends", secs(5), || streams() == 0.0);
    }
}
