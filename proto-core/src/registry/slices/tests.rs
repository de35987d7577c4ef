//! The writer against an API server that does as it is told, or fails.
use super::*;
use alloc::format;
use alloc::vec;

#[test]
fn a_burst_is_written_once_a_second_and_nothing_at_rest() {
    let mut api = Api::new(3);
    for number in 0..7 {
        api.slices.set(&node(number), true, at(10 * number));
    }
    api.run(at(70), at(10_000));
    assert_eq!(api.begun, [at(70), at(1_070), at(2_070)]);
    assert_eq!(api.holds(), (0..7).map(node).collect());
    assert!(api.held.values().all(|slice| slice.len() <= 3));
    assert_eq!(api.slices.deadline(), None);
}

#[test]
fn a_node_that_flaps_costs_nothing() {
    let mut api = Api::new(1000);
    api.slices.set(&node(1), true, at(0));
    api.run(at(0), at(1_000));
    for flap in 0..20 {
        api.slices.set(&node(1), false, at(2_000 + flap * 9_000));
        api.run(at(2_000 + flap * 9_000), at(10_999 + flap * 9_000));
        api.slices.set(&node(1), true, at(10_999 + flap * 9_000));
    }
    assert_eq!(api.begun.len(), 1);
    assert_eq!(api.slices.deadline(), None);
}

#[test]
fn one_that_went_for_good_is_written_off_and_one_that_moved_at_once() {
    let mut api = Api::new(1000);
    for number in 0..3 {
        api.slices.set(&node(number), true, at(0));
    }
    api.run(at(0), at(1_500));
    api.slices.set(&node(0), false, at(2_000));
    api.slices.set(&node(1), false, at(2_000));
    api.slices.set_elsewhere(&node(1), true, at(2_100));
    api.slices.set_elsewhere(&node(2), true, at(2_100));
    api.slices.set_elsewhere(&node(2), false, at(2_200));
    api.run(at(2_100), at(2_200));
    assert_eq!(api.holds(), [node(0), node(2)].into());
    api.run(at(2_200), at(20_000));
    assert_eq!(api.begun, [at(50), at(2_150), at(12_050)]);
    api.slices.set(&node(2), false, at(20_000));
    api.run(at(20_000), at(40_000));
    assert!(api.held.is_empty(), "an empty slice is taken away");
    assert_eq!((api.slices.count(), api.slices.deadline()), (0, None));
}

#[test]
fn one_that_was_elsewhere_before_it_went_from_here_is_written_off_at_once() {
    let mut api = Api::new(1000);
    api.slices.set(&node(0), true, at(0));
    api.slices.set(&node(1), true, at(0));
    api.run(at(0), at(1_500));
    api.slices.set_elsewhere(&node(0), true, at(2_000));
    api.slices.set(&node(0), false, at(2_100));
    api.run(at(2_100), at(2_200));
    assert_eq!((api.begun.len(), api.holds()), (2, [node(1)].into()));
}

#[test]
fn a_process_that_starts_again_takes_over_what_the_one_before_wrote() {
    let mut api = Api::new(3);
    for number in 0..6 {
        api.slices.set(&node(number), true, at(0));
    }
    api.run(at(0), at(5_000));
    let writes = api.begun.len();
    api.slices = Slices::new(api.slices.config);
    for (number, nodes) in api.held.clone() {
        api.slices.handle_seen(number, nodes, true, at(6_000));
    }
    for number in 0..5 {
        api.slices.set(&node(number), true, at(7_000));
    }
    api.run(at(7_000), at(15_000));
    assert_eq!(api.begun.len(), writes, "all of it stands there already");
    api.run(at(15_000), at(60_000));
    assert_eq!(api.begun.len(), writes + 1, "but one did not come back");
    assert_eq!(api.holds(), (0..5).map(node).collect());
}

#[test]
fn failures_are_tried_again_ever_more_rarely_and_lose_nothing() {
    let mut api = Api::new(1000);
    api.slices.set(&node(1), true, at(0));
    api.fails = 5;
    api.run(at(0), at(15_000));
    api.slices.set(&node(2), true, at(15_000));
    api.run(at(15_000), at(60_000));
    let expected = [50, 1_050, 3_050, 7_050, 12_050, 17_050];
    assert_eq!(api.begun, expected.map(at));
    assert_eq!(api.holds(), [node(1), node(2)].into());
}

#[test]
fn what_somebody_else_did_to_a_slice_is_put_right() {
    let mut api = Api::new(2);
    for number in 0..4 {
        api.slices.set(&node(number), true, at(0));
    }
    api.run(at(0), at(5_000));
    api.held.remove(&0);
    api.slices.handle_missing(0, at(5_000));
    api.held.insert(1, [node(9)].into());
    api.slices.handle_seen(1, [node(9)].into(), true, at(5_000));
    api.run(at(5_000), at(20_000));
    assert_eq!(api.holds(), (0..4).map(node).collect());
    // Its own view may be wrong as well.
    api.held.remove(&0);
    api.slices.set_elsewhere(&node(0), true, at(20_000));
    api.slices.set(&node(0), false, at(20_000));
    api.slices.set_elsewhere(&node(0), true, at(20_000));
    api.held.insert(7, BTreeSet::new());
    api.slices
        .handle_seen(7, BTreeSet::new(), false, at(20_000));
    api.run(at(20_000), at(60_000));
    assert_eq!(api.holds(), (1..4).map(node).collect());
    assert!(!api.held.contains_key(&7));
}

#[test]
fn a_slice_that_is_there_unexpectedly_is_replaced() {
    let mut api = Api::new(2);
    api.held.insert(0, [node(8)].into());
    api.slices.set(&node(1), true, at(0));
    api.run(at(0), at(5_000));
    assert_eq!(api.holds(), [node(1)].into());
    assert_eq!(api.begun.len(), 2);
}

#[test]
fn what_changes_while_a_write_is_under_way_is_written_by_the_next() {
    let mut slices = Slices::default();
    slices.set(&node(1), true, at(0));
    let write = slices.poll_write(at(50)).expect("a write");
    assert_eq!(write.action, Action::Create(vec![node(1)]));
    slices.set(&node(2), true, at(60));
    assert_eq!(slices.poll_write(at(5_000)), None, "one at a time");
    slices.set(&node(1), false, at(60));
    slices.set_elsewhere(&node(1), true, at(70));
    slices.handle_written(Written::Done, at(80));
    assert_eq!(slices.poll_write(at(1_049)), None);
    let write = slices.poll_write(at(1_130)).expect("a write");
    assert_eq!(write.action, Action::Replace(vec![node(2)]));
}

#[test]
fn who_collides_tries_again_soon_and_as_often_as_it_takes() {
    let mut api = Api::new(1000);
    api.slices.set(&node(1), true, at(0));
    api.conflicts = 3;
    api.run(at(0), at(1_000));
    assert_eq!(api.begun, [50, 150, 250, 350].map(at));
    assert_eq!(api.holds(), [node(1)].into());
    api.slices.set(&node(2), true, at(360));
    api.run(at(410), at(5_000));
    assert_eq!(api.begun.last(), Some(&at(1_350)), "an interval as ever");
}

#[test]
fn one_that_leaves_writes_its_nodes_off_at_once_and_takes_none_any_more() {
    let mut api = Api::new(usize::MAX);
    for number in 0..3 {
        api.slices.set(&node(number), true, at(0));
    }
    api.run(at(0), at(100));
    api.slices.set(&node(0), false, at(100));
    assert!(!api.slices.has_left());
    api.slices.leave(at(200));
    api.slices.set(&node(4), true, at(200));
    api.conflicts = 1;
    assert!(!api.slices.has_left());
    api.run(at(200), at(400));
    assert_eq!(api.begun, [50, 200, 300].map(at));
    assert!(api.held.is_empty() && api.slices.has_left());
    assert_eq!(api.slices.deadline(), None);
}

/// An API server that does as it is told, or fails.
struct Api {
    slices: Slices,
    held: BTreeMap<u32, BTreeSet<NodeName>>,
    begun: Vec<Instant>,
    fails: usize,
    conflicts: usize,
}

impl Api {
    fn new(nodes_max: usize) -> Api {
        let config = SlicesConfig {
            nodes_max,
            ..SlicesConfig::default()
        };
        Api {
            slices: Slices::new(config),
            held: BTreeMap::new(),
            begun: Vec::new(),
            fails: 0,
            conflicts: 0,
        }
    }

    /// From deadline to deadline, before `until`.
    fn run(&mut self, from: Instant, until: Instant) {
        let mut now = from;
        let mut turns = 0;
        while now < until {
            self.slices.handle_timeout(now);
            if let Some(write) = self.slices.poll_write(now) {
                self.begun.push(now);
                let result = self.write(write);
                self.slices.handle_written(result, now);
            }
            let Some(next) = self.slices.deadline() else {
                return;
            };
            now = next.max(now);
            turns += 1;
            assert!(turns < 1000, "a busy loop");
        }
    }

    fn write(&mut self, write: Write) -> Written {
        if self.fails > 0 {
            self.fails -= 1;
            return Written::Failed;
        }
        if self.conflicts > 0 {
            self.conflicts -= 1;
            return Written::Conflict;
        }
        let exists = self.held.contains_key(&write.slice);
        match (write.action, exists) {
            (Action::Create(_), true) => Written::Exists,
            (Action::Replace(_) | Action::Delete, false) => Written::Missing,
            (Action::Create(nodes), false) | (Action::Replace(nodes), true) => {
                self.held.insert(write.slice, nodes.into_iter().collect());
                Written::Done
            }
            (Action::Delete, true) => {
                self.held.remove(&write.slice);
                Written::Done
            }
        }
    }

    fn holds(&self) -> BTreeSet<NodeName> {
        self.held.values().flatten().cloned().collect()
    }
}

fn node(number: u64) -> NodeName {
    NodeName::parse(&format!("node-{number}")).expect("a name")
}

fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}
