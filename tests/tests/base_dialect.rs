//! The base dialect in both roles, against peers that use nothing of ours but the .proto.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::Instant;

use tunnel_tests::base_peers::{BaseEdge, connecting, heartbeat, is_beyond_base, reply};
use tunnel_tests::connect::refusal;
use tunnel_tests::fake_cloud::{CloudLink, CloudOptions, FakeCloud};
use tunnel_tests::fake_edge::FakeEdge;
use tunnel_tests::openssh::{Ssh, Sshd, success};
use tunnel_tests::targets::{BlackHole, ClosedPort, Target};
use tunnel_tests::wait::{millis, secs, wait_until};
use tunnel_tests::wire::{Event, Heartbeats, StreamMsg};
use tunnel_tests::world::World;
use tunnel_tests::{Cloud, Connect, Edge};

// ---- SuperEdge-like edges at our cloud: the dial address is 127.0.0.1 and the CONNECT's own port ----

fn with_base_edge() -> (World, Cloud, BaseEdge) {
    let world = World::new();
    let cloud = world.cloud();
    let edge = FakeEdge::base(&world, &cloud.grpc, "node-A");
    assert!(
        edge.headers.get("tunnel-protocol").is_none(),
        "base was asked for"
    );
    (world, cloud, BaseEdge::serve(edge))
}

fn open(cloud: &Cloud, target: &Target) -> Connect {
    Connect::open(
        &cloud.connect,
        &format!("node-A:{}", port(&target.address())),
    )
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').unwrap().1
}

#[test]
fn ssh_runs_through_a_base_edge() {
    let (world, cloud, edge) = with_base_edge();
    let sshd = Sshd::start(&world);
    let ssh = Ssh::new(&world, &cloud);
    let mut command = ssh.command("ssh");
    let output = command
        .args([
            "-p",
            port(&sshd.address()),
            "nc",
            "head -c 1000000 /dev/zero | wc -c",
        ])
        .output()
        .unwrap();
    success("ssh", &output);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1000000");
    // Base knows no half-close: both ends may wait for the other's last byte, for 30 s.
    wait_until("no stream is left", secs(45), || cloud.streams() == 0.0);
    let messages = edge.stop();
    assert!(!messages.is_empty());
    for message in &messages {
        assert!(!is_beyond_base(message), "{message:?}");
        assert!(
            ["connecting", "tcp-forward", "closed"].contains(&message.r#type.as_str()),
            "{message:?}"
        );
    }
    let connecting = &messages[0];
    let want = format!("CONNECT {} HTTP/1.1\r\n\r\n\r\n", connecting.addr);
    assert_eq!(String::from_utf8_lossy(&connecting.data), want);
    assert_eq!(connecting.category, "ssh");
    assert_eq!(connecting.node, "node-A");
}

#[test]
fn bytes_keep_their_order_through_a_base_edge() {
    let (_world, cloud, _edge) = with_base_edge();
    let echo = Target::echo();
    let mut open = open(&cloud, &echo);
    let bytes: Vec<u8> = (0..4u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut writer = open.socket.try_clone().unwrap();
    let sent = bytes.clone();
    let sending = thread::spawn(move || writer.write_all(&sent));
    let mut back = vec![0; bytes.len()];
    open.socket.read_exact(&mut back).unwrap();
    sending.join().unwrap().unwrap();
    assert!(back == bytes);
}

#[test]
fn closed_takes_effect_after_the_bytes_before_it() {
    let (_world, cloud, _edge) = with_base_edge();
    let target = Target::serve(|mut socket| drop(socket.write_all(&vec![5; 3 << 20])));
    let mut open = open(&cloud, &target);
    assert_eq!(open.rest().unwrap().len(), 3 << 20);
    wait_until("no stream is left", secs(10), || cloud.streams() == 0.0);
}

#[test]
fn a_client_that_ends_its_direction_still_gets_its_answer() {
    let (_world, cloud, _edge) = with_base_edge();
    // Base has no half-close: the question's end can't travel, the answer all the same must.
    let target = Target::serve(|mut socket| {
        let mut question = [0; 8];
        socket.read_exact(&mut question).unwrap();
        socket.write_all(&[6; 500_000]).unwrap();
    });
    let mut open = open(&cloud, &target);
    open.socket.write_all(b"question").unwrap();
    open.finish();
    assert_eq!(open.rest().unwrap().len(), 500_000);
}

#[test]
fn failed_dials_of_a_base_edge_are_refusals() {
    let (_world, cloud, _edge) = with_base_edge();
    let closed = ClosedPort::new();
    let reply = refusal(
        &cloud.connect,
        format!(
            "CONNECT node-A:{} HTTP/1.1\r\n\r\n",
            port(&closed.address())
        ),
    );
    assert!(reply.code() == 502, "{reply:?}");
    assert!(
        !reply.status.contains("os error"),
        "text of the edge is for logs only: {reply:?}"
    );
}

#[test]
fn no_answer_within_five_seconds_is_504_and_a_late_one_changes_nothing() {
    let world = World::new();
    let cloud = world.cloud();
    let edge = FakeEdge::base(&world, &cloud.grpc, "node-A");
    let start = Instant::now();
    let reply = refusal(&cloud.connect, "CONNECT node-A:22 HTTP/1.1\r\n\r\n");
    assert_eq!(reply.code(), 504, "{reply:?}");
    assert!(
        (4500..7000).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );
    let late = edge.wire.expect_type("connecting");
    edge.wire
        .send(tunnel_tests::base_peers::reply(&late, "connected", b""));
    edge.wire.send(tunnel_tests::base_peers::reply(
        &late,
        "tcp-forward",
        b"late",
    ));
    edge.wire.expect_type("closed");
    let front = cloud.connect.clone();
    let client = thread::spawn(move || Connect::open(&front, "node-A:22"));
    let next = edge.wire.expect("the next one", |m| {
        m.r#type == "connecting" && m.topic != late.topic
    });
    edge.wire
        .send(tunnel_tests::base_peers::reply(&next, "connected", b""));
    client.join().unwrap();
}

#[test]
fn heartbeats_of_a_base_edge_are_echoed_unchanged() {
    let world = World::new();
    let cloud = world.cloud();
    let options = tunnel_tests::fake_edge::EdgeOptions {
        heartbeats: Heartbeats::Ignore,
        ..tunnel_tests::fake_edge::EdgeOptions::base("node-A", tunnel_tests::world::TOKEN)
    };
    let edge = FakeEdge::connect(&world, &cloud.grpc, &options).unwrap();
    // Its headers came at once: connect() returned before anything was sent.
    for n in 0..3 {
        let beat = StreamMsg {
            data: vec![n],
            ..heartbeat("node-A")
        };
        edge.wire.send(beat.clone());
        assert_eq!(edge.wire.expect_type("heartbeat"), beat);
    }
    assert_eq!(cloud.metrics().sum("links", &[("dialect", "base")]), 1.0);
}

#[test]
fn content_of_an_unknown_topic_is_answered_with_closed_once() {
    let world = World::new();
    let cloud = world.cloud();
    let edge = FakeEdge::base(&world, &cloud.grpc, "node-A");
    let stray = connecting("node-A", "ssh", "never-heard-of", "127.0.0.1:22");
    for _ in 0..5 {
        edge.wire.send(reply(&stray, "tcp-forward", b"stray"));
    }
    let closed = edge.wire.expect_type("closed");
    assert_eq!(
        (closed.topic.as_str(), closed.category.as_str()),
        ("never-heard-of", "ssh")
    );
    edge.wire.send(reply(&stray, "closed", b""));
    let start = Instant::now();
    while start.elapsed() < millis(700) {
        if let Some(Event::Message(message)) = edge.wire.next(millis(100)) {
            panic!("one answer is enough: {message:?}");
        }
    }
}

#[test]
fn an_edge_that_connects_itself_is_told_no_and_keeps_its_link() {
    let world = World::new();
    let cloud = world.cloud();
    let edge = FakeEdge::base(&world, &cloud.grpc, "node-A");
    edge.wire.send(connecting(
        "node-A",
        "httpProxy",
        "from-the-edge",
        "127.0.0.1:22",
    ));
    let answer = edge
        .wire
        .expect("an answer", |m| m.topic == "from-the-edge");
    assert_eq!(
        (answer.r#type.as_str(), answer.category.as_str()),
        ("connect-failed", "httpProxy")
    );
    let front = cloud.connect.clone();
    let client = thread::spawn(move || Connect::open(&front, "node-A:22"));
    let next = edge.wire.expect_type("connecting");
    edge.wire.send(reply(&next, "connected", b""));
    client.join().unwrap();
}

#[test]
fn a_client_that_stops_reading_loses_its_own_base_stream_only() {
    let world = World::new();
    let settings = world
        .cloud_settings()
        .set("streams.base_stuck_timeout", "2s")
        .set("streams.base_buffer_bytes_max", 262_144);
    let cloud = world.cloud_with(settings);
    let _edge = BaseEdge::serve(FakeEdge::base(&world, &cloud.grpc, "node-A"));
    let (source, echo) = (Target::source(), Target::echo());
    let mut other = open(&cloud, &echo);
    other.echo(b"before");
    let before = cloud.usage();
    let stuck = open(&cloud, &source);
    // The link isn't read while that stream is full, until its set time; then that stream alone ends.
    wait_until("the stuck stream ends", secs(30), || source.open() == 0);
    other.echo(b"after");
    let used = cloud.usage();
    assert!(
        used.private_kib < before.private_kib + 16 * 1024,
        "{before:?} became {used:?}"
    );
    wait_until("its end is counted", secs(5), || {
        cloud.metrics().sum("streams_closed_total", &[]) >= 1.0
    });
    drop(stuck);
}

#[test]
fn a_base_edge_that_never_reads_bounds_what_the_cloud_holds() {
    let world = World::new();
    let cloud = world.cloud();
    let edge = FakeEdge::base(&world, &cloud.grpc, "node-A");
    let front = cloud.connect.clone();
    let client = thread::spawn(move || Connect::open(&front, "node-A:22"));
    let stream = edge.wire.expect_type("connecting");
    edge.wire.send(reply(&stream, "connected", b""));
    let mut open = client.join().unwrap();
    edge.wire.read(false);
    let before = cloud.usage();
    open.socket.set_write_timeout(Some(millis(1500))).unwrap();
    let block = vec![1; 65_536];
    let mut sent = 0;
    while sent < 256 << 20 && open.socket.write_all(&block).is_ok() {
        sent += block.len();
    }
    assert!(
        sent < 64 << 20,
        "{sent} bytes were taken for a peer that reads nothing"
    );
    let used = cloud.usage();
    assert!(
        used.private_kib < before.private_kib + 24 * 1024,
        "{before:?} became {used:?}"
    );
    // Another node doesn't notice, and the edge that reads again gets the rest.
    let second = BaseEdge::serve(FakeEdge::base(&world, &cloud.grpc, "node-B"));
    let echo = Target::echo();
    Connect::open(&cloud.connect, &format!("node-B:{}", port(&echo.address()))).echo(b"fine");
    drop(second);
    edge.wire.read(true);
    let mut got = 0;
    while got < sent {
        match edge.wire.next(secs(10)) {
            Some(Event::Message(m)) if m.r#type == "tcp-forward" => got += m.data.len(),
            Some(Event::Message(m)) if m.r#type == "closed" => break,
            Some(Event::Message(_)) => {}
            other => panic!("{got} of {sent} bytes, then {other:?}"),
        }
    }
    assert!(got >= sent, "{got} of {sent}");
}

// ---- Our edge at a SuperEdge-like cloud ----

struct AtBaseCloud {
    link: CloudLink,
    edge: Edge,
    _cloud: FakeCloud,
    _world: World,
}

/// Our edge, with port 22 mapped to `target`, at a base cloud whose headers come with its first message.
fn at_base_cloud(target: &str) -> AtBaseCloud {
    let world = World::new();
    let options = CloudOptions {
        heartbeats: Heartbeats::Echo,
        late_headers: false,
        ..CloudOptions::base()
    };
    let cloud = FakeCloud::start(&world, options);
    let mut edge = world.edge_with("node-A", world.edge_settings("node-A", &cloud.grpc, target));
    let link = cloud.link(secs(5));
    edge.process.wait_status("link", "up", secs(5));
    AtBaseCloud {
        link,
        edge,
        _cloud: cloud,
        _world: world,
    }
}

#[test]
fn a_link_comes_up_though_headers_are_late_and_the_first_heartbeat_is_lost() {
    let world = World::new();
    let cloud = FakeCloud::start(&world, CloudOptions::base());
    let mut edge = world.edge_with(
        "node-A",
        world.edge_settings("node-A", &cloud.grpc, "127.0.0.1:22"),
    );
    let mut link = cloud.link(secs(5));
    assert_eq!(
        link.header("authorization"),
        Some("Bearer {\"nodename\":\"node-A\",\"token\":\"test-token-of-the-node\"}")
    );
    // Nothing but heartbeats before the headers, once a second; the first one is lost.
    let lost = link.wire.expect_type("heartbeat");
    assert_eq!(lost.topic, "node-Aheartbeat");
    assert_eq!(
        (lost.node.as_str(), lost.category.as_str()),
        ("node-A", "stream")
    );
    assert!(!is_beyond_base(&lost), "{lost:?}");
    let start = Instant::now();
    let Some(Event::Message(second)) = link.wire.next(secs(3)) else {
        panic!("no second heartbeat")
    };
    assert_eq!(second.r#type, "heartbeat");
    assert!(start.elapsed() >= millis(500), "{:?}", start.elapsed());
    assert_eq!(edge.process.status("link"), "down");
    link.send(second);
    edge.process.wait_status("link", "up", secs(5));
    assert_eq!(edge.metrics().sum("links", &[("dialect", "base")]), 1.0);
}

#[test]
fn our_edge_serves_a_base_cloud() {
    let echo = Target::echo();
    let mut at = at_base_cloud(&echo.address());
    for category in ["ssh", "egress"] {
        let request = connecting(
            "node-A",
            category,
            &format!("topic-{category}"),
            "127.0.0.1:22",
        );
        at.link.send(request.clone());
        let connected = at
            .link
            .wire
            .expect("an answer", |m| m.topic == request.topic);
        assert_eq!(
            (
                connected.r#type.as_str(),
                connected.category.as_str(),
                connected.node.as_str()
            ),
            ("connected", category, "node-A")
        );
        assert!(!is_beyond_base(&connected), "{connected:?}");
        // A keystroke, then a bulk in pieces of 1 KiB as its cloud reads.
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        for piece in bytes.chunks(1024) {
            at.link.send(reply(&request, "tcp-forward", piece));
        }
        let mut back = Vec::new();
        while back.len() < bytes.len() {
            let piece = at.link.wire.expect_type("tcp-forward");
            assert!(!is_beyond_base(&piece), "{piece:?}");
            assert_eq!(piece.topic, request.topic);
            back.extend_from_slice(&piece.data);
        }
        assert!(back == bytes);
        at.link.send(reply(&request, "closed", b"EOF"));
        at.link.send(reply(&request, "closed", b"EOF"));
        wait_until("the target's connection ends", secs(5), || echo.open() == 0);
    }
    wait_until("no stream is left", secs(5), || {
        at.edge.metrics().sum("streams", &[]) == 0.0
    });
}

#[test]
fn closed_from_a_base_cloud_comes_after_what_was_sent_before_it() {
    let (got, gets) = std::sync::mpsc::channel();
    let got = std::sync::Mutex::new(got);
    let target = Target::serve(move |mut socket| {
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all);
        got.lock().unwrap().send(all.len()).unwrap();
    });
    let mut at = at_base_cloud(&target.address());
    let request = connecting("node-A", "ssh", "one", "127.0.0.1:22");
    at.link.send(request.clone());
    at.link.wire.expect_type("connected");
    for _ in 0..500 {
        at.link.send(reply(&request, "tcp-forward", &[1; 1024]));
    }
    at.link.send(reply(&request, "closed", b""));
    assert_eq!(gets.recv_timeout(secs(10)).unwrap(), 500 * 1024);
}

#[test]
fn a_target_that_ends_sends_all_its_bytes_and_then_closed() {
    let target = Target::serve(|mut socket| drop(socket.write_all(&vec![8; 700_000])));
    let mut at = at_base_cloud(&target.address());
    let request = connecting("node-A", "ssh", "one", "127.0.0.1:22");
    at.link.send(request.clone());
    at.link.wire.expect_type("connected");
    // The cloud ends its side as well, as it does when its client has everything.
    let mut got = 0;
    while got < 700_000 {
        got += at.link.wire.expect_type("tcp-forward").data.len();
    }
    assert_eq!(got, 700_000);
    at.link.send(reply(&request, "closed", b""));
    wait_until("no stream is left", secs(5), || {
        at.edge.metrics().sum("streams", &[]) == 0.0
    });
}

#[test]
fn every_connecting_is_answered_with_connected_or_connect_failed() {
    let (closed, hole, echo) = (ClosedPort::new(), BlackHole::new(), Target::echo());
    let world = World::new();
    let options = CloudOptions {
        heartbeats: Heartbeats::Echo,
        late_headers: false,
        ..CloudOptions::base()
    };
    let cloud = FakeCloud::start(&world, options);
    let settings = world
        .edge_settings("node-A", &cloud.grpc, &echo.address())
        .set("targets.map.23", closed.address())
        .set("targets.map.25", hole.address());
    let mut edge = world.edge_with("node-A", settings);
    let mut link = cloud.link(secs(5));
    edge.process.wait_status("link", "up", secs(5));
    let start = Instant::now();
    for (topic, addr) in [
        ("refused", "127.0.0.1:23"),
        ("hole", "127.0.0.1:25"),
        ("forbidden", "127.0.0.1:3306"),
        ("bad", "nonsense"),
        ("good", "127.0.0.1:22"),
    ] {
        link.send(connecting("node-A", "ssh", topic, addr));
    }
    let mut answered = HashSet::new();
    while answered.len() < 5 {
        let answer = link.wire.expect("an answer", |_| true);
        let want = if answer.topic == "good" {
            "connected"
        } else {
            "connect-failed"
        };
        assert_eq!(answer.r#type, want, "{answer:?}");
        assert!(!is_beyond_base(&answer), "{answer:?}");
        if answer.topic != "hole" {
            assert!(
                start.elapsed() < secs(3),
                "the dial into the hole holds up {}",
                answer.topic
            );
        }
        answered.insert(answer.topic);
    }
    assert!(
        start.elapsed() < secs(5),
        "answered within the 5 s that its cloud waits: {:?}",
        start.elapsed()
    );
}

#[test]
fn the_nodes_own_address_counts_as_loopback() {
    // SuperEdge's cloud asks to dial the node's InternalIP.
    let own = own_address();
    let echo = Target::echo();
    let mut at = at_base_cloud(&echo.address());
    let request = connecting("node-A", "ssh", "internal-ip", &format!("{own}:22"));
    at.link.send(request.clone());
    let answer = at
        .link
        .wire
        .expect("an answer", |m| m.topic == "internal-ip");
    assert_eq!(answer.r#type, "connected", "{own}: {answer:?}");
    at.link.send(reply(&request, "tcp-forward", b"x"));
    assert_eq!(at.link.wire.expect_type("tcp-forward").data, b"x");
    at.link
        .send(connecting("node-A", "ssh", "elsewhere", "192.0.2.1:22"));
    assert_eq!(
        at.link
            .wire
            .expect("an answer", |m| m.topic == "elsewhere")
            .r#type,
        "connect-failed"
    );
}

#[test]
fn our_edge_answers_content_of_an_unknown_topic_with_closed_once() {
    let echo = Target::echo();
    let mut at = at_base_cloud(&echo.address());
    let stray = connecting("node-A", "ssh", "stray", "127.0.0.1:22");
    for _ in 0..5 {
        at.link.send(reply(&stray, "tcp-forward", b"x"));
    }
    at.link
        .send(connecting("node-A", "ssh", "good", "127.0.0.1:22"));
    let mut closed = 0;
    loop {
        let message = at.link.wire.expect("an answer", |_| true);
        match message.r#type.as_str() {
            "closed" => {
                assert_eq!(message.topic, "stray");
                closed += 1;
            }
            "connected" => break,
            other => panic!("{other}"),
        }
    }
    assert_eq!(closed, 1);
}

#[test]
fn a_base_cloud_that_never_reads_keeps_its_sessions() {
    let (source, echo) = (Target::source(), Target::echo());
    let world = World::new();
    let options = CloudOptions {
        heartbeats: Heartbeats::Echo,
        late_headers: false,
        ..CloudOptions::base()
    };
    let cloud = FakeCloud::start(&world, options);
    let settings = world
        .edge_settings("node-A", &cloud.grpc, &echo.address())
        .set("targets.map.23", source.address());
    let mut edge = world.edge_with("node-A", settings);
    let mut link = cloud.link(secs(5));
    edge.process.wait_status("link", "up", secs(5));
    let quiet = connecting("node-A", "ssh", "quiet", "127.0.0.1:22");
    link.send(quiet.clone());
    link.wire.expect_type("connected");
    let loud = connecting("node-A", "ssh", "loud", "127.0.0.1:23");
    link.send(loud.clone());
    link.wire.expect("loud bytes", |m| {
        m.topic == "loud" && m.r#type == "tcp-forward"
    });
    let before = edge.usage();
    link.wire.read(false);
    // One stuck reader stalls that cloud's whole loop, and cutting the link would cost every session: no new link in
    // longer than an echo may be missing while there are other signs of life.
    let start = Instant::now();
    while start.elapsed() < secs(13) {
        thread::sleep(millis(500));
        assert_eq!(
            edge.metrics().sum("links", &[]),
            1.0,
            "after {:?}",
            start.elapsed()
        );
    }
    let used = edge.usage();
    assert!(
        used.private_kib < before.private_kib + 24 * 1024,
        "{before:?} became {used:?}"
    );
    link.wire.read(true);
    link.send(reply(&loud, "closed", b""));
    link.send(reply(&quiet, "tcp-forward", b"still there"));
    let back = link.wire.expect("the quiet stream", |m| {
        m.topic == "quiet" && m.r#type == "tcp-forward"
    });
    assert_eq!(back.data, b"still there");
}

#[test]
fn the_edge_takes_version_1_where_it_is_offered_and_base_where_it_is_not() {
    let world = World::new();
    let echo = Target::echo();
    let ours = world.cloud();
    let edge = world.edge(&ours, "node-A", &echo.address());
    assert_eq!(edge.metrics().sum("links", &[("dialect", "base")]), 0.0);
    assert_eq!(edge.metrics().sum("links", &[]), 1.0);
    drop(edge);
    // Told to speak base, it does so with our own cloud, too: the two of them in SuperEdge's language.
    let settings = world
        .edge_settings("node-B", &ours.grpc, &echo.address())
        .set("cloud.dialect", "base");
    let mut edge = world.edge_with("node-B", settings);
    edge.process.wait_status("link", "up", secs(10));
    assert_eq!(ours.metrics().sum("links", &[("dialect", "base")]), 1.0);
    let mut open = ours.open("node-B");
    open.echo(&[3; 200_000][..50_000]);
    drop(open);
    // Base knows no half-close: a client's end waits for the other direction until 30 s have passed without a byte.
    wait_until("no stream is left", secs(35), || ours.streams() == 0.0);
}

#[test]
fn our_edge_leaves_a_base_cloud_in_order_and_comes_again() {
    let echo = Target::echo();
    let world = World::new();
    let options = CloudOptions {
        heartbeats: Heartbeats::Echo,
        late_headers: false,
        ..CloudOptions::base()
    };
    let cloud = FakeCloud::start(&world, options);
    let mut edge = world.edge_with(
        "node-A",
        world.edge_settings("node-A", &cloud.grpc, &echo.address()),
    );
    let mut first = cloud.link(secs(5));
    edge.process.wait_status("link", "up", secs(5));
    let request = connecting("node-A", "ssh", "one", "127.0.0.1:22");
    first.send(request);
    first.wire.expect_type("connected");
    first.wire.fail(tonic::Status::unavailable("going"));
    let mut second = cloud.link(secs(5));
    wait_until("the streams of a base link end with it", secs(5), || {
        echo.open() == 0
    });
    edge.process.wait_status("link", "up", secs(5));
    second.send(connecting("node-A", "ssh", "two", "127.0.0.1:22"));
    assert_eq!(second.wire.expect_type("connected").topic, "two");
}

/// An address of this machine's own that isn't loopback, or loopback's second where there is no other.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: the kernel only chooses the address it would send from.
    let chosen = socket
        .connect("192.0.2.1:9")
        .and_then(|()| socket.local_addr());
    chosen.map_or(IpAddr::from([127, 0, 0, 1]), |address| address.ip())
}
