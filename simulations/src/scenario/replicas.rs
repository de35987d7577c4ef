//! Thousands of edges on three replicas, one of which dies, or all of which are replaced one after the other.

use std::fmt;
use std::time::Duration;

use super::{Stage, setup, talk};
use crate::flow::{FlowPlan, Via};
use crate::net::{FlowId, Nanos, SEC};

/// Streams of commands move again after any of it; those of CONNECT end with the replica that they were made at.
const REPLICAS: usize = 3;
/// Edges come as they come: at the configured rate that takes a while.
const LINKED_BY: Nanos = 18 * SEC;
/// The next thing happens then.
const CALM_AT: Nanos = 40 * SEC;

/// What it came to.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// Edges and clients that had to make another link.
    pub lost: usize,
    /// Streams that were open.
    pub streams: usize,
    /// Until the last replica was replaced, if any were.
    pub rolled: Duration,
    /// Then, until every edge had a link again.
    pub links_after: Duration,
    /// Until every stream moved again.
    pub streams_after: Duration,
    /// The longest that a byte that was sent was not back.
    pub slowest: Duration,
    /// The most links that a replica took within any second.
    pub taken_a_second: usize,
    /// The most that it was asked for.
    pub asked_a_second: usize,
}

impl fmt::Display for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} links lost, replaced in {:.1} s, linked after {:.1} s, {} streams move after {:.1} s, the slowest byte {:.1} s, {} links taken and {} asked for in one second",
            self.lost,
            self.rolled.as_secs_f64(),
            self.links_after.as_secs_f64(),
            self.streams,
            self.streams_after.as_secs_f64(),
            self.slowest.as_secs_f64(),
            self.taken_a_second,
            self.asked_a_second
        )
    }
}

/// A replica of three is killed, and doesn't come back for a while.
///
/// # Panics
/// On anything that an oracle finds, and if it doesn't settle in a minute.
pub fn replica_dies(seed: u64, edges: usize, streams: usize) -> Settled {
    let victim = 0;
    // Half of the streams are a command's, half a CONNECT's at a replica that lives.
    let via = |number: usize| match number % 2 {
        0 => Via::Client,
        _ => Via::Connect(1 + number / 2 % (REPLICAS - 1)),
    };
    let flows = spread(edges, streams, via, 15);
    let (mut stage, all) = open(seed, edges, &flows);
    let died_at = stage.now();
    let lost = stage.world.replicas[victim]
        .as_ref()
        .map_or(0, |replica| replica.cloud.links());
    let until = died_at + 60 * SEC;
    stage
        .world
        .net
        .disturb_replica(victim, until, "a replica dies");
    stage.world.kill_replica(victim);
    let links_after = stage.until("linked", 60 * SEC, |world| world.all_linked());
    stage.until("moving", 60 * SEC, |world| {
        world.all_move(all.iter().copied())
    });
    stage.to(died_at + 30 * SEC);
    stage.world.restart_replica(victim);
    stage.to(died_at + 40 * SEC);
    let settled = settled(&stage, died_at, lost, links_after, &all);
    stage.end();
    settled
}

/// Each replica leaves in turn, and another takes its place.
///
/// # Panics
/// On anything that an oracle finds, if a stream of a command is disturbed, and if one of a CONNECT ends before its time.
pub fn rolling_drain(seed: u64, edges: usize, streams: usize) -> Settled {
    let flows = spread(edges, streams, |_| Via::Client, 24);
    let (mut stage, all) = open(seed, edges, &flows);
    let began_at = stage.now();
    let lost = stage.world.replicas.iter().flatten();
    let lost = lost.map(|replica| replica.cloud.links()).sum();
    let first: Vec<u32> = generations(&stage);
    stage.world.roll(0);
    let rolled = stage.until("all replaced", 200 * SEC, |world| {
        let now = world.replicas.iter().map(|of| of.as_ref());
        let new = |(of, first): (Option<&crate::replica::Replica>, &u32)| {
            of.is_some_and(|of| of.generation != *first)
        };
        match now.zip(&first).all(new) {
            true => Ok(()),
            false => Err(String::from("some are left")),
        }
    });
    let links_after = stage.until("linked", 60 * SEC, |world| world.all_linked());
    stage.until("moving", 60 * SEC, |world| {
        world.all_move(all.iter().copied())
    });
    let settled = settled(&stage, began_at, lost, links_after, &all);
    stage.end();
    Settled { rolled, ..settled }
}

fn generations(stage: &Stage) -> Vec<u32> {
    let replicas = stage.world.replicas.iter().flatten();
    replicas.map(|replica| replica.generation).collect()
}

/// Streams to as many nodes, which send a little every four seconds.
fn spread(edges: usize, streams: usize, via: impl Fn(usize) -> Via, times: u64) -> Vec<FlowPlan> {
    let starts = |number: usize| LINKED_BY + number as u64 * 18 * SEC / streams as u64;
    let node = |number: usize| number * edges / streams;
    (0..streams)
        .map(|number| {
            let (at, via) = (starts(number), via(number));
            talk(node(number), via, at, (16, 4 * SEC, times))
        })
        .collect()
}

/// All edges are linked and all streams are open.
fn open(seed: u64, edges: usize, flows: &[FlowPlan]) -> (Stage, Vec<FlowId>) {
    let setup = setup(seed, edges, REPLICAS);
    let (mut stage, all) = Stage::new(seed, setup, flows);
    stage.to(LINKED_BY);
    assert_eq!(stage.world.unlinked(), 0, "edges without a link");
    stage.to(CALM_AT);
    stage
        .world
        .all_move(all.iter().copied())
        .expect("all are open");
    (stage, all)
}

fn settled(
    stage: &Stage,
    since: Nanos,
    lost: usize,
    links_after: Duration,
    all: &[FlowId],
) -> Settled {
    let echoes = || all.iter().map(|flow| stage.world.net.flows[*flow].echo);
    let slow_until = echoes().map(|echo| echo.slow_until).max().unwrap_or(0);
    let slowest = echoes().map(|echo| echo.slowest).max().unwrap_or(0);
    // From the start: the edges' first links count as well.
    let (taken, asked) = stage.world.links_a_second(0);
    Settled {
        lost,
        rolled: Duration::ZERO,
        streams: all.len(),
        links_after,
        streams_after: Duration::from_nanos(slow_until.saturating_sub(since)),
        slowest: Duration::from_nanos(slowest),
        taken_a_second: taken,
        asked_a_second: asked,
    }
}
