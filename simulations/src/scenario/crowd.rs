//! Copies beside a crowd of idle streams, which share an edge's budget.

use std::fmt;
use std::time::Duration;

use super::{Stage, setup, talk};
use crate::flow::{AppPlan, CLIENT, FlowPlan, TARGET, Via};
use crate::net::{FlowId, MS, NEVER, Nanos, SEC, US};

/// There and back: 100 ms.
const LATENCY: Nanos = 50 * MS;
const IDLE: usize = 200;
/// About what a login says, there and back.
const LOGIN_BYTES: u64 = 3_000;
/// A copy comes before all others, and what it finds of the line stays known.
const FIRST_AT: Nanos = 5 * SEC;
const FIRST_BYTES: u64 = 64 << 20;
const LOGINS_AT: Nanos = 30 * SEC;
const LOGINS_EVERY: Nanos = 50 * MS;
const COPIES_AT: Nanos = LOGINS_AT + IDLE as u64 * LOGINS_EVERY + 5 * SEC;
const COPY_BYTES: u64 = 16 << 20;
/// What has not been copied by then is copied too slowly.
const PATIENCE: Nanos = 60 * SEC;
const LOOK: Nanos = 10 * MS;

/// What it came to.
#[derive(Clone, Copy, Debug)]
pub struct Crowded {
    /// Copies at once.
    pub copies: usize,
    /// And back again.
    pub echoed: bool,
    /// What the smallest windows leave of the budget, in bytes.
    pub unreserved: u64,
    /// What was left of the budget when they began.
    pub left: u64,
    /// What they would carry together, in bytes a second, if each direction of each had an equal part of that, and one such
    /// part were left over.
    pub fair_rate: u64,
    /// What the slowest carried, times how many there were.
    pub rate: u64,
    /// The quickest one's time and the slowest one's.
    pub took: [Duration; 2],
}

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [quickest, slowest] = self.took.map(|took| took.as_secs_f64());
        let back = if self.echoed { " and back" } else { "" };
        write!(
            f,
            "{} KiB of {} are left; copies there{back}, {} at once: {:.1} MB/s, of {:.1} MB/s, {quickest:.2} to {slowest:.2} s each",
            self.left >> 10,
            self.unreserved >> 10,
            self.copies,
            self.rate as f64 / 1e6,
            self.fair_rate as f64 / 1e6,
        )
    }
}

/// Two hundred streams log in at an edge with so much for buffers, behind a copy that has filled the line, and say nothing more.
/// Then so many copies go there at once, and back again if they are `echoed`.
///
/// # Panics
/// On anything that an oracle finds, and on a stream that isn't complete.
pub fn crowd(seed: u64, edge_bytes_max: u64, copies: usize, echoed: bool) -> Crowded {
    let mut setup = setup(seed, 1, 1);
    setup.edge_bytes_max = edge_bytes_max;
    setup.nodes[0].shape.latency = LATENCY;
    let idle = (0..IDLE as u64).map(|number| {
        let at = LOGINS_AT + number * LOGINS_EVERY;
        // What it says last it says when the copies are over.
        let gap = COPIES_AT + PATIENCE - at;
        talk(0, Via::Connect(0), at, (LOGIN_BYTES, gap, 2))
    });
    let flows: Vec<FlowPlan> = [copy(FIRST_AT, FIRST_BYTES, false)]
        .into_iter()
        .chain(idle)
        .chain((0..copies).map(|_| copy(COPIES_AT, COPY_BYTES, echoed)))
        .collect();
    let (mut stage, all) = Stage::new(seed, setup, &flows);
    let (others, copied) = all.split_at(1 + IDLE);
    stage.to(COPIES_AT);
    assert!(stage.world.net.flows[others[0]].is_over(), "the first copy");
    let moving = stage.world.all_move(others[1..].iter().copied());
    moving.expect("all are open");
    let left = edge_bytes_max - stage.world.edges[0].budget.used();
    let took = copied_in(&mut stage, copied, if echoed { CLIENT } else { TARGET });
    let world = stage.end();
    for flow in &all {
        let flow = &world.net.flows[*flow];
        assert!(flow.is_complete(), "{}", world.line(flow.id));
    }
    let directions = copies as u64 * if echoed { 2 } else { 1 };
    let window = left / (directions + 1);
    Crowded {
        copies,
        echoed,
        unreserved: edge_bytes_max - (IDLE * 2 * 4096) as u64,
        left,
        fair_rate: copies as u64 * window * SEC / (2 * LATENCY),
        rate: copies as u64 * COPY_BYTES * SEC / took[1],
        took: took.map(Duration::from_nanos),
    }
}

/// The quickest one's time and the slowest one's, until `side` has every byte.
fn copied_in(stage: &mut Stage, copies: &[FlowId], side: usize) -> [Nanos; 2] {
    let mut took = vec![None; copies.len()];
    while took.contains(&None) && stage.now() < COPIES_AT + 10 * PATIENCE {
        stage.to(stage.now() + LOOK);
        let now = stage.now() - COPIES_AT;
        for (took, copy) in took.iter_mut().zip(copies) {
            if stage.world.net.flows[*copy].socks[side].consumed == COPY_BYTES {
                took.get_or_insert(now);
            }
        }
    }
    let now = stage.now() - COPIES_AT;
    let took = || took.iter().map(|took| took.unwrap_or(now));
    [took().min(), took().max()].map(Option::unwrap_or_default)
}

/// As fast as the tunnel takes it.
fn copy(at: Nanos, send: u64, echo: bool) -> FlowPlan {
    let mut plan = talk(0, Via::Connect(0), at, (send, 0, 1));
    let fast = AppPlan {
        chunk: NEVER,
        gap: 50 * US,
        paced: false,
        ..plan.apps[CLIENT]
    };
    plan.apps = [
        fast,
        AppPlan {
            send: 0,
            echo,
            ..fast
        },
    ];
    plan
}
