//! What a driver does with dials and with what its machine tells; the oracles that listen to it.

use proto_core::output::{Event as CoreEvent, GrpcCode, LinkLoss, StreamRecord};
use proto_core::reason::Reason;
use proto_core::{LinkId, Machine, StreamId};

use crate::flow::{Ask, Dial, FlowPlan, TARGET};
use crate::host::{Host, Local};
use crate::net::{CLOUD, Event, MS, NEVER, Net, Note, SEC, nanos};
use crate::setup::stray_plan;
use crate::sniff::flow_of;

/// Ports from here on are asked for by nobody but rogue clouds.
pub(crate) const STRAY_PORT_MIN: usize = 60_000;

/// A link may be lost so long after what was wrong with it is over.
const AFTERMATH: u64 = 20 * SEC;

impl<M: Machine> Host<M> {
    pub(crate) fn dial(&mut self, net: &mut Net, id: StreamId, target: &str) {
        let asked = flow_of(target);
        let flow = asked.filter(|flow| *flow < net.flows.len());
        let stray = asked.is_some_and(|asked| asked + 1000 >= STRAY_PORT_MIN);
        let (flow, plan) = match flow {
            Some(flow) => (flow, net.flows[flow].plan.dial),
            None if stray && self.locals.len() < 50 => {
                let plan = FlowPlan {
                    at: NEVER,
                    ..stray_plan(self.node, &mut net.dice)
                };
                let flow = net.add_flow(plan);
                net.flows[flow].stray = true;
                net.flows[flow].excuse = Some("rogue");
                net.flows[flow].asked_at = Some(net.now);
                (flow, plan.dial)
            }
            None => (usize::MAX, Dial::Fails(Reason::Refused)),
        };
        if let Some(of) = net.flows.get_mut(flow) {
            of.dials += 1;
            let (dials, node) = (of.dials, of.node);
            if dials > 1 && of.excuse != Some("rogue") {
                net.fail("one dial", || {
                    format!("flow {flow} is dialed {dials} times")
                });
            }
            if node != self.node {
                net.fail("own node", || {
                    format!("flow {flow} of node {node} is dialed at {}", self.node)
                });
            }
        }
        self.locals.insert(
            id,
            Local {
                flow: None,
                open: false,
                read_blocked: true,
                write_blocked: true,
            },
        );
        let (delay, failure) = match plan {
            Dial::Connects(delay) => (delay, None),
            Dial::Fails(reason) => (MS, Some(reason)),
            Dial::Swallowed => return,
        };
        let delay = delay + net.dice.below(MS);
        net.after(delay, Event::Dialed(self.id, id, flow, failure));
    }

    pub(crate) fn check_backoff(&mut self, net: &mut Net) {
        let Some((at, why)) = self.failed.take() else {
            return;
        };
        let pause = nanos(net.clock(self.proc).saturating_duration_since(at));
        let least = match why {
            LinkLoss::Replaced => self.reconnect_max / 2,
            LinkLoss::Unavailable {
                pushback: Some(pushback),
            } => nanos(pushback),
            _ => self.reconnect_min,
        };
        if pause + 2 * self.habits.lag + MS < least {
            net.fail("backoff", || {
                format!("node {}: {pause} ns after {why:?}", self.node)
            });
        }
    }

    pub(crate) fn tell(&mut self, net: &mut Net, event: CoreEvent) {
        match event {
            CoreEvent::Relayed(_) => {} // One replica passes nothing on.
            CoreEvent::LinkUp { .. } => {
                net.cover.hit("link up");
                if self.proc == CLOUD {
                    net.notes.push(Note::LinkUp(self.node));
                }
            }
            CoreEvent::LinkDown { link, why, .. } => self.link_down(net, link, why),
            CoreEvent::StreamEnded(record) => self.stream_ended(net, &record),
            CoreEvent::Refused(reason) => {
                if matches!(reason, Reason::ProtocolError | Reason::FlowControl)
                    && !self.by_rogue(net)
                {
                    net.fail("honest peers", || {
                        format!("host {} of node {} refuses: {reason}", self.id, self.node)
                    });
                }
            }
            CoreEvent::Ignored(what) => net.cover.hit(match what {
                "unknown type" => "ignored: unknown type",
                "another node" => "ignored: another node",
                "another attachment" => "ignored: another attachment",
                "unknown stream" => "ignored: unknown stream",
                "out of place" => "ignored: out of place",
                "stream has ended" => "ignored: stream has ended",
                "answers over the limit" => "ignored: answers over the limit",
                _ => "ignored: other",
            }),
            CoreEvent::RoundTrip { .. } => net.cover.hit("round trip measured"),
            CoreEvent::ConnectFailed { .. }
            | CoreEvent::Connected { .. }
            | CoreEvent::Dialed { .. } => {}
            CoreEvent::Detached { .. } => net.cover.hit("stream detached"),
            CoreEvent::Resumed { replayed, .. } => {
                net.cover.hit("stream resumed");
                if replayed > 0 {
                    net.cover.hit("stream resumed with bytes to replay");
                }
            }
        }
    }

    /// Whether a script that means harm has been at this host's links.
    fn by_rogue(&self, net: &Net) -> bool {
        let heard = self.rogue_at.is_some_and(|at| net.now < at + SEC);
        net.nodes[self.node].rogue || heard
    }

    fn link_down(&mut self, net: &mut Net, link: LinkId, why: LinkLoss) {
        if self.proc == CLOUD {
            net.notes.push(Note::LinkDown(self.node));
        }
        net.cover.hit(match why {
            LinkLoss::Silent => "link silent",
            LinkLoss::Replaced => "link replaced by a twin",
            LinkLoss::Fault => "link refused: faulty peer",
            LinkLoss::ShutDown => "link shut down",
            _ => "link lost",
        });
        let now = net.now;
        let state = &net.nodes[self.node];
        let excused = now < state.link_excused_until.saturating_add(AFTERMATH);
        let rogue = self.by_rogue(net);
        if !excused && !rogue && !net.shut_down && why != LinkLoss::ShutDown {
            net.fail("healthy link", || {
                format!("node {}: link {link} is dropped: {why:?}", self.node)
            });
        }
        if why == LinkLoss::Fault && !rogue && !net.nodes[self.node].rogue {
            // Ours never break the protocol; a peer may have been told so by a rogue.
            net.cover.hit("link ended as faulty");
        }
        net.disturb(self.node, now + SEC, false, "link lost");
    }

    fn stream_ended(&mut self, net: &mut Net, record: &StreamRecord) {
        self.ended += 1;
        if self.proc == CLOUD {
            net.notes.push(Note::StreamEnded);
        }
        net.cover.hit(match record.reason {
            Reason::Done => "stream ended: done",
            Reason::Reset => "stream ended: reset",
            Reason::NodeOffline => "stream ended: node-offline",
            Reason::FlowControl => "stream ended: flow-control",
            Reason::ProtocolError => "stream ended: protocol-error",
            Reason::DialTimeout => "stream ended: dial-timeout",
            Reason::OverLimit => "stream ended: over-limit",
            Reason::NoAnswer => "stream ended: no-answer",
            _ => "stream ended: other",
        });
        let Some(flow) = flow_of(&record.target).filter(|flow| *flow < net.flows.len()) else {
            return;
        };
        let side = self.side();
        let of = &mut net.flows[flow];
        if of.records[side].is_some() && of.excuse.is_none() && of.plan.ask == Ask::Properly {
            net.fail("one record", || {
                format!("flow {flow} ends twice at side {side}")
            });
        }
        let of = &mut net.flows[flow];
        of.records[side] = Some(record.reason);
        if side == TARGET && record.reason == Reason::Done {
            net.cover.hit("acceptor's stream done");
        }
    }
}

/// What the other side of a link that was ended so makes of it.
pub(crate) fn loss_of(code: GrpcCode) -> LinkLoss {
    match code {
        GrpcCode::Ok => LinkLoss::Closed,
        GrpcCode::InvalidArgument => LinkLoss::Fault,
        GrpcCode::DeadlineExceeded => LinkLoss::Broken,
        GrpcCode::ResourceExhausted | GrpcCode::Unavailable => {
            LinkLoss::Unavailable { pushback: None }
        }
        GrpcCode::Aborted => LinkLoss::Replaced,
        GrpcCode::Unauthenticated => LinkLoss::Unauthenticated,
    }
}
