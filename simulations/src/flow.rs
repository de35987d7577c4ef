//! The apps: a CONNECT client and the target behind the edge, each with a scripted socket. A flow is the two of them and what
//! the tunnel made of it.

use proto_core::StreamId;
use proto_core::connect::Connect;
use proto_core::reason::Reason;

use crate::net::{Event, FlowId, HostId, MS, NEVER, Nanos, Net, SEC, US};

/// The client's side of a flow; the target's is 1.
pub(crate) const CLIENT: usize = 0;
pub(crate) const TARGET: usize = 1;

/// When an app ends its sending direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fin {
    AfterSend,
    AfterPeer,
}

/// How an app reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Fast,
    /// So many bytes a turn.
    Slow(u64),
    Never,
}

/// An app's script.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppPlan {
    pub(crate) send: u64,
    pub(crate) chunk: u64,
    pub(crate) gap: Nanos,
    pub(crate) fin: Fin,
    pub(crate) read: Read,
    /// Resets its socket after so many bytes in both directions together.
    pub(crate) reset_at: Option<u64>,
    /// Sends back what it reads.
    pub(crate) echo: bool,
    /// Sends one chunk in each gap, whatever it reads meanwhile.
    pub(crate) paced: bool,
}

/// What a dial comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dial {
    Connects(Nanos),
    Fails(Reason),
    Swallowed,
}

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Properly,
    /// The header never ends.
    Unfinished,
    UnknownNode,
    ForbiddenPort,
    /// The client leaves before the answer.
    Leaves(Nanos),
}

/// Who opens a flow's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// This replica, for a CONNECT.
    Connect(usize),
    /// The operator's command.
    Client,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowPlan {
    pub(crate) node: usize,
    pub(crate) via: Via,
    pub(crate) at: Nanos,
    pub(crate) ask: Ask,
    pub(crate) pieces: usize,
    /// Bytes right behind the header.
    pub(crate) early: u64,
    pub(crate) dial: Dial,
    pub(crate) apps: [AppPlan; 2],
}

/// How an app saw its connection end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset,
    /// By its own doing.
    Own,
}

/// One local connection: an app on one end, a driver on the other.
#[derive(Debug, Default)]
pub(crate) struct Sock {
    pub(crate) at: Option<(HostId, StreamId)>,
    pub(crate) connected: bool,
    // From the app to the tunnel.
    pub(crate) written: u64,
    pub(crate) taken: u64,
    pub(crate) fin: bool,
    pub(crate) fin_taken: bool,
    /// The app has reset it.
    pub(crate) broken: bool,
    // From the tunnel to the app.
    pub(crate) reply: Vec<u8>,
    pub(crate) given: u64,
    pub(crate) consumed: u64,
    pub(crate) fin_given: bool,
    /// The driver has closed it: by RST or in good order.
    pub(crate) closed: Option<bool>,
    pub(crate) end: Option<End>,
    pub(crate) saw_fin: bool,
    app_at: Option<Nanos>,
    /// A paced app sends nothing before then.
    sends_at: Nanos,
    pub(crate) notified: bool,
    pub(crate) wants_room: bool,
}

/// What a socket buffer holds in each direction.
pub(crate) const SOCKET_BYTES_MAX: u64 = 64 * 1024;

impl Sock {
    pub(crate) fn readable(&self) -> u64 {
        self.written - self.taken
    }

    pub(crate) fn room(&self) -> u64 {
        SOCKET_BYTES_MAX.saturating_sub(self.given - self.consumed)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: FlowId,
    pub(crate) node: usize,
    pub(crate) plan: FlowPlan,
    pub(crate) socks: [Sock; 2],
    pub(crate) front: Option<Connect>,
    pub(crate) asked_at: Option<Nanos>,
    pub(crate) replies: u32,
    pub(crate) status: Option<u16>,
    /// Why it need not be complete.
    pub(crate) excuse: Option<&'static str>,
    pub(crate) base: bool,
    /// It came from a rogue cloud: there is no client.
    pub(crate) stray: bool,
    /// How the ends told of it; the replica's and the edge's.
    pub(crate) records: [Option<Reason>; 2],
    pub(crate) opened: bool,
    /// Its replica's process died under it.
    pub(crate) orphaned: bool,
    /// The edge process that has the newest attachment.
    pub(crate) acceptor: Option<HostId>,
    /// The edge processes that were asked to dial for it, in order. The target's socket is the last one's.
    pub(crate) dialers: Vec<HostId>,
    /// Who has told of its end.
    pub(crate) recorded: Vec<HostId>,
    /// A process of either end died, or another took its place: it cannot be resumed.
    pub(crate) fatal: Option<&'static str>,
    /// A side has waited for a way as long as it has to.
    pub(crate) expired: bool,
    /// A side has told the other so.
    pub(crate) told_expired: [bool; 2],
    /// Since when each side has no way, by its own clock.
    pub(crate) detached_at: [Option<Nanos>; 2],
    /// That is when its link was lost while it was dialed; an attachment that came to nothing may have followed.
    pub(crate) detached_early: bool,
    pub(crate) resumed: u32,
    /// The limit that each side has heard on its newest attachment.
    pub(crate) limit_heard: [u64; 2],
    pub(crate) stuck: [(u64, u32); 2],
    /// Since when its client has a whole way, and to which replica.
    pub(crate) client_way: Option<(Nanos, usize)>,
    /// The replica by whose link the edge heard its newest question.
    pub(crate) last_at: Option<usize>,
    /// The replica by whose link its client asked last.
    pub(crate) client_at: Option<usize>,
    /// A replica that it was passed to did not hold the node.
    pub(crate) not_here: bool,
    /// Its client's links may be lost until then without anybody's fault.
    pub(crate) link_excused_until: Nanos,
    /// A process that left has ended it.
    pub(crate) left: bool,
    /// What its client waits for.
    pub(crate) echo: Echo,
}

/// How a client whose target sends everything back is answered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Echo {
    /// The oldest bytes that are not back, by their end, and when they were sent.
    pub(crate) awaited: Option<(u64, Nanos)>,
    /// The longest that any were away.
    pub(crate) slowest: Nanos,
    /// When some were back that had been away for long.
    pub(crate) slow_until: Nanos,
}

/// What long is.
pub(crate) const SLOW: Nanos = SEC;

impl Echo {
    fn look(&mut self, now: Nanos, written: u64, consumed: u64) {
        if let Some((_, sent_at)) = self.awaited.filter(|(end, _)| *end <= consumed) {
            let away = now - sent_at;
            self.slowest = self.slowest.max(away);
            if away > SLOW {
                self.slow_until = now;
            }
            self.awaited = None;
        }
        if written > consumed {
            self.awaited.get_or_insert((written, now));
        }
    }
}

impl Flow {
    pub(crate) fn new(id: FlowId, plan: FlowPlan) -> Flow {
        Flow {
            id,
            node: plan.node,
            plan,
            socks: Default::default(),
            front: None,
            asked_at: None,
            replies: 0,
            status: None,
            excuse: None,
            base: false,
            stray: false,
            records: [None; 2],
            opened: false,
            orphaned: false,
            acceptor: None,
            dialers: Vec::new(),
            recorded: Vec::new(),
            fatal: None,
            expired: false,
            told_expired: [false; 2],
            detached_at: [None; 2],
            detached_early: false,
            resumed: 0,
            limit_heard: [0; 2],
            stuck: [(0, 0); 2],
            client_way: None,
            last_at: None,
            client_at: None,
            not_here: false,
            link_excused_until: 0,
            left: false,
            echo: Echo::default(),
        }
    }

    /// The replica that opened its stream, if one did.
    pub(crate) fn opener_at(&self) -> Option<usize> {
        match self.plan.via {
            Via::Connect(replica) => Some(replica),
            Via::Client => None,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        port_of(self.id)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.asked_at.is_some() && !self.is_over()
    }

    /// Nobody holds a socket of it any more, and each app knows its end.
    pub(crate) fn is_over(&self) -> bool {
        let sides = if self.stray {
            &self.socks[1..]
        } else {
            &self.socks[..]
        };
        sides
            .iter()
            .all(|sock| sock.at.is_none() && (!sock.connected || sock.end.is_some()))
            && (self.stray || self.socks[CLIENT].end.is_some())
            && self.front.is_none()
    }

    /// Neither app does anything that ends the stream early.
    pub(crate) fn is_benign(&self) -> bool {
        matches!(self.plan.dial, Dial::Connects(_))
            && self.plan.ask == Ask::Properly
            && self.plan.apps.iter().all(|app| app.reset_at.is_none())
    }

    pub(crate) fn reads_fast(&self) -> bool {
        self.plan.apps.iter().all(|app| app.read == Read::Fast)
    }

    fn total(&self, side: usize) -> u64 {
        match self.plan.apps[side].echo {
            true => self.socks[side].consumed,
            false => self.plan.apps[side].send,
        }
    }

    /// Both directions are delivered to the last byte, and both apps have seen the other's end.
    pub(crate) fn is_complete(&self) -> bool {
        [CLIENT, TARGET].into_iter().all(|side| {
            let (from, to) = (&self.socks[side], &self.socks[1 - side]);
            from.fin
                && from.written == self.total(side)
                && to.consumed == from.written
                && to.saw_fin
        })
    }
}

/// The port that tells flows apart.
pub(crate) fn port_of(flow: FlowId) -> u16 {
    u16::try_from(1000 + flow).unwrap_or(u16::MAX)
}

impl Net {
    /// A flow, whose client will come at its time.
    pub(crate) fn add_flow(&mut self, plan: FlowPlan) -> FlowId {
        let id = self.flows.len();
        self.flows.push(Flow::new(id, plan));
        if plan.via == Via::Client {
            self.schedule(plan.at, Event::ClientStart(id));
            if let Ask::Leaves(after) = plan.ask {
                self.flows[id].plan.apps[CLIENT].reset_at = Some(0);
                self.schedule(plan.at + after, Event::Front(id, usize::MAX));
            }
        } else if plan.at != NEVER {
            for piece in 0..plan.pieces {
                let at = plan.at + piece as u64 * 20 * MS;
                let last = piece + 1 == plan.pieces;
                if !(last && plan.ask == Ask::Unfinished) {
                    self.schedule(at, Event::Front(id, piece));
                }
            }
            if let Ask::Leaves(after) = plan.ask {
                self.flows[id].plan.apps[CLIENT].reset_at = Some(0);
                self.schedule(plan.at + after, Event::Front(id, usize::MAX));
            }
        }
        id
    }

    /// The app looks at its socket soon.
    pub(crate) fn app_soon(&mut self, flow: FlowId, side: usize) {
        self.app_at(flow, side, 20 * US);
    }

    pub(crate) fn app_at(&mut self, flow: FlowId, side: usize, delay: Nanos) {
        let at = self.now + delay;
        let sock = &mut self.flows[flow].socks[side];
        if sock.end.is_none() && sock.app_at.is_none_or(|before| at < before) {
            sock.app_at = Some(at);
            self.schedule(at, Event::App(flow, side));
        }
    }

    /// The driver's socket has become readable, writable or broken.
    fn notify(&mut self, flow: FlowId, side: usize) {
        let sock = &mut self.flows[flow].socks[side];
        if let Some((host, id)) = sock.at
            && !sock.notified
        {
            sock.notified = true;
            self.after(5 * US, Event::Socket(host, id));
        }
    }

    pub(crate) fn app_turn(&mut self, id: FlowId, side: usize) {
        let (now, finishing) = (self.now, self.finishing);
        let flow = &mut self.flows[id];
        let total = flow.total(side);
        let plan = flow.plan.apps[side];
        let answered = side == TARGET || flow.status == Some(200);
        let sock = &mut flow.socks[side];
        if sock.app_at != Some(now) {
            return; // A turn that was brought forward.
        }
        sock.app_at = None;
        if sock.end.is_some() || !sock.connected {
            return;
        }
        // It reads.
        let waiting = sock.given - sock.consumed;
        let took = match plan.read {
            _ if finishing => waiting,
            Read::Fast => waiting,
            Read::Slow(bytes) => waiting.min(bytes),
            Read::Never => 0,
        };
        sock.consumed += took;
        let mut notify = took > 0 && std::mem::take(&mut sock.wants_room);
        let drained = sock.consumed == sock.given;
        if drained && (sock.fin_given || sock.closed == Some(false)) {
            sock.saw_fin = true;
        }
        let reset_due = plan
            .reset_at
            .is_some_and(|at| sock.consumed + sock.written >= at);
        if sock.closed == Some(true) {
            sock.end = Some(End::Reset);
        } else if (answered && reset_due) || self.shut_down {
            sock.broken = true;
            sock.end = Some(End::Own);
            notify = true;
        } else if sock.closed.is_some() && drained {
            sock.end = Some(if sock.fin { End::Fin } else { End::Reset });
        } else if answered && sock.closed.is_none() {
            // It writes.
            let total = if plan.echo { sock.consumed } else { total };
            let room = match plan.paced && now < sock.sends_at {
                true => 0,
                false => SOCKET_BYTES_MAX.saturating_sub(sock.written - sock.taken),
            };
            let wrote = total
                .saturating_sub(sock.written)
                .min(room)
                .min(if finishing { u64::MAX } else { plan.chunk });
            sock.written += wrote;
            if wrote > 0 {
                sock.sends_at = now + plan.gap;
            }
            let sent_all = sock.written == total;
            let may = match (plan.echo, plan.fin) {
                (true, _) => sock.saw_fin,
                (false, Fin::AfterSend) => true,
                (false, Fin::AfterPeer) => sock.saw_fin || finishing,
            };
            if !sock.fin && sent_all && may {
                sock.fin = true;
                notify = true;
            }
            notify |= wrote > 0;
            if sock.fin && sock.saw_fin {
                sock.end = Some(End::Fin);
            }
        }
        let more_to_read = sock.given > sock.consumed && plan.read != Read::Never;
        let more_to_write = answered && !plan.echo && sock.written < total && sock.closed.is_none();
        let over = sock.end.is_some();
        let gap = match plan.paced {
            true => sock.sends_at.saturating_sub(now),
            false => plan.gap,
        };
        if side == CLIENT && flow.plan.apps[TARGET].echo {
            let sock = &flow.socks[side];
            flow.echo.look(now, sock.written, sock.consumed);
        }
        if notify {
            self.notify(id, side);
        }
        if !over && (more_to_read || more_to_write) {
            self.app_at(id, side, gap.max(50 * US));
        }
    }

    /// Reply bytes reach the client; it reads them as a client does.
    pub(crate) fn reply_to(&mut self, id: FlowId, bytes: &[u8]) {
        let sock = &mut self.flows[id].socks[CLIENT];
        sock.reply.extend_from_slice(bytes);
        let status = parse_status(&sock.reply);
        self.answered(id, status);
    }

    /// Whoever asked is answered.
    pub(crate) fn answered(&mut self, id: FlowId, status: Option<u16>) {
        let flow = &mut self.flows[id];
        flow.replies += 1;
        let (replies, given) = (flow.replies, flow.socks[CLIENT].given);
        flow.status = flow.status.or(status);
        if flow.not_here && status == Some(200) {
            self.cover.hit("not-here retried, and answered");
        }
        if replies > 1 {
            self.fail("one reply", || format!("flow {id} got {replies} replies"));
        }
        if given > 0 {
            self.fail("one reply", || format!("flow {id}: bytes before the reply"));
        }
        match status {
            None => self.fail("one reply", || format!("flow {id}: not a reply")),
            Some(code) => {
                let what = match code {
                    200 => "reply 200",
                    403 => "reply 403",
                    404 => "reply 404",
                    408 => "reply 408",
                    502 => "reply 502",
                    503 => "reply 503",
                    504 => "reply 504",
                    _ => "reply of another status",
                };
                self.cover.hit(what);
            }
        }
        self.app_soon(id, CLIENT);
    }

    /// The driver (or its death) closes a socket.
    pub(crate) fn close_sock(&mut self, id: FlowId, side: usize, reset: bool) {
        let sock = &mut self.flows[id].socks[side];
        sock.at = None;
        sock.closed = Some(reset);
        sock.notified = false;
        if sock.connected && sock.end.is_none() {
            self.app_soon(id, side);
        }
    }

    /// Everybody reads and ends from now on.
    pub(crate) fn finish_apps(&mut self) {
        self.finishing = true;
        for id in 0..self.flows.len() {
            for side in [CLIENT, TARGET] {
                if self.flows[id].socks[side].connected {
                    self.app_at(id, side, MS);
                }
            }
        }
    }
}

/// The status of a complete reply, as nc reads it.
fn parse_status(reply: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(reply).ok()?;
    text.find("\r\n\r\n")?;
    let rest = text
        .strip_prefix("HTTP/1.1 ")
        .or(text.strip_prefix("HTTP/1.0 "))?;
    let (code, _) = rest.split_once(' ')?;
    code.parse().ok()
}

/// A flow that is there only to see that things work.
pub(crate) fn proof_plan(node: usize, via: Via) -> FlowPlan {
    let app = AppPlan {
        send: 1_000,
        chunk: NEVER,
        gap: MS,
        fin: Fin::AfterSend,
        read: Read::Fast,
        reset_at: None,
        echo: false,
        paced: false,
    };
    FlowPlan {
        node,
        via,
        at: 0,
        ask: Ask::Properly,
        pieces: 1,
        early: 0,
        dial: Dial::Connects(MS),
        apps: [app, AppPlan { echo: true, ..app }],
    }
}
