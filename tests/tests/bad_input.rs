//! Bad input: each kind has its own reply, log line and counter, and the service works right after.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tonic::Code;
use tunnel_tests::connect::{dial, read_refusal, refusal};
use tunnel_tests::fake_cloud::{CloudLink, CloudOptions, FakeCloud};
use tunnel_tests::fake_edge::{EdgeOptions, FakeEdge, instance};
use tunnel_tests::targets::{ClosedPort, Target};
use tunnel_tests::wait::{millis, secs, wait_until};
use tunnel_tests::wire::{Event, Heartbeats, StreamMsg};
use tunnel_tests::world::{TOKEN, World};
use tunnel_tests::{Cloud, Connect, Edge, Reply};

/// A cloud with node-A, whose ports lead to an echo, to nothing, to a name that doesn't exist, and nowhere.
struct Front {
    cloud: Cloud,
    _edge: Edge,
    _echo: Target,
    _closed: ClosedPort,
    _world: World,
}

impl Front {
    fn start() -> Self {
        let world = World::new();
        let (echo, closed) = (Target::echo(), ClosedPort::new());
        let settings = world.cloud_settings().set("limits.header_timeout", "1s");
        let cloud = world.cloud_with(settings);
        let settings = world
            .edge_settings("node-A", &cloud.grpc, &echo.address())
            .set("targets.map.23", closed.address())
            .set("targets.map.24", "no-such-host.invalid:22");
        let mut edge = world.edge_with("node-A", settings);
        edge.process.wait_status("link", "up", secs(10));
        Self {
            cloud,
            _edge: edge,
            _echo: echo,
            _closed: closed,
            _world: world,
        }
    }

    /// One kind of bad input: the refusal's code, its counter up by one, a log line, and a stream that works behind it.
    #[track_caller]
    fn check(&self, reason: &str, code: u16, ask: impl FnOnce(&str) -> Reply) -> Reply {
        self.check_at(&self.cloud.connect, reason, code, ask)
    }

    #[track_caller]
    fn check_at(
        &self,
        front: &str,
        reason: &str,
        code: u16,
        ask: impl FnOnce(&str) -> Reply,
    ) -> Reply {
        let code_text = code.to_string();
        let labels = [("code", code_text.as_str()), ("reason", reason)];
        let count = || self.cloud.metrics().sum("connect_replies_total", &labels);
        let (before, lines) = (count(), self.cloud.process.log_lines(&[reason]));
        let reply = ask(front);
        assert_eq!(reply.code(), code, "{reason}: {reply:?}");
        wait_until(&format!("{reason} is counted"), secs(5), || {
            count() == before + 1.0
        });
        wait_until(&format!("{reason} is logged"), secs(5), || {
            self.cloud.process.log_lines(&[reason]) > lines
        });
        self.cloud.open("node-A").echo(b"still here");
        reply
    }
}

#[test]
fn headers_that_are_no_connect_request() {
    let front = Front::start();
    front.check("header-too-long", 400, |to| {
        refusal(
            to,
            format!(
                "CONNECT node-A:22 HTTP/1.1\r\nX: {}\r\n\r\n",
                "x".repeat(9000)
            ),
        )
    });
    front.check("header-too-long", 400, |to| {
        refusal(to, "CONNECT ".to_owned() + &"a".repeat(8200))
    });
    front.check("malformed", 400, |to| {
        refusal(to, "all kinds of garbage\r\n\r\n")
    });
    front.check("malformed", 400, |to| {
        refusal(to, "CONNECT node-A:22\r\n\r\n")
    });
    front.check("malformed", 400, |to| {
        refusal(to, "CONNECT node-A:22 HTTP/2.0\r\n\r\n")
    });
    front.check("malformed", 400, |to| {
        refusal(to, "CONNECT node A:22 HTTP/1.1\r\n\r\n")
    });
    front.check("malformed", 400, |to| {
        refusal(to, "CONNECT :22 HTTP/1.1\r\n\r\n")
    });
    front.check("malformed", 400, |to| {
        refusal(to, b"CONNECT node-\xff\xfe:22 HTTP/1.1\r\n\r\n")
    });
    front.check("malformed", 400, |to| {
        let binary: Vec<u8> = (0..=255).collect();
        refusal(to, binary)
    });
    front.check("malformed", 400, |to| {
        refusal(to, b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    });
    front.check("method", 405, |to| {
        refusal(to, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    });
    for port in ["0", "65536", "99999999999999999999", "ssh", "", "-1"] {
        front.check("bad-port", 400, |to| {
            refusal(to, format!("CONNECT node-A:{port} HTTP/1.1\r\n\r\n"))
        });
    }
}

#[test]
fn a_header_that_never_ends_is_refused_at_the_deadline() {
    let front = Front::start();
    front.check("header-timeout", 408, |to| {
        let start = Instant::now();
        let mut socket = dial(to).unwrap();
        socket.set_read_timeout(Some(millis(50))).unwrap();
        // A byte at a time: the deadline is the whole header's, not a byte's.
        let mut byte = [0];
        for letter in "CONNECT node-A:22 HTTP/1.1"
            .bytes()
            .chain(std::iter::repeat(b'x'))
        {
            let _ = socket.write_all(&[letter]);
            match socket.peek(&mut byte) {
                Ok(_) => break,
                Err(_) => assert!(start.elapsed() < secs(10), "no reply"),
            }
        }
        socket.set_read_timeout(Some(secs(5))).unwrap();
        let reply = read_refusal(&mut socket);
        assert!(
            (900..3000).contains(&start.elapsed().as_millis()),
            "{:?}",
            start.elapsed()
        );
        reply
    });
    // Silence, too.
    front.check("header-timeout", 408, |to| {
        read_refusal(&mut dial(to).unwrap())
    });
}

#[test]
fn whom_and_what_the_front_refuses() {
    let front = Front::start();
    front.check("unknown-node", 404, |to| {
        refusal(to, "CONNECT nobody:22 HTTP/1.1\r\n\r\n")
    });
    let reply = front.check("node-offline", 503, |to| {
        refusal(to, "CONNECT node-B:22 HTTP/1.1\r\n\r\n")
    });
    assert!(
        reply.status.contains("node-B") && reply.header("Retry-After").is_some(),
        "{reply:?}"
    );
    let reply = front.check("target-forbidden", 403, |to| {
        refusal(to, "CONNECT node-A:3306 HTTP/1.1\r\n\r\n")
    });
    assert!(reply.status.contains("127.0.0.1:3306"), "{reply:?}");
    let reply = front.check("refused", 502, |to| {
        refusal(to, "CONNECT node-A:23 HTTP/1.1\r\n\r\n")
    });
    assert!(reply.status.contains("nothing listens on"), "{reply:?}");
    front.check("name-not-found", 502, |to| {
        refusal(to, "CONNECT node-A:24 HTTP/1.1\r\n\r\n")
    });
    let users = front.cloud.connect_users.clone();
    front.check_at(&users, "auth-missing", 407, |to| {
        refusal(to, "CONNECT node-A:22 HTTP/1.1\r\n\r\n")
    });
    front.check_at(&users, "auth-failed", 407, |to| {
        refusal(
            to,
            "CONNECT node-A:22 HTTP/1.1\r\nProxy-Authorization: Bearer wrong\r\n\r\n",
        )
    });
    front.check_at(&users, "user-forbidden", 403, |to| {
        refusal(
            to,
            "CONNECT node-A:22 HTTP/1.1\r\nProxy-Authorization: Bearer bob-bearer-token\r\n\r\n",
        )
    });
}

#[test]
fn clients_that_vanish_or_babble_leave_nothing() {
    let front = Front::start();
    let idle = front.cloud.usage().fds;
    for n in 0..200 {
        let mut socket = dial(&front.cloud.connect).unwrap();
        let _ = socket.write_all(&b"CONNECT node-A:22 HTTP/1.1\r\n\r\n"[..n % 30]);
    }
    for listener in [
        &front.cloud.connect_tls,
        &front.cloud.grpc,
        &front.cloud.connect_users,
    ] {
        for bytes in [
            &b"\x16\x03\x01\x02\x00garbage that starts as TLS does"[..],
            b"GET / HTTP/1.0\r\n\r\n",
            b"\0\0\0\0",
        ] {
            let mut socket = dial(listener).unwrap();
            let _ = socket.write_all(bytes);
            socket.set_read_timeout(Some(secs(20))).unwrap();
            // Whatever it says, it ends the connection.
            let mut sink = Vec::new();
            if let Err(error) = socket.read_to_end(&mut sink) {
                assert_eq!(
                    error.kind(),
                    std::io::ErrorKind::ConnectionReset,
                    "{listener} {bytes:?}"
                );
            }
        }
    }
    front.cloud.open("node-A").echo(b"still here");
    wait_until("descriptors are back", secs(20), || {
        front.cloud.usage().fds <= idle + 2
    });
}

#[test]
fn a_wrong_token_hears_the_same_as_an_unknown_node() {
    let world = World::new();
    let cloud = world.cloud();
    let refused = || {
        let metrics = cloud.metrics();
        metrics.sum("links_opened_total", &[])
            - metrics.sum("links_opened_total", &[("result", "ok")])
    };
    let mut answers = Vec::new();
    for options in [
        EdgeOptions::base("node-A", "wrong"),
        EdgeOptions::base("node-unheard-of", TOKEN),
        EdgeOptions::base("node-A", ""),
        EdgeOptions {
            authorization: None,
            ..EdgeOptions::base("node-A", TOKEN)
        },
        EdgeOptions {
            authorization: Some("Bearer {".to_owned()),
            ..EdgeOptions::base("node-A", TOKEN)
        },
        EdgeOptions {
            authorization: Some("Basic eDp5".to_owned()),
            ..EdgeOptions::base("node-A", TOKEN)
        },
        EdgeOptions::version_1("node-A", "wrong", &instance(1)),
    ] {
        let before = refused();
        let status =
            FakeEdge::connect(&world, &cloud.grpc, &options).expect_err("no link comes up");
        assert_eq!(
            status.code(),
            Code::Unauthenticated,
            "{options:?}: {status:?}"
        );
        answers.push(status.message().to_owned());
        wait_until("the refusal is counted", secs(5), || {
            refused() == before + 1.0
        });
    }
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert!(!cloud.process.log().contains(TOKEN));
    FakeEdge::version_1(&world, &cloud.grpc, "node-A");
    // An edge's certificate names its bearer: another name in the credential doesn't count.
    let options = EdgeOptions {
        metadata: vec![("tunnel-link", "peer".to_owned())],
        ..EdgeOptions::version_1("node-A", TOKEN, &instance(2))
    };
    FakeEdge::connect(&world, &cloud.grpc, &options)
        .expect_err("a kind that the credential doesn't give");
}

#[test]
fn unknown_types_are_ignored_and_counted() {
    let bad = Links::start();
    let refused = || bad.cloud.metrics().sum("refused_total", &[]);
    let before = refused();
    bad.edge.wire.send(StreamMsg {
        r#type: "no-such-type".into(),
        topic: "x".into(),
        ..bad.message("")
    });
    wait_until("it is counted", secs(5), || refused() > before);
    bad.works();
}

#[test]
fn a_message_over_the_limit_ends_its_link_only() {
    let bad = Links::start();
    bad.edge.wire.send(StreamMsg {
        data: vec![0; 300_000],
        ..bad.message("content")
    });
    let status = bad.edge.wire.end(secs(10)).expect("an error");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    bad.other_node_works();
    let again = FakeEdge::connect(
        &bad.world,
        &bad.cloud.grpc,
        &EdgeOptions::version_1("node-A", TOKEN, &instance(2)),
    );
    again.expect("the node may come again");
}

#[test]
fn what_an_edge_may_not_send_ends_its_link_only() {
    for (kind, category) in [("connecting", "ssh"), ("resume", "ssh"), ("here", "stream")] {
        let bad = Links::start();
        bad.edge.wire.send(StreamMsg {
            addr: "127.0.0.1:22".into(),
            topic: "t".into(),
            category: category.into(),
            ..bad.message(kind)
        });
        let status = bad.edge.wire.end(secs(10)).expect("an error");
        assert_eq!(status.code(), Code::InvalidArgument, "{kind}: {status:?}");
        bad.other_node_works();
    }
}

#[test]
fn credit_overrun_ends_that_stream_only() {
    let bad = Links::start();
    let (mut open, stream) = bad.open();
    let (mut other, other_stream) = bad.open();
    // The client doesn't read; a sender that ignores `limit` is found out at the first byte past it.
    let limit = stream.limit.max(4096);
    let mut offset = 0;
    while offset < limit + 300_000 {
        bad.edge.wire.send(StreamMsg {
            offset,
            data: vec![7; 65_536],
            ..of(&stream, "content")
        });
        offset += 65_536;
        if offset > 64 << 20 {
            break;
        }
    }
    // Everything up to the limit in one go may have been taken by the client's socket, so jump far past it as well.
    let closed = bad.closed(&stream, offset);
    assert_eq!(closed.code, 8, "flow-control: {closed:?}");
    assert!(open.ends(secs(10)), "the client hears of it");
    bad.counted("flow-control");
    bad.round_trip(&mut other, &other_stream);
    bad.works();
}

#[test]
fn an_ack_out_of_range_ends_that_stream_only() {
    let bad = Links::start();
    let (mut open, stream) = bad.open();
    let (mut other, other_stream) = bad.open();
    bad.edge.wire.send(StreamMsg {
        ack: 1 << 40,
        limit: 1 << 41,
        ..of(&stream, "window")
    });
    let closed = bad.edge.wire.expect("closed", |m| {
        m.r#type == "closed" && m.topic == stream.topic
    });
    assert_eq!(closed.code, 9, "protocol-error: {closed:?}");
    assert!(open.ends(secs(10)));
    bad.counted("protocol-error");
    bad.round_trip(&mut other, &other_stream);
}

#[test]
fn a_gap_and_bytes_past_the_eof_end_that_stream_only() {
    let bad = Links::start();
    let (mut other, other_stream) = bad.open();
    let (mut open, stream) = bad.open();
    bad.edge.wire.send(StreamMsg {
        offset: 5,
        data: b"gap".to_vec(),
        ..of(&stream, "content")
    });
    let closed = bad.edge.wire.expect("closed", |m| {
        m.r#type == "closed" && m.topic == stream.topic
    });
    assert_eq!(closed.code, 9, "{closed:?}");
    assert!(open.ends(secs(10)));
    let (_open, stream) = bad.open();
    bad.edge.wire.send(of(&stream, "eof"));
    bad.edge.wire.send(StreamMsg {
        data: b"late".to_vec(),
        ..of(&stream, "content")
    });
    let closed = bad.edge.wire.expect("closed", |m| {
        m.r#type == "closed" && m.topic == stream.topic
    });
    assert_eq!(closed.code, 9, "{closed:?}");
    bad.round_trip(&mut other, &other_stream);
}

#[test]
fn another_nodes_topic_reaches_nothing() {
    let bad = Links::start();
    let (mut open, stream) = bad.open();
    for kind in [
        "content",
        "eof",
        "closed",
        "connected",
        "connect-failed",
        "window",
    ] {
        bad.second.wire.send(StreamMsg {
            data: b"forged".to_vec(),
            code: 15,
            limit: 1 << 30,
            ..of(&stream, kind)
        });
    }
    // The same with its own name in it.
    bad.second.wire.send(StreamMsg {
        node: "node-B".into(),
        data: b"forged".to_vec(),
        ..of(&stream, "content")
    });
    bad.other_node_works();
    bad.round_trip(&mut open, &stream);
}

#[test]
fn a_link_that_sends_nothing_is_ended_and_the_edge_leaves_one() {
    let world = World::new();
    let heartbeat = |settings: tunnel_tests::world::Settings| {
        settings
            .set("heartbeat.interval", "1s")
            .set("heartbeat.probe", "200ms")
    };
    let cloud = world.cloud_with(heartbeat(world.cloud_settings()));
    let options = EdgeOptions {
        heartbeats: Heartbeats::Ignore,
        ..EdgeOptions::version_1("node-A", TOKEN, &instance(1))
    };
    let silent = FakeEdge::connect(&world, &cloud.grpc, &options).unwrap();
    let alive = FakeEdge::version_1(&world, &cloud.grpc, "node-B");
    let start = Instant::now();
    silent.wire.end(secs(10));
    assert!(
        (1300..5000).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );
    wait_until("the link's end is counted", secs(5), || {
        cloud
            .metrics()
            .sum("links_closed_total", &[("kind", "edge")])
            >= 1.0
    });
    assert!(
        alive.wire.heartbeats() > 0,
        "the other one was asked and answered"
    );
    assert_eq!(cloud.metrics().sum("links", &[("kind", "edge")]), 1.0);

    // The other way round: an edge whose cloud has gone silent makes its next link.
    let deaf = FakeCloud::start(
        &world,
        CloudOptions {
            heartbeats: Heartbeats::Ignore,
            ..CloudOptions::version_1()
        },
    );
    let settings = heartbeat(world.edge_settings("node-C", &deaf.grpc, "127.0.0.1:22"));
    let mut edge = world.edge_with("node-C", settings);
    let first = deaf.link(secs(5));
    edge.process.wait_status("link", "up", secs(5));
    let second = deaf.link(secs(10));
    assert_eq!(first.header("tunnel-protocol"), Some("1"));
    let number = |link: &CloudLink| {
        link.header("tunnel-instance")
            .unwrap()
            .rsplit_once('.')
            .unwrap()
            .1
            .parse::<u32>()
            .unwrap()
    };
    assert!(number(&second) > number(&first), "n rises with each link");
}

#[test]
fn ten_thousand_connecting_at_once() {
    let world = World::new();
    let echo = Target::echo();
    let cloud = FakeCloud::start(&world, CloudOptions::version_1());
    let settings = world
        .edge_settings("node-A", &cloud.grpc, &echo.address())
        .set("log.level", "info");
    let edge = world.edge_with("node-A", settings);
    let mut link = cloud.link(secs(5));
    let before = edge.usage();
    let sender = link.wire.sender();
    let feeding = std::thread::spawn(move || {
        for n in 0..10_000u32 {
            sender
                .blocking_send(Ok(connecting(&format!("flood-{n}"))))
                .unwrap();
        }
    });
    let mut answers: HashMap<String, StreamMsg> = HashMap::new();
    let start = Instant::now();
    while answers.len() < 10_000 {
        match link.wire.next(secs(20)) {
            Some(Event::Message(message)) if message.r#type.starts_with("connect") => {
                let twice = answers.insert(message.topic.clone(), message);
                assert!(twice.is_none(), "answered twice: {twice:?}");
            }
            Some(Event::Message(_)) => {}
            other => panic!("{} answers, then {other:?}", answers.len()),
        }
    }
    feeding.join().unwrap();
    eprintln!("10,000 answers in {:?}", start.elapsed());
    let (yes, no): (Vec<_>, Vec<_>) = answers
        .values()
        .partition(|answer| answer.r#type == "connected");
    assert!(
        !yes.is_empty() && yes.len() <= 1024,
        "{} connected",
        yes.len()
    );
    assert!(
        no.iter().all(|answer| answer.code == 10),
        "over-limit, not {:?}",
        no.iter().find(|answer| answer.code != 10)
    );
    for answer in &yes {
        link.send(StreamMsg {
            code: 16,
            ..of(answer, "closed")
        });
    }
    wait_until("its streams are gone", secs(20), || {
        edge.metrics().sum("streams", &[]) == 0.0
    });
    wait_until("its descriptors are back", secs(20), || {
        edge.usage().fds <= before.fds + 2
    });
    let used = edge.usage();
    assert!(
        used.private_kib < before.private_kib + 32 * 1024,
        "{before:?} became {used:?}"
    );
    link.send(connecting("after"));
    let answer = link
        .wire
        .expect("an answer", |message| message.topic == "after");
    assert_eq!(answer.r#type, "connected");
}

#[test]
fn an_edge_keeps_to_its_allow_list_whatever_the_cloud_says() {
    let world = World::new();
    let (echo, secret) = (Target::echo(), Target::echo());
    let cloud = FakeCloud::start(&world, CloudOptions::version_1());
    let edge = world.edge_with(
        "node-A",
        world.edge_settings("node-A", &cloud.grpc, &echo.address()),
    );
    let mut link = cloud.link(secs(5));
    for (n, addr) in [
        secret.address(),
        "127.0.0.1:3306".into(),
        "10.0.0.1:22".into(),
        "localhost:1".into(),
        "x".into(),
        String::new(),
    ]
    .into_iter()
    .enumerate()
    {
        let topic = format!("t{n}");
        link.send(StreamMsg {
            addr: addr.clone(),
            ..connecting(&topic)
        });
        let answer = link
            .wire
            .expect("an answer", |message| message.topic == topic);
        assert_eq!(answer.r#type, "connect-failed", "{addr:?}");
        assert!(
            answer.code == 5 || answer.code == 9,
            "target-forbidden: {addr:?} {answer:?}"
        );
    }
    assert_eq!(secret.accepted(), 0);
    // Content, window, eof and closed for streams that were never there change nothing.
    for kind in ["content", "window", "eof", "closed", "detached", "nonsense"] {
        link.send(StreamMsg {
            data: b"x".to_vec(),
            ..of(&connecting("never"), kind)
        });
    }
    link.send(connecting("good"));
    let answer = link.wire.expect("an answer", |message| {
        message.topic == "good" && message.r#type.starts_with("connect")
    });
    assert_eq!(answer.r#type, "connected", "{answer:?}");
    assert!(edge.metrics().sum("refused_total", &[]) > 0.0);
}

#[test]
fn an_address_over_the_limit_fails_its_stream_only() {
    let world = World::new();
    let echo = Target::echo();
    let cloud = FakeCloud::start(&world, CloudOptions::version_1());
    let _edge = world.edge_with(
        "node-A",
        world.edge_settings("node-A", &cloud.grpc, &echo.address()),
    );
    let mut link = cloud.link(secs(5));
    let addr = format!("{}:22", "a".repeat(300));
    link.send(StreamMsg {
        addr,
        ..connecting("long")
    });
    link.send(connecting("good"));
    let mut answers = HashMap::new();
    while answers.len() < 2 {
        let answer = link
            .wire
            .expect("an answer", |m| m.r#type.starts_with("connect"));
        answers.insert(answer.topic.clone(), answer.r#type);
    }
    assert_eq!(answers["long"], "connect-failed");
    assert_eq!(answers["good"], "connected");
}

/// A cloud with version-1 links of node-A and node-B that a test plays.
struct Links {
    edge: FakeEdge,
    second: FakeEdge,
    cloud: Cloud,
    world: World,
}

impl Links {
    fn start() -> Self {
        let world = World::new();
        let cloud = world.cloud();
        let edge = FakeEdge::version_1(&world, &cloud.grpc, "node-A");
        let second = FakeEdge::version_1(&world, &cloud.grpc, "node-B");
        Self {
            edge,
            second,
            cloud,
            world,
        }
    }

    fn message(&self, kind: &str) -> StreamMsg {
        StreamMsg {
            node: "node-A".into(),
            category: "ssh".into(),
            r#type: kind.into(),
            epoch: 1,
            ..StreamMsg::default()
        }
    }

    /// A stream to node-A: the client's socket and its `connecting`.
    #[track_caller]
    fn open(&self) -> (Connect, StreamMsg) {
        open(&self.cloud, &self.edge, "node-A")
    }

    /// The stream carries bytes both ways.
    #[track_caller]
    fn round_trip(&self, open: &mut Connect, stream: &StreamMsg) {
        round_trip(&self.edge, open, stream);
    }

    #[track_caller]
    fn works(&self) {
        let (mut open, stream) = self.open();
        self.round_trip(&mut open, &stream);
    }

    #[track_caller]
    fn other_node_works(&self) {
        let (mut open, stream) = open(&self.cloud, &self.second, "node-B");
        round_trip(&self.second, &mut open, &stream);
    }

    #[track_caller]
    fn counted(&self, reason: &str) {
        wait_until(&format!("{reason} is counted"), secs(5), || {
            self.cloud
                .metrics()
                .sum("streams_closed_total", &[("reason", reason)])
                >= 1.0
        });
        assert!(
            self.cloud.process.log_lines(&[reason]) > 0,
            "{reason} in the log"
        );
    }

    /// Sends on past every limit until the stream is closed.
    fn closed(&self, stream: &StreamMsg, mut offset: u64) -> StreamMsg {
        let start = Instant::now();
        loop {
            match self.edge.wire.next(Duration::ZERO) {
                Some(Event::Message(m)) if m.r#type == "closed" && m.topic == stream.topic => {
                    return m;
                }
                Some(Event::End(status)) => panic!("the link ended: {status:?}"),
                _ => {}
            }
            assert!(
                start.elapsed() < secs(20),
                "{offset} bytes went past the limit"
            );
            self.edge.wire.send(StreamMsg {
                offset,
                data: vec![7; 65_536],
                ..of(stream, "content")
            });
            offset += 65_536;
        }
    }
}

#[track_caller]
fn open(cloud: &Cloud, edge: &FakeEdge, node: &str) -> (Connect, StreamMsg) {
    let front = cloud.connect.clone();
    let target = format!("{node}:22");
    let client = std::thread::spawn(move || Connect::open(&front, &target));
    let stream = edge.accept(1 << 20);
    assert_eq!(stream.node.to_lowercase(), node.to_lowercase());
    (client.join().unwrap(), stream)
}

#[track_caller]
fn round_trip(edge: &FakeEdge, open: &mut Connect, stream: &StreamMsg) {
    open.socket.write_all(b"question").unwrap();
    let content = edge.wire.expect("content", |m| {
        m.r#type == "content" && m.topic == stream.topic
    });
    assert_eq!(
        (content.offset, content.data.as_slice()),
        (0, &b"question"[..])
    );
    edge.wire.send(StreamMsg {
        data: b"answer".to_vec(),
        ack: 8,
        limit: 1 << 20,
        ..of(stream, "content")
    });
    let mut answer = [0; 6];
    open.socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

/// A message of a stream, with nothing in it.
fn of(stream: &StreamMsg, kind: &str) -> StreamMsg {
    StreamMsg {
        node: stream.node.clone(),
        category: stream.category.clone(),
        topic: stream.topic.clone(),
        r#type: kind.into(),
        epoch: stream.epoch,
        ..StreamMsg::default()
    }
}

fn connecting(topic: &str) -> StreamMsg {
    StreamMsg {
        node: "node-A".into(),
        category: "ssh".into(),
        r#type: "connecting".into(),
        topic: topic.into(),
        addr: "127.0.0.1:22".into(),
        key: vec![7; 16],
        limit: 65_536,
        epoch: 1,
        ..StreamMsg::default()
    }
}

#[test]
fn connections_to_the_grpc_port_that_say_nothing_are_ended() {
    let world = World::new();
    let cloud = world.cloud();
    let mut silent = TcpStream::connect(&cloud.grpc).unwrap();
    silent.set_read_timeout(Some(secs(30))).unwrap();
    let mut byte = [0];
    // A handshake has a deadline: an end or a reset, not silence for ever.
    let end = silent.read(&mut byte);
    assert!(
        matches!(end, Ok(0))
            || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    );
    FakeEdge::version_1(&world, &cloud.grpc, "node-A");
}
