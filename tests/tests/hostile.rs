//! Those who have a credential and mean ill: users and edges who send by hand what no program of ours would. Streams of
//! others go on, each byte in its place.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Instant;

use tonic::Code;
use tunnel_tests::binaries::binary;
use tunnel_tests::cluster::Cluster;
use tunnel_tests::connect::dial;
use tunnel_tests::cutter::Cutter;
use tunnel_tests::fake_edge::{EdgeOptions, FakeEdge};
use tunnel_tests::http;
use tunnel_tests::opener::{Opened, client_link, proof, topic};
use tunnel_tests::openssh::{client_config, nc};
use tunnel_tests::session::{Busy, measured};
use tunnel_tests::targets::Target;
use tunnel_tests::usage::Usage;
use tunnel_tests::wait::{millis, secs, wait_until};
use tunnel_tests::wire::{Event, StreamMsg};
use tunnel_tests::world::{TOKEN, User};
use tunnel_tests::{Cloud, Connect, Edge, World};

/// The token of one who may reach the node, as alice may.
const MALLORY: &str = "mallory-bearer-token";
/// That of one who may not.
const BOB: &str = "bob-bearer-token";
/// Replicas: the first has the edge, the second passes streams on to it.
const REPLICAS: usize = 2;

/// Two replicas, an edge at the first, an echo behind it.
struct Scene {
    edge: Edge,
    cluster: Cluster,
    _echo: Target,
    world: World,
}

impl Scene {
    fn start() -> Self {
        let (world, echo) = (World::new(), Target::echo());
        with_mallory(&world);
        let cluster = Cluster::start(&world, REPLICAS);
        let settings = world
            .edge_settings("node-A", &cluster.replicas[0].grpc, &echo.address())
            .set("reconnect.max", "300ms");
        let mut edge = world.edge_with("node-A", settings);
        edge.process.wait_status("link", "up", secs(10));
        cluster.wait_linked();
        for at in 0..REPLICAS {
            drop(cluster.open(at, "node-A"));
        }
        Self {
            edge,
            cluster,
            _echo: echo,
            world,
        }
    }

    fn grpc(&self, at: usize) -> &str {
        &self.cluster.replicas[at].grpc
    }

    fn link(&self, at: usize, token: &str) -> FakeEdge {
        client_link(&self.world, self.grpc(at), "node-A", token).unwrap()
    }

    /// What users run, by each replica: nc, and `tunnel connect` to that address.
    fn users(&self, links: &str) -> Vec<(String, Busy)> {
        let mut users = Vec::new();
        for (at, replica) in self.cluster.replicas.iter().enumerate() {
            let mut command = Command::new(nc());
            command.args([
                "-N",
                "-X",
                "connect",
                "-x",
                &replica.connect,
                "node-A",
                "22",
            ]);
            users.push((format!("nc at {at}"), Busy::through(command)));
        }
        let config = client_config(&self.world, links, "alice-bearer-token");
        let mut command = Command::new(binary("tunnel"));
        command.arg("--config").arg(config);
        command.args(["connect", "node-A", "22"]);
        command
            .env_remove("TUNNEL_SERVER")
            .env_remove("TUNNEL_TOKEN");
        users.push(("tunnel connect".into(), Busy::through(command)));
        users
    }

    /// The topics of all streams at the edge, as an administrator sees them.
    fn topics(&self) -> Vec<String> {
        let (code, text) = http::get(&self.edge.admin, "/api/v1/streams");
        assert_eq!(code, 200, "{text}");
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|item| item["topic"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn with_mallory(world: &World) {
    let user = |name, token, nodes| User {
        name,
        password: "a-password",
        token,
        nodes,
        ports: &[22],
        admin: false,
    };
    world.write_users(&[
        user("alice", "alice-bearer-token", &["node-*"]),
        user("mallory", MALLORY, &["node-*"]),
        user("bob", BOB, &["node-b"]),
    ]);
}

/// Waits until each has had bytes back that it sent from now on.
#[track_caller]
fn all_move(users: &[(String, Busy)]) {
    let now = Instant::now();
    for (name, user) in users {
        let took = user.moves_after(now, secs(30));
        assert!(took < secs(30), "{name}");
    }
}

/// Each has all of its bytes back.
fn finish(users: Vec<(String, Busy)>) {
    for (name, user) in users {
        assert!(user.finish() > 0, "{name}");
    }
}

/// What is answered to a message of a topic.
#[track_caller]
fn answer(link: &FakeEdge, what: &str, message: StreamMsg) -> StreamMsg {
    let (topic, epoch) = (message.topic.clone(), message.epoch);
    link.wire.send(message);
    link.wire.expect(what, |answer| {
        answer.topic == topic && answer.epoch == epoch && answer.r#type != "window"
    })
}

#[test]
fn without_the_key_no_resume_takes_a_stream_and_none_disturbs_it() {
    let scene = Scene::start();
    for home in 0..REPLICAS {
        let own = scene.link(home, "alice-bearer-token");
        let mut stream = Opened::by(&own.wire);
        stream.echo(&own.wire, b"the first attachment");
        // An eavesdropper has seen this one.
        let seen = stream.resume(2);
        stream.move_to(&own.wire);
        stream.echo(&own.wire, b"the second");
        for at in 0..REPLICAS {
            let mallory = scene.link(at, MALLORY);
            let bob = scene.link(at, BOB);
            let hers = Opened::by(&mallory.wire);
            let next = stream.epoch + 1;
            let with = |key: Vec<u8>, epoch| StreamMsg {
                key,
                epoch,
                ..stream.resume(epoch)
            };
            let tries = [
                ("a wrong key", with(vec![7; 16], next)),
                (
                    "another stream's key",
                    with(proof(&hers.key, "resume", &stream.topic, next), next),
                ),
                (
                    "another stream's proof",
                    with(proof(&hers.key, "resume", &hers.topic, next), next),
                ),
                ("a replayed proof", seen.clone()),
                ("its proof for more", with(seen.key.clone(), next)),
                ("its proof for the most", with(seen.key.clone(), u32::MAX)),
                ("a lower epoch", stream.resume(1)),
                (
                    "a second connecting",
                    StreamMsg {
                        key: vec![7; 16],
                        limit: 1 << 20,
                        epoch: next,
                        ..stream.message("connecting")
                    },
                ),
            ];
            for (what, message) in tries {
                let what = format!("{what}, stream at {home}, by {at}");
                let refused = answer(&mallory, &what, message);
                let kind = refused.r#type.as_str();
                assert!(
                    ["closed", "connect-failed", "detached"].contains(&kind),
                    "{what}: {refused:?}"
                );
                let codes = match kind {
                    "detached" => [6, 7, 20].as_slice(), // There may be a way another time.
                    _ => &[7],
                };
                assert!(codes.contains(&refused.code), "{what}: {refused:?}");
                stream.echo(&own.wire, what.as_bytes());
            }
            let refused = answer(&bob, "no right", stream.resume(next));
            assert_eq!(refused.code, 14, "revoked: {refused:?}");
            // What has no way of its own goes nowhere, whatever attachment it claims.
            for kind in ["content", "eof", "window", "closed"] {
                mallory.wire.send(StreamMsg {
                    offset: 0,
                    data: b"forged".to_vec(),
                    ack: 1 << 30,
                    limit: 1 << 40,
                    code: 16,
                    ..stream.message(kind)
                });
            }
            for _ in 0..50 {
                stream.echo(&own.wire, &[b'x'; 1000]);
            }
            // Her own go on, too: what was refused was a stream's, not the link's.
            hers.clone().echo(&mallory.wire, b"mine");
        }
        // The true one is taken from where it is to another replica.
        let other = scene.link(1 - home, "alice-bearer-token");
        stream.move_to(&other.wire);
        stream.echo(&other.wire, b"at the other");
    }
}

/// Users whose links are cut, so that they resume, while somebody claims their streams for one attachment after another.
#[test]
fn forged_claims_race_with_true_ones_in_vain() {
    const CUTS: usize = 15;
    let scene = Scene::start();
    let line = Cutter::before(&[scene.grpc(1).to_owned(), scene.grpc(0).to_owned()]);
    let users = scene.users(line.address());
    let topics = scene.topics();
    assert!(topics.len() >= users.len(), "{topics:?}");
    let claims = |at: usize, done: &std::sync::atomic::AtomicBool| {
        let link = scene.link(at, MALLORY);
        let mut claimed = 0;
        for epoch in 2.. {
            if done.load(std::sync::atomic::Ordering::SeqCst) {
                break;
            }
            for topic in &topics {
                for (kind, epoch) in [
                    ("resume", epoch),
                    ("resume", epoch / 20 + 2),
                    ("connecting", epoch),
                ] {
                    link.wire.send(StreamMsg {
                        node: "node-A".into(),
                        category: "ssh".into(),
                        r#type: kind.into(),
                        topic: topic.clone(),
                        addr: "127.0.0.1:22".into(),
                        key: vec![9; 16],
                        limit: 1 << 20,
                        epoch,
                        ..StreamMsg::default()
                    });
                    claimed += 1;
                }
            }
            while let Some(event) = link.wire.next(millis(5)) {
                match event {
                    Event::Message(message) => assert!(
                        !["resumed", "connected", "content"].contains(&message.r#type.as_str()),
                        "{message:?}"
                    ),
                    Event::End(status) => panic!("{status:?}"),
                }
            }
        }
        claimed
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    let (claimed, stalls) = thread::scope(|scope| {
        let claiming: Vec<_> = (0..REPLICAS)
            .map(|at| {
                scope.spawn({
                    let (claims, done) = (&claims, &done);
                    move || claims(at, done)
                })
            })
            .collect();
        let mut stalls = Vec::new();
        for _ in 0..CUTS {
            all_move(&users);
            for (_, user) in &users {
                user.stall();
            }
            line.cut();
            all_move(&users);
            stalls.push(users.iter().map(|(_, user)| user.stall()).max().unwrap());
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        let claimed: usize = claiming.into_iter().map(|one| one.join().unwrap()).sum();
        (claimed, stalls)
    });
    let longest = stalls.iter().max().unwrap();
    measured(
        &format!("{CUTS} cuts among {claimed} forged claims"),
        &[("longest stall", *longest)],
    );
    assert!(*longest < secs(3), "{stalls:?}");
    finish(users);
}

/// A link as the node's edge makes it, by hand.
fn edge_link(scene: &Scene, at: usize, node: &str, instance: &str) -> FakeEdge {
    let options = EdgeOptions::version_1(node, TOKEN, instance);
    FakeEdge::connect(&scene.world, scene.grpc(at), &options).unwrap()
}

/// What an edge may say of a stream, forged.
fn forged(topic: &str, epoch: u32) -> Vec<StreamMsg> {
    let message = |kind: &str| StreamMsg {
        node: "node-A".into(),
        category: "ssh".into(),
        r#type: kind.into(),
        topic: topic.to_owned(),
        key: vec![9; 16],
        limit: 1 << 30,
        epoch,
        ..StreamMsg::default()
    };
    vec![
        StreamMsg {
            data: b"forged".to_vec(),
            ..message("content")
        },
        message("resumed"),
        message("connected"),
        StreamMsg {
            ack: 1 << 20,
            ..message("window")
        },
        message("eof"),
        StreamMsg {
            code: 16,
            ..message("closed")
        },
        StreamMsg {
            code: 1,
            ..message("connect-failed")
        },
    ]
}

/// It may stand for the node, having its token; the streams of the process that stood for it before stay that one's.
#[test]
fn an_edge_with_the_node_s_token_gets_no_stream_of_another_process() {
    let scene = Scene::start();
    let users = scene.users(&[scene.grpc(0), scene.grpc(1)].join(","));
    let topics = scene.topics();
    for at in 0..REPLICAS {
        let rogue = edge_link(&scene, at, "node-A", &format!("{}.1", topic()));
        for topic in &topics {
            for message in (1..6).flat_map(|epoch| forged(topic, epoch)) {
                rogue.wire.send(message);
            }
        }
        // Nothing of theirs reaches it, until the true one has taken its place again.
        let status = loop {
            match rogue.wire.next(secs(20)).expect("the true edge is back") {
                Event::Message(message) => {
                    assert!(
                        !topics.contains(&message.topic) || message.r#type != "content",
                        "{message:?}"
                    );
                }
                Event::End(status) => break status,
            }
        };
        assert_eq!(status.expect("an error").code(), Code::Aborted);
        all_move(&users);
        // An edge takes no streams: that is an opener's to ask.
        let rogue = edge_link(&scene, at, "node-A", &format!("{}.1", topic()));
        rogue.wire.send(StreamMsg {
            node: "node-A".into(),
            category: "ssh".into(),
            r#type: "resume".into(),
            topic: topics[0].clone(),
            addr: "127.0.0.1:22".into(),
            key: vec![9; 16],
            epoch: 9,
            ..StreamMsg::default()
        });
        let status = rogue.wire.end(secs(10)).expect("an error");
        assert!(
            [Code::InvalidArgument, Code::Aborted].contains(&status.code()),
            "{status:?}"
        );
        all_move(&users);
    }
    finish(users);
}

/// One that passes for a newer link of the very process is asked to go on with its streams, and can't.
#[test]
fn a_link_that_lies_about_its_process_learns_nothing() {
    let scene = Scene::start();
    let own = scene.link(0, "alice-bearer-token");
    let stream = Opened::by(&own.wire);
    let uuid = String::from_utf8(stream.instance.clone()).unwrap();
    let uuid = uuid.split('.').next().unwrap().to_owned();
    let users = scene.users(&[scene.grpc(0), scene.grpc(1)].join(","));
    let topics = scene.topics();
    let mut asked = 0;
    for (at, number) in [(0, 900), (1, 901)] {
        let rogue = edge_link(&scene, at, "node-A", &format!("{uuid}.{number}"));
        let until = Instant::now() + secs(2);
        while Instant::now() < until {
            let Some(Event::Message(message)) = rogue.wire.next(millis(200)) else {
                continue;
            };
            assert!(
                message.r#type != "content",
                "bytes for one without the key: {message:?}"
            );
            if message.r#type == "resume" && topics.contains(&message.topic) {
                asked += 1;
                // One that it has the right to end it isn't told: `closed` is its process's to say.
                let lies = forged(&message.topic, message.epoch);
                for kind in ["content", "window", "eof", "resumed"] {
                    let lie = lies.iter().find(|lie| lie.r#type == kind);
                    rogue.wire.send(lie.unwrap().clone());
                }
            }
        }
        drop(rogue);
        all_move(&users);
    }
    assert!(asked > 0, "it was never asked");
    finish(users);
}

#[test]
fn an_edge_reaches_no_stream_of_another_node_s() {
    let scene = Scene::start();
    let users = scene.users(&[scene.grpc(0), scene.grpc(1)].join(","));
    let topics = scene.topics();
    for at in 0..REPLICAS {
        let rogue = edge_link(&scene, at, "node-B", &format!("{}.1", topic()));
        for node in ["node-A", "node-B"] {
            for topic in &topics {
                for message in (1..4).flat_map(|epoch| forged(topic, epoch)) {
                    rogue.wire.send(StreamMsg {
                        node: node.into(),
                        ..message
                    });
                }
            }
        }
        all_move(&users);
        // It is still a link, with its own streams: nothing of this was more than ignored.
        let connect = scene.cluster.replicas[at].connect.clone();
        let open = thread::spawn(move || Connect::open(&connect, "node-B:22"));
        rogue.accept(1 << 20);
        drop(open.join().unwrap());
    }
    finish(users);
}

/// An address in whatever an edge or a user says is nobody's to dial, and what only replicas say they may not say.
#[test]
fn only_replicas_tell_replicas_where_nodes_are() {
    let scene = Scene::start();
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let address = trap.local_addr().unwrap().to_string();
    for at in 0..REPLICAS {
        for kind in ["here", "gone"] {
            let said = StreamMsg {
                node: "node-C".into(),
                category: "stream".into(),
                r#type: kind.into(),
                addr: address.clone(),
                data: format!("{}.1", topic()).into_bytes(),
                offset: u64::MAX,
                ..StreamMsg::default()
            };
            let edge = edge_link(&scene, at, "node-B", &format!("{}.1", topic()));
            for link in [edge, scene.link(at, MALLORY)] {
                link.wire.send(said.clone());
                let status = link.wire.end(secs(10)).expect("an error");
                assert_eq!(status.code(), Code::InvalidArgument, "{kind}: {status:?}");
            }
        }
        // A user asks for what the edge alone may refuse; the replica dials nothing for either.
        let mallory = scene.link(at, MALLORY);
        let asked = StreamMsg {
            key: vec![7; 16],
            limit: 1 << 20,
            addr: address.clone(),
            ..Opened::by(&mallory.wire).message("connecting")
        };
        let refused = answer(
            &mallory,
            "an address",
            StreamMsg {
                topic: topic(),
                ..asked
            },
        );
        assert_eq!(refused.r#type, "connect-failed", "{refused:?}");
        let reply = Connect::try_open(&scene.cluster.replicas[at].connect, "node-C:22").unwrap();
        assert_eq!(
            reply.unwrap_err().code(),
            503,
            "nobody believes in a node-C"
        );
        scene.cluster.open(at, "node-A").echo(b"still here");
    }
    assert!(trap.accept().is_err(), "somebody came");
}

/// Replica 1 relays between a user and an edge at replica 0. Neither can make either of them hold more than its room.
#[test]
fn a_relay_holds_no_more_than_its_room() {
    const ROOM: i64 = 1 << 20;
    const STREAMS: usize = 8;
    let world = World::new();
    with_mallory(&world);
    let cluster = Cluster::start_with(&world, REPLICAS, |_, _, settings| {
        settings
            .set("streams.relay_bytes_max", ROOM)
            .set("streams.window_bytes_max", ROOM)
            .set("log.level", "info")
    });
    let source = Target::source();
    let settings = world
        .edge_settings("node-A", &cluster.replicas[0].grpc, &source.address())
        .set("log.level", "info");
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    cluster.wait_linked();
    for at in 0..REPLICAS {
        drop(cluster.open(at, "node-A"));
    }
    let before: Vec<Usage> = cluster.replicas.iter().map(Cloud::usage).collect();
    // A user who grants more than anybody has, and reads nothing.
    let greedy = client_link(&world, &cluster.replicas[1].grpc, "node-A", MALLORY).unwrap();
    let streams: Vec<Opened> = (0..STREAMS).map(|_| Opened::by(&greedy.wire)).collect();
    greedy.wire.read(false);
    for stream in &streams {
        greedy.wire.send(StreamMsg {
            limit: u64::MAX,
            ..stream.message("window")
        });
    }
    // Each stream's room, a link's HTTP/2 window, and what processes grow by as they run.
    let most = (STREAMS as i64 * ROOM / 1024) as usize + 32 * 1024 + 8 * 1024;
    let held = |what: Option<&str>| {
        let replicas = cluster.replicas.iter().zip(&before);
        let grown: Vec<usize> = replicas
            .map(|(replica, before)| {
                let now = replica.usage().private_kib;
                now.saturating_sub(before.private_kib)
            })
            .collect();
        if let Some(what) = what {
            println!("measured: {what}: replicas grew by {grown:?} KiB, {most} may be");
        }
        assert!(grown.iter().all(|kib| *kib <= most), "{grown:?}");
    };
    settle(|| edge_bytes(&edge));
    held(Some("a user who reads nothing"));
    // An edge that sends whatever it was granted, a user who takes nothing.
    let hostile = EdgeOptions::version_1("node-B", TOKEN, &format!("{}.1", topic()));
    let hostile = FakeEdge::connect(&world, &cluster.replicas[0].grpc, &hostile).unwrap();
    let mut clients = Vec::new();
    let mut accepted = Vec::new();
    wait_until("the second replica knows node-B", secs(10), || {
        let mut socket = dial(&cluster.replicas[1].connect).unwrap();
        use std::io::Write;
        socket
            .write_all(b"CONNECT node-B:22 HTTP/1.1\r\n\r\n")
            .unwrap();
        clients.push(socket);
        match hostile.wire.next(millis(500)) {
            Some(Event::Message(message)) if message.r#type == "connecting" => {
                accepted.push(message);
            }
            _ => {}
        }
        accepted.len() >= STREAMS
    });
    for connecting in &accepted {
        hostile.wire.send(StreamMsg {
            r#type: "connected".into(),
            data: b"an-instance".to_vec(),
            limit: 1 << 20,
            ack: 0,
            key: Vec::new(),
            addr: String::new(),
            ..connecting.clone()
        });
    }
    let block = vec![0; 65_536];
    for connecting in &accepted {
        for number in 0..(64 << 20) / block.len() {
            hostile.wire.send(StreamMsg {
                r#type: "content".into(),
                topic: connecting.topic.clone(),
                node: connecting.node.clone(),
                category: connecting.category.clone(),
                epoch: connecting.epoch,
                offset: (number * block.len()) as u64,
                data: block.clone(),
                ..StreamMsg::default()
            });
            if number % 64 == 0 {
                held(None);
            }
        }
    }
    for connecting in &accepted {
        let closed = hostile.wire.expect("closed", |message| {
            message.r#type == "closed" && message.topic == connecting.topic
        });
        assert_eq!(closed.code, 8, "flow-control: {closed:?}");
    }
    held(Some("an edge that knows no limit"));
    drop((greedy, hostile, clients));
    wait_until("streams are gone", secs(20), || {
        cluster
            .replicas
            .iter()
            .all(|replica| replica.streams() == 0.0)
    });
}

fn edge_bytes(edge: &Edge) -> f64 {
    edge.metrics().sum("stream_bytes_total", &[])
}

/// Waits until a count has stopped to move.
fn settle(mut count: impl FnMut() -> f64) {
    let (mut last, mut since) = (count(), Instant::now());
    wait_until("nothing moves any more", secs(30), || {
        let now = count();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > millis(500)
    });
}
