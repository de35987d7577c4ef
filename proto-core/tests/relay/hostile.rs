//! Who has no key: no `resume` of theirs succeeds and none disturbs the stream, whoever sends it and by whichever replica;
//! and what an edge may say makes a replica do nothing for it but what its own node's streams ask for.

use super::*;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

fn last(world: &World, from: Who, kind: &str) -> StreamMsg {
    let all = world.sniffed.iter().rev();
    let found = all
        .clone()
        .find(|(who, _, msg)| *who == from && msg.r#type == kind);
    found.unwrap_or_else(|| panic!("no {kind}")).2.clone()
}

fn proof(key: &[u8], topic: &str, epoch: u32) -> Bytes {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
    for part in [b"resume", &b"\0"[..], topic.as_bytes(), b"\0"] {
        mac.update(part);
    }
    mac.update(&epoch.to_be_bytes());
    Bytes::copy_from_slice(&mac.finalize().into_bytes()[..16])
}

/// Two streams of hub 0 by way of hub 1, of which the first has been resumed twice.
struct Victim {
    world: World,
    here: StreamId,
    there: StreamId,
    connecting: StreamMsg,
    /// Its proved questions, oldest first.
    resumes: Vec<StreamMsg>,
    /// The secret of another stream.
    other_key: Bytes,
}

fn victim() -> Victim {
    let mut world = World::new(3, Config::default());
    world.edge_connects(1);
    let here = world.open(0, b"");
    let there = world.at_edge();
    let connecting = last(&world, Who::Hub(0), "connecting");
    let mut resumes = Vec::new();
    for _ in 0..2 {
        world.cut(Who::Hub(0), Who::Hub(1));
        world.pass(Duration::from_secs(1));
        resumes.push(last(&world, Who::Hub(0), "resume"));
    }
    world.open(0, b"");
    let other_key = last(&world, Who::Hub(0), "connecting").key;
    assert_eq!((resumes[0].epoch, resumes[1].epoch), (2, 3));
    assert_ne!(other_key, connecting.key);
    Victim {
        world,
        here,
        there,
        connecting,
        resumes,
        other_key,
    }
}

impl Victim {
    /// What somebody without the key may try. The last two know it, and come late.
    fn attempts(&self) -> Vec<(&'static str, StreamMsg)> {
        let newest = self.resumes[1].clone();
        let topic = newest.topic.as_str();
        let with = |epoch: u32, key: Bytes| StreamMsg {
            epoch,
            key,
            ..newest.clone()
        };
        let connecting = |epoch: u32, key: Bytes| StreamMsg {
            epoch,
            key,
            ..self.connecting.clone()
        };
        let (wrong, key) = (Bytes::from_static(&[7; 16]), &self.connecting.key);
        vec![
            ("a wrong key", with(9, wrong.clone())),
            ("no key", with(9, Bytes::new())),
            ("a wrong key, connecting", connecting(9, wrong)),
            (
                "another stream's key",
                with(9, proof(&self.other_key, topic, 9)),
            ),
            (
                "another stream's key, connecting",
                connecting(9, self.other_key.clone()),
            ),
            (
                "another stream's proof",
                with(9, proof(&self.other_key, "another", 9)),
            ),
            ("a replayed proof", newest.clone()),
            (
                "a replayed proof of a higher epoch",
                with(4, newest.key.clone()),
            ),
            ("an older proof", self.resumes[0].clone()),
            ("a lower epoch", with(1, proof(key, topic, 1))),
            ("the same epoch", with(3, proof(key, topic, 3))),
        ]
    }

    fn lives(&mut self, what: &str) {
        let before = (
            self.world.got(Who::Edge, self.there).len(),
            self.world.got(Who::Hub(0), self.here).len(),
        );
        self.world.send(Who::Hub(0), self.here, b"up");
        self.world.send(Who::Edge, self.there, b"down");
        let got = (
            self.world.got(Who::Edge, self.there)[before.0..].to_vec(),
            self.world.got(Who::Hub(0), self.here)[before.1..].to_vec(),
        );
        assert_eq!(got, (b"up".to_vec(), b"down".to_vec()), "{what}");
        assert_eq!(self.world.log(Who::Edge).dialed, 2, "{what}");
        assert!(self.world.log(Who::Hub(0)).closed.is_empty(), "{what}");
        assert!(self.world.log(Who::Edge).closed.is_empty(), "{what}");
    }

    /// Delivers it by this link of the hub's, and takes the answers.
    fn sends(&mut self, hub: usize, link: LinkId, msg: StreamMsg) -> Vec<StreamMsg> {
        let world = &mut self.world;
        world.hubs[hub].handle_message(link, msg, world.now);
        world.pass(Duration::from_millis(100));
        let now = world.now;
        std::iter::from_fn(|| world.hubs[hub].poll_transmit(link, now))
            .filter(|msg| msg.category != "stream")
            .collect()
    }
}

fn anybody() -> ClientUp {
    ClientUp {
        user: None,
        rights: Rights::everything(),
        remote: "eve".into(),
        only_if_found: None,
        offline_since: None,
        resume: true,
    }
}

fn edge_up(instance: &str, draining: bool) -> LinkUp {
    LinkUp {
        dialect: Dialect::V1,
        instance: proto_core::Instance::parse(instance),
        spelling: name(),
        remote: "rogue".into(),
        draining,
        wall_ms: 0,
    }
}

#[test]
fn no_client_and_no_peer_takes_a_stream_over_by_the_same_replica_or_another() {
    let mut victim = victim();
    for (what, msg) in victim.attempts() {
        // Hub 1 has the edge's link; hub 2 relays to it.
        for hub in [1, 2] {
            for is_client in [true, false] {
                let (what, now) = (
                    format!("{what} at {hub}, client {is_client}"),
                    victim.world.now,
                );
                let link = match is_client {
                    true => victim.world.hubs[hub].client_up(anybody(), now),
                    false => victim.world.hubs[hub].peer_up("eve".into(), now),
                };
                let answers = victim.sends(hub, link, msg.clone());
                let took = |msg: &StreamMsg| {
                    ["resumed", "connected", "content", "window", "eof"].contains(&&*msg.r#type)
                };
                assert!(!answers.iter().any(took), "{what}: {answers:?}");
                victim.lives(&what);
                let now = victim.world.now;
                victim.world.hubs[hub].link_lost(link, LinkLoss::Broken, now);
                victim.world.settle();
                victim.lives(&what);
            }
        }
    }
    victim.world.pass(Duration::from_secs(60));
    victim.lives("in the end");
}

#[test]
fn no_edge_with_the_nodes_token_takes_a_stream_over() {
    let mut victim = victim();
    // It says that it leaves, so that it replaces nobody.
    for (what, msg) in victim.attempts() {
        for hub in [1, 2] {
            let now = victim.world.now;
            let link = victim.world.hubs[hub].link_up(edge_up("rogue.1", true), now);
            victim.world.settle();
            let answers = victim.sends(hub, link, msg.clone());
            assert!(answers.is_empty(), "{what}: {answers:?}");
            let ended = victim.world.hubs[hub].link_infos();
            let ended = ended.iter().all(|info| info.link != link);
            assert!(ended, "{what}: an edge asks for nothing");
            victim.lives(what);
        }
    }
}

#[test]
fn an_edge_that_takes_the_nodes_place_gets_no_byte_of_its_streams() {
    let mut victim = victim();
    victim.world.send(Who::Hub(0), victim.here, b"before");
    let content = last(&victim.world, Who::Edge, "connected");
    let held = victim.world.log(Who::Hub(1)).held[0].clone();
    // Another process; and one that says that it is the same.
    let same = format!("{}.{}", held.instance.uuid(), 1_000_000);
    for instance in ["rogue.1", &same] {
        let now = victim.world.now;
        let link = victim.world.hubs[1].link_up(edge_up(instance, false), now);
        victim.world.settle();
        victim.world.send(Who::Hub(0), victim.here, b"secret");
        let said = victim.world.got(Who::Edge, victim.there).len() as u64;
        let mut heard = Vec::new();
        for (kind, epoch) in (1..8).flat_map(|epoch| {
            ["resumed", "connected", "content", "eof", "window", "closed"].map(|kind| (kind, epoch))
        }) {
            let data: &'static [u8] = match kind {
                "content" => b"forged",
                _ => b"",
            };
            let msg = StreamMsg {
                r#type: kind.into(),
                topic: victim.connecting.topic.clone(),
                key: Bytes::from_static(&[9; 16]),
                data: Bytes::from_static(data),
                ack: said, // It has seen the lengths of what was sent.
                limit: 1 << 20,
                code: 7,
                epoch,
                ..content.clone()
            };
            heard.extend(victim.sends(1, link, msg));
        }
        let spoke = heard
            .iter()
            .any(|msg| !msg.data.is_empty() && msg.r#type == "content");
        assert!(!spoke, "{instance}: {heard:?}");
        let got = victim.world.got(Who::Hub(0), victim.here);
        assert!(!got.windows(6).any(|six| six == b"forged"), "{instance}");
        let now = victim.world.now;
        victim.world.hubs[1].link_lost(link, LinkLoss::Broken, now);
        victim.world.settle();
        if instance == same {
            break; // Who has the token and the process's name has the acceptor's place: it may end the stream, no more.
        }
        // The true one comes back.
        victim.world.edge_connects(1);
        victim.world.pass(Duration::from_secs(12));
        let got = victim.world.got(Who::Edge, victim.there).to_vec();
        assert_eq!(got, b"beforesecret");
        victim.lives("in the end");
    }
}

#[test]
fn an_edge_reaches_no_stream_of_another_node_and_makes_its_replica_dial_nothing() {
    const KINDS: [&str; 16] = [
        "connecting",
        "connected",
        "connect-failed",
        "content",
        "window",
        "eof",
        "closed",
        "resume",
        "resumed",
        "detached",
        "heartbeat",
        "drain",
        "here",
        "gone",
        "tcp-forward",
        "nonsense",
    ];
    let mut victim = victim();
    for dialect in [Dialect::V1, Dialect::Base] {
        for kind in KINDS {
            for node in ["node-A", "node-B"] {
                let other = NodeName::parse("node-B").expect("a name");
                let config = Arc::new(Config::default());
                let mut hub = NodeHub::new(other.clone(), config, Budget::new(1 << 20), [5; 32]);
                let up = LinkUp {
                    dialect,
                    spelling: other,
                    ..edge_up("rogue.1", false)
                };
                let link = hub.link_up(up, victim.world.now);
                let msg = StreamMsg {
                    node: node.into(),
                    r#type: kind.into(),
                    data: Bytes::from_static(b"rogue.1"),
                    offset: 7,
                    ..victim.resumes[1].clone()
                };
                for category in ["ssh", "stream", "httpProxy", "egress"] {
                    let msg = StreamMsg {
                        category: category.into(),
                        ..msg.clone()
                    };
                    hub.handle_message(link, msg, victim.world.now);
                }
                while let Some(output) = hub.poll_output() {
                    let harmless = match &output {
                        Output::Dial { .. } | Output::Connect(_) | Output::Reply { .. } => false,
                        Output::Local(_) | Output::Close { .. } | Output::Client(_) => false,
                        Output::Cluster(wish) => matches!(wish, ClusterOutput::Held(_)),
                        Output::TransmitReady(_)
                        | Output::LinkReadable(_)
                        | Output::EndLink { .. }
                        | Output::Event(_) => true,
                    };
                    assert!(harmless, "{kind} for {node}: {output:?}");
                }
                assert!(hub.stream_infos().is_empty(), "{kind}");
            }
        }
    }
    victim.lives("untouched");
}

#[test]
fn an_edge_that_ignores_credit_makes_its_relay_hold_no_more_than_its_room() {
    const ROOM: u64 = 32_768;
    let mut config = Config::default();
    config.streams.relay_bytes_max = ROOM;
    let mut world = World::new(2, config);
    let instance = "rogue.1";
    let now = world.now;
    let rogue = world.hubs[1].link_up(edge_up(instance, false), now);
    world.settle();
    let streams: Vec<StreamId> = (0..20).map(|_| world.open(0, b"")).collect();
    let asked: Vec<StreamMsg> = std::iter::from_fn(|| world.hubs[1].poll_transmit(rogue, now))
        .filter(|msg| msg.r#type == "connecting")
        .collect();
    assert_eq!(asked.len(), streams.len());
    for msg in &asked {
        let connected = StreamMsg {
            r#type: "connected".into(),
            data: Bytes::from_static(b"rogue"),
            limit: 1 << 40,
            ..msg.clone()
        };
        world.hubs[1].handle_message(rogue, connected, now);
    }
    world.settle();
    // Hub 0 takes nothing more.
    let peer = world.link_of(Who::Hub(0), Who::Hub(1));
    world.links.retain(|link| *link != peer);
    let rooms = 2 * ROOM * asked.len() as u64;
    let mut most = 0;
    for number in 0..64 {
        for msg in &asked {
            let content = StreamMsg {
                r#type: "content".into(),
                offset: number * 16_384,
                data: bytes(16_384).into(),
                limit: 1 << 40,
                ..msg.clone()
            };
            world.hubs[1].handle_message(rogue, content, now);
            most = most.max(world.budgets[1].used());
        }
    }
    assert!(most <= rooms, "{most} of {rooms}");
    // Each stream that overran is over, at both ends, and the link is not.
    let ends = std::iter::from_fn(|| world.hubs[1].poll_transmit(rogue, now));
    let ends = ends.filter(|msg| msg.r#type == "closed" && msg.code == 8);
    assert_eq!(ends.count(), streams.len());
    assert!(world.hubs[1].is_linked());
    world.links.push(peer);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.log(Who::Hub(0)).closed.len(), streams.len());
    assert_eq!(world.budgets[1].used(), 0);
}
