//! Three replicas in memory: what each believes of the others is what they hold, whatever happens between them.

use super::*;
use crate::instance::Instance;
use crate::replica::Holder;
use alloc::format;
use alloc::string::ToString;
use core::time::Duration;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn each_replica_hears_what_the_others_hold_and_finds_itself_out() {
    let mut world = World::new(3);
    world.hold(1, "node-A", "a.1", 10);
    world.settle();
    for at in [0, 2] {
        assert_eq!(world.believed(at, "NODE-a"), ["1 a.1"]);
    }
    assert!(world.believed(1, "node-a").is_empty(), "its own");
    world.hold(1, "node-A", "a.2", 20);
    world.hold(2, "node-A", "b.1", 15);
    world.settle();
    assert_eq!(world.believed(0, "node-A"), ["1 a.2", "2 b.1"]);
    world.drop_node(1, "node-A");
    world.settle();
    assert_eq!(world.believed(0, "node-A"), ["2 b.1"]);
    let dialed = world.dialed;
    world.pass(SECOND * 120);
    assert_eq!(world.dialed, dialed, "nobody dials itself again");
    assert_eq!(world.connections.len(), 6, "one each way between two");
}

#[test]
fn what_a_peer_said_ends_with_its_link_and_comes_back_with_the_next() {
    let mut world = World::new(3);
    world.hold(1, "node-A", "a.1", 10);
    world.settle();
    world.cut(1);
    world.settle();
    assert!(world.believed(0, "node-A").is_empty());
    world.drop_node(1, "node-A");
    world.hold(1, "node-B", "b.1", 11);
    world.pass(SECOND * 30);
    assert!(world.believed(0, "node-A").is_empty());
    assert_eq!(world.believed(0, "node-B"), ["1 b.1"]);
}

#[test]
fn a_replica_that_starts_again_is_another() {
    let mut world = World::new(2);
    world.hold(1, "node-A", "a.1", 10);
    world.settle();
    let before = world.peers[1].me();
    world.restart(1);
    world.pass(SECOND * 30);
    assert_ne!(world.peers[1].me(), before);
    assert!(world.believed(0, "node-A").is_empty());
    world.hold(1, "node-A", "a.2", 10);
    world.settle();
    assert_eq!(world.believed(0, "node-A"), ["1 a.2"]);
}

#[test]
fn one_that_can_t_be_reached_is_asked_seldom_and_costs_the_others_nothing() {
    let mut world = World::new(3);
    world.reachable[2] = false;
    world.cut(2);
    world.hold(1, "node-A", "a.1", 10);
    world.pass(SECOND * 300);
    assert_eq!(world.believed(0, "node-A"), ["1 a.1"]);
    // Broken, at pauses of up to 10 s: by two others, in 300 s.
    assert!((60..400).contains(&world.dialed), "{}", world.dialed);
}

#[test]
fn a_node_that_flaps_while_there_is_no_room_is_told_once() {
    let mut world = World::new(2);
    world.settle();
    world.held_back = true;
    for link in 1..1000 {
        world.hold(1, "node-A", &format!("a.{link}"), link);
        world.drop_node(1, "node-A");
    }
    world.hold(1, "node-A", "a.1000", 1000);
    world.settle();
    let (told, sent) = (world.told, world.sent);
    world.held_back = false;
    world.settle();
    assert_eq!((world.told - told, world.sent - sent), (1, 1));
    assert_eq!(world.believed(0, "node-A"), ["1 a.1000"]);
}

#[test]
fn gone_removes_only_the_link_that_it_names() {
    let mut world = World::new(2);
    world.hold(1, "node-A", "a.2", 20);
    world.settle();
    for (instance, since) in [("a.1", 20), ("a.2", 19), ("b.2", 20)] {
        world.say(1, 0, "gone", "node-A", instance, since);
        assert_eq!(world.believed(0, "node-A"), ["1 a.2"], "{instance} {since}");
    }
    world.say(1, 0, "gone", "node-a", "a.2", 20);
    assert!(world.believed(0, "node-A").is_empty());
}

#[test]
fn skewed_clocks_decide_the_order_only() {
    let mut world = World::new(3);
    world.hold(1, "node-A", "a.1", 1 << 40);
    world.hold(2, "node-A", "b.1", 7);
    world.settle();
    assert_eq!(world.believed(0, "node-A"), ["1 a.1", "2 b.1"]);
    world.say(1, 0, "here", "node-A", "a.2", u64::MAX);
    assert_eq!(world.believed(0, "node-A"), ["1 a.1", "2 b.1"], "no time");
}

#[test]
fn a_bad_message_changes_nothing_and_ends_nothing() {
    let mut world = World::new(2);
    world.hold(1, "node-A", "a.1", 10);
    world.settle();
    let links = world.peers[0].link_infos().len();
    world.say(1, 0, "here", "no name", "a.2", 20);
    world.say(1, 0, "here", "node-A", "no instance", 20);
    world.say(1, 0, "here", &"n".repeat(300), "a.2", 20);
    world.say(1, 0, "connecting", "node-A", "a.2", 20);
    world.say(1, 0, "nonsense", "node-A", "a.2", 20);
    // On the link that is this replica's to speak on.
    world.say_back(1, 0, "here", "node-A", "a.2", 20);
    assert_eq!(world.believed(0, "node-A"), ["1 a.1"]);
    assert_eq!(world.peers[0].link_infos().len(), links);
    assert_eq!(world.ignored, 6);
}

#[test]
fn one_peer_can_t_fill_the_memory() {
    let mut world = World::new(2);
    world.settle();
    for node in 0..20 {
        world.hold(1, &format!("node-{node}"), "a.1", 1);
    }
    world.settle();
    let believed = (0..20).filter(|node| !world.believed(0, &format!("node-{node}")).is_empty());
    assert_eq!(believed.count(), NODES_MAX);
    assert_eq!(world.ignored, 20 - NODES_MAX);
    world.drop_node(1, "node-0");
    world.hold(1, "node-x", "a.1", 1);
    world.settle();
    assert_eq!(
        world.believed(0, "node-x"),
        ["1 a.1"],
        "there is room again"
    );
}

#[test]
fn each_process_of_a_node_is_told_of() {
    let mut world = World::new(2);
    let held = |instance: &str, since_ms, draining| Held {
        spelling: "node-A".into(),
        instance: Instance::parse(instance).expect("well-formed"),
        since_ms,
        draining,
    };
    let (old, new) = (held("a.1", 10, true), held("b.1", 20, false));
    world.hold_all(1, "node-A", alloc::vec![old.clone(), new.clone()]);
    world.settle();
    let both = ["1 b.1", "1 a.1 draining"];
    assert_eq!(world.believed(0, "node-A"), both);
    world.cut(1);
    world.pass(SECOND * 30);
    assert_eq!(world.believed(0, "node-A"), both);
    world.hold_all(1, "node-A", alloc::vec![new]);
    world.settle();
    assert_eq!(world.believed(0, "node-A"), ["1 b.1"]);
    world.drop_node(1, "node-A");
    world.settle();
    assert!(world.believed(0, "node-A").is_empty());
}

#[test]
fn two_addresses_of_one_replica_make_one_link() {
    let mut world = World::new(2);
    world.hold(1, "node-A", "a.1", 10);
    world.addresses = alloc::vec!["0".into(), "1".into(), "1 again".into()];
    world.give_addresses();
    world.pass(SECOND * 60);
    assert_eq!(world.connections.len(), 2);
    let dialed = world.dialed;
    world.cut(1);
    world.settle();
    assert!(world.dialed > dialed, "the other address is tried at once");
    world.pass(SECOND);
    assert_eq!(world.believed(0, "node-A"), ["1 a.1"]);
}

#[test]
fn an_address_that_is_gone_is_left_when_its_link_ends() {
    let mut world = World::new(2);
    world.hold(1, "node-A", "a.1", 10);
    world.settle();
    world.addresses.clear();
    world.give_addresses();
    world.settle();
    assert_eq!(world.believed(0, "node-A"), ["1 a.1"], "the link stays");
    let dialed = world.dialed;
    world.cut(1);
    world.pass(SECOND * 60);
    assert_eq!(world.dialed, dialed);
}

#[test]
fn a_silent_link_ends_and_with_it_what_was_said() {
    let mut world = World::new(2);
    world.hold(1, "node-A", "a.1", 10);
    world.settle();
    world.held_back = true;
    world.pass(SECOND * 14);
    world.reachable = alloc::vec![false; 2];
    world.pass(SECOND);
    assert!(world.believed(0, "node-A").is_empty());
}

#[test]
fn after_any_faults_everybody_believes_the_truth() {
    for seed in 0..200_u8 {
        let mut rng = ChaCha12Rng::from_seed([seed; 32]);
        let mut world = World::new(3);
        for step in 0..60 {
            let (at, node) = (draw(&mut rng, 3), format!("node-{}", draw(&mut rng, 4)));
            match draw(&mut rng, 8) {
                0 => world.cut(at),
                1 => world.restart(at),
                2 => world.reachable[at] = draw(&mut rng, 2) == 0,
                3 => world.held_back = draw(&mut rng, 2) == 0,
                4 | 5 => world.drop_node(at, &node),
                _ => world.hold(at, &node, &format!("a.{step}"), step),
            }
            world.pass(SECOND * draw(&mut rng, 10) as u32);
        }
        world.reachable = alloc::vec![true; 3];
        world.held_back = false;
        world.pass(SECOND * 60);
        for (at, node) in (0..3).flat_map(|at| (0..4).map(move |node| (at, node))) {
            let node = format!("node-{node}");
            let mut believed = world.believed(at, &node);
            believed.sort();
            assert_eq!(
                believed,
                world.truth(at, &node),
                "seed {seed}, {at}, {node}"
            );
        }
        assert_eq!(world.connections.len(), 6, "seed {seed}");
    }
}

fn draw(rng: &mut ChaCha12Rng, below: u32) -> usize {
    usize::try_from(rng.next_u32() % below).expect("small")
}

const NODES_MAX: usize = 8;

/// A control link: who dialed whom, and each one's name for it.
struct Connection {
    from: (usize, LinkId),
    to: (usize, LinkId),
}

struct World {
    now: Instant,
    peers: Vec<Peers>,
    addresses: Vec<String>,
    connections: Vec<Connection>,
    /// What each was told of others, as its hubs would know it.
    holders: Vec<BTreeMap<NodeName, Vec<Holder>>>,
    reachable: Vec<bool>,
    /// No transport has room.
    held_back: bool,
    starts: u8,
    dialed: usize,
    told: usize,
    sent: usize,
    ignored: usize,
}

impl World {
    fn new(count: usize) -> World {
        let mut world = World {
            now: Instant::ZERO,
            peers: Vec::new(),
            addresses: (0..count).map(|at| at.to_string()).collect(),
            connections: Vec::new(),
            holders: alloc::vec![BTreeMap::new(); count],
            reachable: alloc::vec![true; count],
            held_back: false,
            starts: 0,
            dialed: 0,
            told: 0,
            sent: 0,
            ignored: 0,
        };
        for _ in 0..count {
            let fresh = world.fresh();
            world.peers.push(fresh);
        }
        world.settle();
        world
    }

    fn fresh(&mut self) -> Peers {
        self.starts += 1;
        let config = PeersConfig {
            nodes_per_peer_max: NODES_MAX,
            ..PeersConfig::default()
        };
        let seed = [self.starts; 32];
        let mut peers = Peers::new(config, Arc::default(), Budget::new(0), seed);
        peers.set_addresses(self.addresses.clone(), self.now);
        peers
    }

    fn give_addresses(&mut self) {
        for peers in &mut self.peers {
            peers.set_addresses(self.addresses.clone(), self.now);
        }
    }

    fn hold(&mut self, at: usize, node: &str, instance: &str, since_ms: u64) {
        let held = Held {
            spelling: node.into(),
            instance: Instance::parse(instance).expect("well-formed"),
            since_ms,
            draining: false,
        };
        self.hold_all(at, node, alloc::vec![held]);
    }

    fn hold_all(&mut self, at: usize, node: &str, held: Vec<Held>) {
        self.peers[at].held(&name(node), held);
    }

    fn drop_node(&mut self, at: usize, node: &str) {
        self.peers[at].held(&name(node), Vec::new());
    }

    fn believed(&self, at: usize, node: &str) -> Vec<String> {
        let holders = self.holders[at].get(&name(node));
        let who = |holder: &Holder| {
            let of = |peers: &Peers| peers.me() == holder.replica;
            let who = self.peers.iter().position(of).map_or(9, |at| at);
            let mark = if holder.held.draining {
                " draining"
            } else {
                ""
            };
            format!("{who} {}{mark}", holder.held.instance)
        };
        holders.into_iter().flatten().map(who).collect()
    }

    fn truth(&self, at: usize, node: &str) -> Vec<String> {
        let others = self.peers.iter().enumerate().filter(|(of, _)| *of != at);
        others
            .flat_map(|(of, peers)| {
                let held = peers.held.get(&name(node)).into_iter().flatten();
                held.map(move |held| (of, held))
            })
            .map(|(of, held)| format!("{of} {}", held.instance))
            .collect()
    }

    /// Puts a message on the control link that `from` made to `to`.
    fn say(&mut self, from: usize, to: usize, kind: &str, node: &str, instance: &str, at: u64) {
        let is = |of: &&Connection| of.from.0 == from && of.to.0 == to;
        let link = self.connections.iter().find(is).expect("connected").to.1;
        self.peers[to].handle_message(link, message(kind, node, instance, at), self.now);
        self.settle();
    }

    /// Puts one on the link that `to` made to `from`.
    fn say_back(&mut self, from: usize, to: usize, kind: &str, node: &str, inst: &str, at: u64) {
        let is = |of: &&Connection| of.from.0 == to && of.to.0 == from;
        let link = self.connections.iter().find(is).expect("connected").from.1;
        self.peers[to].handle_message(link, message(kind, node, inst, at), self.now);
        self.settle();
    }

    /// Cuts all links of one replica: both ends hear of it.
    fn cut(&mut self, at: usize) {
        let of = |c: &Connection| c.from.0 == at || c.to.0 == at;
        let (cut, kept) = core::mem::take(&mut self.connections)
            .into_iter()
            .partition(of);
        self.connections = kept;
        let cut: Vec<Connection> = cut;
        for (end, link) in cut.iter().flat_map(|c| [c.from, c.to]) {
            self.peers[end].link_lost(link, LinkLoss::Broken, self.now);
        }
    }

    /// Kills one and starts it again, with nothing.
    fn restart(&mut self, at: usize) {
        let of = |c: &Connection| c.from.0 == at || c.to.0 == at;
        let (cut, kept): (Vec<_>, Vec<_>) = core::mem::take(&mut self.connections)
            .into_iter()
            .partition(of);
        self.connections = kept;
        for (end, link) in cut.iter().flat_map(|c| [c.from, c.to]) {
            if end != at {
                self.peers[end].link_lost(link, LinkLoss::Broken, self.now);
            }
        }
        self.holders[at].clear();
        self.peers[at] = self.fresh();
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        self.settle();
        loop {
            let next = self.peers.iter().filter_map(Machine::deadline).min();
            let Some(next) = next.map(|next| next.at).filter(|at| *at <= until) else {
                break;
            };
            self.now = self.now.max(next);
            for peers in &mut self.peers {
                peers.handle_timeout(self.now);
            }
            self.settle();
        }
        self.now = until;
    }

    fn settle(&mut self) {
        while self.drain() | self.carry() {}
    }

    fn drain(&mut self) -> bool {
        let mut moved = false;
        for at in 0..self.peers.len() {
            while let Some(output) = self.peers[at].poll_output() {
                moved = true;
                self.act(at, output);
            }
        }
        moved
    }

    fn act(&mut self, at: usize, output: Output) {
        match output {
            Output::Cluster(ClusterOutput::DialPeer { attempt, address }) => {
                self.dialed += 1;
                self.connect(at, attempt, &address);
            }
            Output::Cluster(ClusterOutput::Holders { node, holders }) => {
                self.told += 1;
                self.holders[at].insert(node, holders);
            }
            Output::EndLink { link, .. } => self.ended(at, link),
            Output::Event(Event::Ignored(_)) => self.ignored += 1,
            Output::TransmitReady(_) | Output::Event(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn connect(&mut self, from: usize, attempt: AttemptId, address: &str) {
        let to = address
            .split(' ')
            .next()
            .and_then(|address| address.parse::<usize>().ok())
            .expect("an address of the list");
        if !self.reachable[to] {
            return self.peers[from].link_failed(attempt, LinkLoss::Broken, self.now);
        }
        let (me, you) = (self.peers[from].me(), self.peers[to].me());
        let incoming = self.peers[to].link_made(me, "remote".into(), self.now);
        let outgoing = self.peers[from].link_up(attempt, you, "remote".into(), self.now);
        match (outgoing, incoming) {
            (Some(out), Some(into)) => self.connections.push(Connection {
                from: (from, out),
                to: (to, into),
            }),
            (None, Some(into)) => self.peers[to].link_lost(into, LinkLoss::Closed, self.now),
            (Some(out), None) => self.peers[from].link_lost(out, LinkLoss::Closed, self.now),
            (None, None) => {}
        }
    }

    fn ended(&mut self, at: usize, link: LinkId) {
        let is = |c: &Connection| c.from == (at, link) || c.to == (at, link);
        if let Some(found) = self.connections.iter().position(is) {
            let Connection { from, to } = self.connections.swap_remove(found);
            let (end, link) = if from.0 == at { to } else { from };
            self.peers[end].link_lost(link, LinkLoss::Closed, self.now);
        }
    }

    fn carry(&mut self) -> bool {
        let mut moved = false;
        if self.held_back {
            return moved;
        }
        let ends: Vec<_> = self
            .connections
            .iter()
            .flat_map(|c| [(c.from, c.to), (c.to, c.from)])
            .collect();
        for ((from, link), (to, other)) in ends {
            while let Some(msg) = self.peers[from].poll_transmit(link, self.now) {
                moved = true;
                self.sent += usize::from(!msg.r#type.starts_with("heartbeat"));
                self.peers[to].handle_message(other, msg, self.now);
            }
        }
        moved
    }
}

fn name(node: &str) -> NodeName {
    NodeName::parse(node).expect("a name")
}

fn message(kind: &str, node: &str, instance: &str, offset: u64) -> StreamMsg {
    StreamMsg {
        node: node.into(),
        category: "stream".into(),
        r#type: kind.into(),
        data: instance.to_string().into(),
        offset,
        ..StreamMsg::default()
    }
}
