//! The harness against itself, without any of our binaries: what it calls a base peer, a black hole or an SSH server
//! must be one before a test can rest on it.
#![allow(clippy::unwrap_used)]

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use tunnel_tests::base_peers::{BaseEdge, connecting, heartbeat, is_beyond_base, reply};
use tunnel_tests::fake_cloud::{CloudOptions, FakeCloud};
use tunnel_tests::fake_edge::FakeEdge;
use tunnel_tests::openssh::{Sshd, nc};
use tunnel_tests::targets::{BlackHole, ClosedPort, Target};
use tunnel_tests::wait::secs;
use tunnel_tests::wire::Heartbeats;
use tunnel_tests::world::World;

#[test]
fn base_peers_carry_a_connection_between_them() {
    let world = World::new();
    let cloud = FakeCloud::start(
        &world,
        CloudOptions {
            late_headers: false,
            heartbeats: Heartbeats::Echo,
            ..CloudOptions::base()
        },
    );
    let edge = FakeEdge::base(&world, &cloud.grpc, "node-A");
    let mut link = cloud.link(secs(5));
    assert_eq!(
        link.header("authorization"),
        Some("Bearer {\"nodename\":\"node-A\",\"token\":\"test-token-of-the-node\"}")
    );
    let edge = BaseEdge::serve(edge);
    let echo = Target::echo();
    let request = connecting("node-A", "ssh", "t1", &echo.address());
    link.send(request.clone());
    link.wire.expect_type("connected");
    link.send(reply(&request, "tcp-forward", b"hello"));
    let back = link.wire.expect_type("tcp-forward");
    assert_eq!(back.data, b"hello");
    assert!(!is_beyond_base(&back));
    link.send(reply(&request, "closed", b""));
    let refused = ClosedPort::new();
    link.send(connecting("node-A", "ssh", "t2", &refused.address()));
    link.wire.expect_type("connect-failed");
    assert_eq!(edge.stop().len(), 4);
    link.wire.end(secs(5));
}

#[test]
fn headers_wait_for_the_first_message_when_they_are_to() {
    let world = World::new();
    let cloud = FakeCloud::start(&world, CloudOptions::base());
    let opener = std::thread::spawn({
        let grpc = cloud.grpc.clone();
        move || FakeEdge::base(&world, &grpc, "node-A")
    });
    let mut link = cloud.link(secs(5));
    assert!(link.wire.next(Duration::from_millis(200)).is_none());
    assert!(
        !opener.is_finished(),
        "the edge has headers before any message"
    );
    link.send(heartbeat("node-A"));
    let edge = opener.join().unwrap();
    assert!(edge.headers.get("tunnel-protocol").is_none());
}

#[test]
fn a_black_hole_swallows_dials_and_a_closed_port_refuses_them() {
    let hole = BlackHole::new();
    let address = hole.address().parse().unwrap();
    let error = TcpStream::connect_timeout(&address, Duration::from_millis(500)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let error = TcpStream::connect(ClosedPort::new().address()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn the_ssh_server_lets_its_own_key_in() {
    let world = World::new();
    let sshd = Sshd::start(&world);
    let (host, port) = sshd
        .address()
        .rsplit_once(':')
        .map(|(h, p)| (h.to_owned(), p.to_owned()))
        .unwrap();
    let proxy = format!("ProxyCommand={} {host} {port}", nc().display());
    let output = Command::new("ssh")
        .args([
            "-F",
            "/dev/null",
            "-o",
            &proxy,
            "-o",
            "StrictHostKeyChecking=no",
        ])
        .args([
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
            "-o",
            "LogLevel=ERROR",
        ])
        .arg("-i")
        .arg(world.path("ssh/id"))
        .args(["anything", "echo out; exit 7"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(output.stdout, b"out\n");
}
