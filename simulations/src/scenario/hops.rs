//! Edges that come to another replica every other second, while streams to them are opened.

use std::fmt;
use std::time::Duration;

use super::{Stage, settles, setup, talk};
use crate::draw::{Concern, Draw};
use crate::flow::{FlowPlan, Via};
use crate::net::{FlowId, MS, Nanos, SEC};
use crate::wire::{DOWN, UP};

const NODES: usize = 6;
const REPLICAS: usize = 3;
const HOPS_EVERY: Nanos = 2 * SEC;
const BEGIN_AT: Nanos = 5 * SEC;
const OPENS_EVERY: Nanos = 25 * MS;

/// What it came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opens {
    /// Links that were cut.
    pub hops: usize,
    /// Streams that were asked for.
    pub asked: usize,
    /// Those that were opened and came to their end with every byte, both ways.
    pub complete: usize,
    /// Streams that had to ask for their way again.
    pub resumed: usize,
}

impl Opens {
    /// With another seed's.
    #[must_use]
    pub fn and(self, other: Opens) -> Opens {
        Opens {
            hops: self.hops + other.hops,
            asked: self.asked + other.asked,
            complete: self.complete + other.complete,
            resumed: self.resumed + other.resumed,
        }
    }
}

impl fmt::Display for Opens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} streams complete, {} of them resumed, over {} hops",
            self.complete, self.asked, self.resumed, self.hops
        )
    }
}

/// Each edge's line is cut every two seconds, and it comes to another replica; in turn both ends hear of it, the edge does
/// long before the replica, and the other way round. Meanwhile clients open streams, by CONNECT at any replica and by links
/// of their own. Bytes of another stream, or of another node, are an oracle's finding.
///
/// # Panics
/// On anything that an oracle finds.
pub fn hops(seed: u64, opens: usize) -> Opens {
    let draw = &mut Draw::new(seed, Concern::Flows);
    let mut setup = setup(seed, NODES, REPLICAS);
    setup.cluster.service = false; // The next address each time.
    // What ends just then is told so late.
    setup.config.streams.grace = Duration::from_secs(60);
    let flows: Vec<FlowPlan> = (0..opens)
        .map(|number| {
            let via = match draw.one_in(3) {
                true => Via::Client,
                false => Via::Connect(draw.index(REPLICAS)),
            };
            let at = BEGIN_AT + number as u64 * OPENS_EVERY + draw.below(OPENS_EVERY);
            let size = draw.log_range(1, 4_000);
            let times = draw.pick(&[1, 1, 3, 10]);
            talk(draw.index(NODES), via, at, (size, 300 * MS, times))
        })
        .collect();
    let (mut stage, all) = Stage::new(seed, setup, &flows);
    stage.to(BEGIN_AT);
    let until = BEGIN_AT + opens as u64 * OPENS_EVERY;
    let mut hops = 0;
    while stage.now() < until {
        let node = hops % NODES;
        hop(&mut stage, node, hops / NODES);
        hops += 1;
        stage.to(stage.now() + HOPS_EVERY / NODES as u64);
    }
    stage.to(until + 10 * SEC);
    let world = stage.end();
    let complete = |flow: &&FlowId| {
        let flow = &world.net.flows[**flow];
        flow.status == Some(200) && flow.is_complete()
    };
    let resumed = |flow: &&FlowId| world.net.flows[**flow].resumed > 0;
    Opens {
        hops,
        asked: all.len(),
        complete: all.iter().filter(complete).count(),
        resumed: all.iter().filter(resumed).count(),
    }
}

fn hop(stage: &mut Stage, node: usize, kind: usize) {
    let now = stage.now();
    let late = now + HOPS_EVERY / 2;
    let until = late + settles(&stage.world);
    stage.world.net.disturb(node, until, true, "hops");
    match kind % 3 {
        0 => stage.world.reset(node),
        1 => stage.world.reset_one_first(node, UP, late),
        _ => stage.world.reset_one_first(node, DOWN, late),
    }
}
