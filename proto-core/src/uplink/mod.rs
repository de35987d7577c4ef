//! Links to the cloud, as an edge and a client keep them: one, made again when it is lost, and two for a while when the
//! cloud drains the first: make before break.

pub(crate) mod backoff;

pub use backoff::Reconnect;

use crate::instance::Instance;
use crate::link::NewLink;
use crate::mux::Mux;
use crate::output::{
    AttemptId, ConnectAttempt, Event, GrpcCode, LinkEnd, LinkId, LinkKind, LinkLoss, Output,
};
use crate::time::Instant;
use crate::wire::Dialect;
use alloc::string::String;
use alloc::vec::Vec;
use backoff::Backoff;
use core::time::Duration;
use rand_core::Rng;

/// How long one try may take, up to the request.
const PATIENCE: Duration = Duration::from_secs(10);
/// While streams wait: a try that nothing has answered for so long is made again beside the first. A way that swallows
/// packets is found again by the next one sent, and TCP's own come ever more rarely.
const KNOCK_AGAIN: Duration = Duration::from_millis(500);
/// How long the response's headers may take where only version 1 will do, or streams wait.
const HEADERS_PATIENCE: Duration = Duration::from_secs(5);

/// Which dialect an edge asks its cloud for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DialectChoice {
    /// Version 1 if the cloud answers with it, else base.
    #[default]
    Auto,
    /// Base, whatever the cloud could do.
    Base,
    /// Version 1 or no link.
    V1,
}

/// What links are made by.
#[derive(Clone, Debug)]
pub(crate) struct UplinkSettings {
    /// How many addresses of the cloud there are to choose from.
    pub(crate) addresses: usize,
    pub(crate) reconnect: Reconnect,
    pub(crate) dialect: DialectChoice,
    /// The node's name in the links' messages.
    pub(crate) node: String,
}

/// How far the next link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// None is wanted.
    Idle,
    /// Waits for the next try.
    Pause { until: Instant, whose: Whose },
    /// The driver is connecting.
    Connecting { attempt: AttemptId, since: Instant },
    /// The request was sent; its response's headers are awaited.
    Started {
        link: LinkId,
        give_up_at: Option<Instant>,
    },
    /// There will be no more links.
    Down,
}

/// Who wants a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// We do, lest a cloud be asked in a circle.
    Ours,
    /// The cloud has said how long.
    Clouds,
    /// Another process of this node does, which has taken its place: two must not replace each other in a circle.
    Anothers,
}

/// A link that is up.
#[derive(Clone, Copy, Debug)]
struct Up {
    link: LinkId,
    /// The cloud drains it: it is left for its successor, by then at the latest.
    leave_by: Option<Instant>,
}

/// See the module. The links themselves are the mux's.
#[derive(Debug)]
pub(crate) struct Uplinks {
    settings: UplinkSettings,
    instance: Instance,
    backoff: Backoff,
    /// Of the latest try.
    address: usize,
    next: Next,
    /// The newest last.
    up: Vec<Up>,
    /// Another process of this node has its place. Until then links are made for the streams that there are, and take nothing new.
    away_until: Option<Instant>,
    /// The latest try is such a link's.
    is_for_streams: bool,
}

impl Uplinks {
    /// Begins with its first try.
    pub(crate) fn new(settings: UplinkSettings, mux: &mut Mux, now: Instant) -> Uplinks {
        let addresses = settings.addresses.max(1);
        let mut uplinks = Uplinks {
            // Thousands of edges with one list must not all begin with its first.
            address: usize::try_from(mux.rng.next_u32()).unwrap_or(0) % addresses,
            instance: Instance::random(&mut mux.rng),
            backoff: Backoff::new(settings.reconnect),
            next: Next::Idle,
            up: Vec::new(),
            away_until: None,
            is_for_streams: false,
            settings,
        };
        uplinks.connect(mux, now);
        uplinks
    }

    /// Whether a link is up.
    pub(crate) fn is_up(&self) -> bool {
        !self.up.is_empty()
    }

    /// Whether there will be no more links.
    pub(crate) fn is_down(&self) -> bool {
        self.next == Next::Down
    }

    /// The link that streams are to go by: the newest that the cloud doesn't drain, else the newest.
    pub(crate) fn best(&self) -> Option<LinkId> {
        let stays = |up: &&Up| up.leave_by.is_none();
        let best = self.up.iter().rev().find(stays).or(self.up.last());
        best.map(|up| up.link)
    }

    /// The request of an attempt was sent.
    pub(crate) fn started(
        &mut self,
        mux: &mut Mux,
        attempt: AttemptId,
        remote: String,
        now: Instant,
    ) -> Option<LinkId> {
        match self.next {
            Next::Connecting {
                attempt: current, ..
            } if current == attempt => {}
            _ => return None,
        }
        let new = NewLink {
            kind: LinkKind::Uplink,
            dialect: None,
            node: self.settings.node.clone(),
            instance: Some(self.instance.clone()),
            remote,
            user: String::new(),
        };
        let link = mux.add_link(new, now);
        let hurries = self.settings.dialect == DialectChoice::V1 || mux.has_waiting();
        self.next = Next::Started {
            link,
            give_up_at: hurries.then(|| now + HEADERS_PATIENCE),
        };
        Some(link)
    }

    /// The response's headers are here. True: the link is up.
    pub(crate) fn established(
        &mut self,
        mux: &mut Mux,
        link: LinkId,
        version_1: bool,
        now: Instant,
    ) -> bool {
        match self.next {
            Next::Started { link: awaited, .. } if awaited == link => {}
            _ => return false,
        }
        if self.settings.dialect == DialectChoice::V1 && !version_1 {
            let end = LinkEnd {
                code: GrpcCode::Ok,
                text: "the cloud does not speak version 1",
            };
            mux.end_link(link, end, LinkLoss::Fault, now);
            return false;
        }
        // When its time away is over the process asks for its place again.
        let away_until = self.away_until.filter(|_| self.is_for_streams && version_1);
        self.next = match away_until {
            Some(until) => Next::Pause {
                until,
                whose: Whose::Anothers,
            },
            None => Next::Idle,
        };
        self.up.push(Up {
            link,
            leave_by: away_until.map(|_| now + mux.config.links.drain_max),
        });
        let dialect = match version_1 && self.settings.dialect != DialectChoice::Base {
            true => Dialect::V1,
            false => Dialect::Base,
        };
        mux.establish_link(link, dialect, now);
        true
    }

    /// An attempt came to nothing. True: it was the current one.
    pub(crate) fn failed(
        &mut self,
        mux: &mut Mux,
        attempt: AttemptId,
        why: LinkLoss,
        now: Instant,
    ) -> bool {
        match self.next {
            Next::Connecting {
                attempt: current, ..
            } if current == attempt => {
                self.pause(mux, why, now);
                true
            }
            _ => false,
        }
    }

    /// A link ended, at whichever side; the mux has forgotten it. The next is due after a pause, unless there is one.
    pub(crate) fn lost(
        &mut self,
        mux: &mut Mux,
        link: LinkId,
        up_at: Instant,
        why: LinkLoss,
        now: Instant,
    ) {
        if matches!(self.next, Next::Started { link: awaited, .. } if awaited == link) {
            return self.pause(mux, why, now);
        }
        let Some(at) = self.up.iter().position(|up| up.link == link) else {
            return;
        };
        let lost = self.up.remove(at);
        let is_current = lost.leave_by.is_none() && self.next == Next::Idle;
        if !is_current {
            let Some(until) = self.gives_way_until() else {
                return;
            };
            if !self.has_come_loose(mux) {
                self.next = Next::Pause {
                    until: until.max(now + self.backoff.min()),
                    whose: Whose::Anothers,
                };
                return;
            }
            // What it had there goes on by a link that takes nothing new: the other process keeps its place.
            self.away_until = Some(until);
        }
        self.backoff.held(up_at, now);
        self.pause(mux, why, now);
    }

    /// The cloud leaves: the next link is made now, and this one stays until that is up and the streams have left it.
    pub(crate) fn drained(&mut self, mux: &mut Mux, link: LinkId, now: Instant) {
        let leave_by = now + mux.config.links.drain_max;
        let drained = self.up.iter_mut().find(|up| up.link == link);
        let Some(drained) = drained.filter(|up| up.leave_by.is_none()) else {
            return;
        };
        drained.leave_by = Some(leave_by);
        if self.next != Next::Idle {
            return;
        }
        let up_at = mux.link(link).map_or(now, |link| link.up_at);
        // A cloud that drains every link at once must not be asked in a circle.
        match self.backoff.held(up_at, now) {
            true => self.connect(mux, now),
            false => self.pause(mux, LinkLoss::Closed, now),
        }
    }

    /// The machine's network changed: the next try comes at once, and what is up has to show that it still is.
    pub(crate) fn network_changed(&mut self, mux: &mut Mux, now: Instant) {
        self.backoff.start_over();
        match self.next {
            Next::Pause {
                whose: Whose::Ours, ..
            } => self.connect(mux, now),
            Next::Connecting { since, .. }
                if now.saturating_duration_since(since) >= self.backoff.min() =>
            {
                self.connect(mux, now);
            }
            _ => {}
        }
        for up in &self.up {
            mux.probe_link(up.link, now);
        }
    }

    /// This process leaves: a link of it replaces no other from now on, so what it has is not kept waiting for its turn.
    pub(crate) fn leaving(&mut self, mux: &mut Mux, now: Instant) {
        if self.gives_way_until().is_some() {
            self.connect(mux, now);
        }
    }

    /// Ends all links, for good.
    pub(crate) fn shut_down(&mut self, mux: &mut Mux, text: &'static str, now: Instant) {
        let started = match core::mem::replace(&mut self.next, Next::Down) {
            Next::Started { link, .. } => Some(link),
            Next::Idle | Next::Pause { .. } | Next::Connecting { .. } | Next::Down => None,
        };
        let up = core::mem::take(&mut self.up);
        for link in up.into_iter().map(|up| up.link).chain(started) {
            leave(mux, link, text, now);
        }
    }

    pub(crate) fn handle_timeout(&mut self, mux: &mut Mux, now: Instant) {
        match self.next {
            Next::Pause { until, .. } if until <= now => self.connect(mux, now),
            Next::Started {
                link,
                give_up_at: Some(at),
            } if at <= now => {
                let end = LinkEnd {
                    code: GrpcCode::DeadlineExceeded,
                    text: "no answer to the request",
                };
                mux.end_link(link, end, LinkLoss::Silent, now);
                self.pause(mux, LinkLoss::Silent, now);
            }
            _ => {}
        }
        let Some(successor) = self.successor() else {
            return;
        };
        let leaves = |up: &Up| {
            let over = up
                .leave_by
                .is_some_and(|by| by <= now || mux.is_free(up.link));
            over && up.link != successor
        };
        let (left, stay) = self.up.iter().partition(|up| leaves(up));
        self.up = stay;
        let left: Vec<Up> = left;
        for up in left {
            leave(mux, up.link, "another link has taken over", now);
        }
    }

    pub(crate) fn deadline(&self, mux: &Mux) -> Option<Instant> {
        let next = match self.next {
            Next::Pause { until, .. } => Some(until),
            Next::Started { give_up_at, .. } => give_up_at,
            Next::Idle | Next::Connecting { .. } | Next::Down => None,
        };
        let left = self.successor().into_iter().flat_map(|successor| {
            let up_at = mux.link(successor).map(|link| link.up_at);
            let drained = self.up.iter().filter(|up| up.leave_by.is_some());
            drained.filter_map(move |up| match mux.is_free(up.link) {
                true => up_at, // Which is over: now.
                false => up.leave_by,
            })
        });
        next.into_iter().chain(left).min()
    }

    /// The link that those which the cloud drains are left for.
    fn successor(&self) -> Option<LinkId> {
        let newest = self.up.last()?;
        newest.leave_by.is_none().then_some(newest.link)
    }

    /// The next try waits until then because another process has this one's place.
    fn gives_way_until(&self) -> Option<Instant> {
        match self.next {
            Next::Pause {
                until,
                whose: Whose::Anothers,
            } => Some(until),
            Next::Pause { .. }
            | Next::Idle
            | Next::Connecting { .. }
            | Next::Started { .. }
            | Next::Down => None,
        }
    }

    /// There are streams without a link, which could have one.
    fn has_come_loose(&self, mux: &Mux) -> bool {
        self.up.is_empty() && mux.has_waiting() && self.settings.dialect != DialectChoice::Base
    }

    /// Another process has this one's place still: only a link that takes nothing new may be made.
    fn is_away(&self, now: Instant) -> bool {
        self.away_until.is_some_and(|until| until > now)
    }

    fn connect(&mut self, mux: &mut Mux, now: Instant) {
        self.instance = self.instance.next();
        let attempt = AttemptId(mux.fresh_id());
        self.next = Next::Connecting {
            attempt,
            since: now,
        };
        self.address = (self.address + 1) % self.settings.addresses.max(1);
        self.is_for_streams = !mux.is_leaving() && self.is_away(now);
        mux.emit(Output::Connect(ConnectAttempt {
            attempt,
            address: self.address,
            instance: self.instance.clone(),
            version_1: self.settings.dialect != DialectChoice::Base,
            draining: mux.is_leaving() || self.is_for_streams,
            patience: PATIENCE,
            knock_again: mux.has_waiting().then_some(KNOCK_AGAIN),
        }));
    }

    fn pause(&mut self, mux: &mut Mux, why: LinkLoss, now: Instant) {
        if self.next == Next::Down {
            return;
        }
        let waiting = mux.has_waiting();
        if why == LinkLoss::Replaced
            && waiting
            && !self.is_away(now)
            && !mux.is_leaving()
            && self.settings.dialect != DialectChoice::Base
        {
            // An edge that is upgraded, before it was told to leave: what it has goes on.
            let away = self.backoff.pause(why, waiting, &mut mux.rng);
            self.away_until = Some(now + away);
            mux.event(Event::ConnectFailed {
                why,
                retry_in: Duration::ZERO,
            });
            return self.connect(mux, now);
        }
        // The link of one who leaves replaces no other: it need not stay away.
        let like = match why {
            LinkLoss::Replaced if mux.is_leaving() => LinkLoss::Closed,
            other => other,
        };
        let retry_in = self.backoff.pause(like, waiting, &mut mux.rng);
        self.next = Next::Pause {
            until: now + retry_in,
            whose: match like {
                LinkLoss::Replaced => Whose::Anothers,
                LinkLoss::Unavailable { pushback: Some(_) } => Whose::Clouds,
                _ => Whose::Ours,
            },
        };
        mux.event(Event::ConnectFailed { why, retry_in });
    }
}

fn leave(mux: &mut Mux, link: LinkId, text: &'static str, now: Instant) {
    let end = LinkEnd {
        code: GrpcCode::Ok,
        text,
    };
    mux.end_link(link, end, LinkLoss::ShutDown, now);
}
