//! A driver's links: messages from them to the machine, and from the machine to them as there is room.
use std::net::IpAddr;
use std::task::{Context, Poll};

use proto_core::output::LinkEnd;
use proto_core::{LinkId, Machine};

use super::ready::Source;
use super::{Driver, Shell, Token};
use crate::grpc::{self, Link, Loss, Received};
use crate::runtime::Runtime;

/// Messages taken from a link in one turn.
const RECEIVED_PER_TURN: usize = 64;
/// Messages given to it in one turn: more than came, so that what is answered at once never piles up.
const SENT_PER_TURN: usize = 128;
/// Payload taken from a link, and given to it, in one turn.
const BYTES_PER_TURN: usize = 64 * 1024;

pub(super) struct LinkSlot<R: Runtime> {
    link: Link<R>,
    source: Source<Token>,
}

impl<S: Shell> Driver<S> {
    pub(super) fn install_link(&mut self, id: LinkId, link: Link<S::Runtime>) {
        let source = self.ready.source(Token::Link(id));
        source.make_ready();
        self.links.insert(id, LinkSlot { link, source });
    }

    pub(super) fn wake_link(&self, id: LinkId) {
        if let Some(slot) = self.links.get(&id) {
            slot.source.make_ready();
        }
    }

    /// These addresses are no longer this machine's: no byte of a link from one of them will ever arrive again.
    pub(super) fn lose_links_from(&mut self, gone: &[IpAddr]) {
        let is_from =
            |slot: &LinkSlot<S::Runtime>| slot.link.local().is_some_and(|ip| gone.contains(&ip));
        let links = self.links.iter().filter(|(_, slot)| is_from(slot));
        for id in links.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.lose(id, &Loss::Broken("its local address is gone".into()));
        }
    }

    pub(super) fn serve_link(&mut self, id: LinkId) {
        let Some(slot) = self.links.get_mut(&id) else {
            return;
        };
        slot.source.served();
        let mut over = match slot
            .link
            .poll_connection(&mut Context::from_waker(slot.source.waker()))
        {
            Poll::Ready(loss) => Some(loss),
            Poll::Pending => None,
        };
        match self.receive(id) {
            // What came before the connection's end is heard before it.
            Heard::All => {}
            Heard::Part => over = None,
            Heard::End(loss) => over = Some(loss),
        }
        match over {
            Some(loss) => self.lose(id, &loss),
            None => self.transmit(id),
        }
    }

    fn receive(&mut self, id: LinkId) -> Heard {
        let Some(slot) = self.links.get_mut(&id) else {
            return Heard::Part;
        };
        let mut cx = Context::from_waker(slot.source.waker());
        let mut bytes = 0;
        for _ in 0..RECEIVED_PER_TURN {
            if bytes >= BYTES_PER_TURN {
                break;
            }
            if !self.machine.wants_message(id) {
                return Heard::All;
            }
            match slot.link.poll_received(&mut cx) {
                Poll::Ready(Ok(Received::Message(message))) => {
                    bytes += message.data.len();
                    self.machine.handle_message(id, message, self.clock.now())
                }
                Poll::Ready(Ok(Received::Established { version1 })) => {
                    self.shell
                        .established(&mut self.machine, id, version1, self.clock.now());
                    if !version1 {
                        slot.link.narrow_to_base();
                    }
                }
                Poll::Ready(Err(loss)) => return Heard::End(loss),
                Poll::Pending => return Heard::All,
            }
        }
        slot.source.make_ready();
        Heard::Part
    }

    fn transmit(&mut self, id: LinkId) {
        let Some(slot) = self.links.get_mut(&id) else {
            return;
        };
        let mut cx = Context::from_waker(slot.source.waker());
        let now = self.clock.now();
        let (mut sent, mut bytes) = (0, 0);
        while sent < SENT_PER_TURN
            && bytes < BYTES_PER_TURN
            && slot.link.poll_room(&mut cx).is_ready()
        {
            let Some(message) = self.machine.poll_transmit(id, now) else {
                break;
            };
            bytes += message.data.len();
            slot.link.send(message);
            sent += 1;
        }
        if sent == SENT_PER_TURN || bytes >= BYTES_PER_TURN {
            slot.source.make_ready();
        }
        // Out with it now; if this is the connection's end, the next turn hears it again.
        if sent > 0 && slot.link.poll_connection(&mut cx).is_ready() {
            slot.source.make_ready();
        }
    }

    fn lose(&mut self, id: LinkId, loss: &Loss) {
        let Some(slot) = self.links.remove(&id) else {
            return;
        };
        self.shell
            .lost(&mut self.machine, id, loss, self.clock.now());
        match loss {
            Loss::Broken(_) | Loss::Silent => {}
            Loss::Closed | Loss::Status { .. } => self.let_end(slot.link.end(grpc::code::OK, "")),
            Loss::Malformed(_) => {
                self.let_end(slot.link.end(grpc::code::INVALID_ARGUMENT, "not a message"))
            }
        }
    }

    /// The machine ended the link, and has forgotten it.
    pub(super) fn end_link(&mut self, id: LinkId, end: LinkEnd) {
        if let Some(slot) = self.links.remove(&id) {
            self.let_end(slot.link.end(end.code as u16, end.text));
        }
    }
}

/// How much of what a link had was taken.
enum Heard {
    /// All that is here, or all that the machine wants.
    All,
    /// There may be more.
    Part,
    /// All, and the link's end.
    End(Loss),
}
