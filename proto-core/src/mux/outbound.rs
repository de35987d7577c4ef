//! The side of the transport, outwards: the next message of a link, when there is room for one.

use super::Mux;
use crate::link::schedule::Schedule;
use crate::output::LinkId;
use crate::proto::StreamMsg;
use crate::time::Instant;
use crate::wire::Dialect;

impl Mux {
    /// The next message for this link. `None`: `Output::TransmitReady` tells when to ask again.
    pub(crate) fn poll_transmit(&mut self, id: LinkId, now: Instant) -> Option<StreamMsg> {
        let msg = self.next_message(id, now);
        let link = self.links.get_mut(&id)?;
        match &msg {
            Some(_) => link.heartbeat.took(now),
            None => link.asleep = true,
        }
        self.settle_link(id);
        msg
    }

    fn next_message(&mut self, id: LinkId, now: Instant) -> Option<StreamMsg> {
        if let Some(msg) = self.links.get_mut(&id)?.next_own(now) {
            return Some(msg);
        }
        while let Some(stream) = self.links.get_mut(&id)?.schedule.pop_urgent() {
            let Some(entry) = self.streams.get_mut(&stream) else {
                match self.relay_control(stream, id, now) {
                    Some(msg) => return Some(self.address(id, msg)),
                    None => continue,
                }
            };
            Schedule::urgent_taken(&mut entry.place);
            if entry.link != Some(id) {
                continue;
            }
            let msg = entry.stream.next_control(now);
            self.settle(stream, now);
            if let Some(link) = self.links.get_mut(&id)
                && link.waiting.contains(&stream)
            {
                link.heartbeat.still_awaits(now);
            }
            if msg.is_some() {
                return msg;
            }
        }
        let bytes_max = self.config.links.content_bytes_max;
        while let Some(stream) = self.links.get_mut(&id)?.schedule.peek_active() {
            let link = self.links.get_mut(&id)?;
            let Some(entry) = self.streams.get_mut(&stream) else {
                match self.relay_content(stream, id, now) {
                    Some(msg) => {
                        self.await_ack(id, now);
                        return Some(self.address(id, msg));
                    }
                    None => continue,
                }
            };
            if entry.link != Some(id) {
                link.schedule.drop_front();
                continue;
            }
            let msg = entry.stream.next_content(bytes_max, now);
            let bytes = msg.as_ref().map_or(0, |msg| msg.data.len());
            let more = entry.stream.has_content();
            link.schedule.served(stream, &mut entry.place, bytes, more);
            if msg.is_none() {
                continue;
            }
            if link.dialect == Dialect::V1 {
                link.heartbeat.awaits_ack(now);
            }
            // Room to read may have come with the message's leaving, in base.
            self.settle(stream, now);
            return msg;
        }
        None
    }

    /// A relayed message names the node as its link does.
    fn address(&self, link: LinkId, msg: StreamMsg) -> StreamMsg {
        let node = self.links.get(&link).map(|link| link.node.clone());
        StreamMsg {
            node: node.unwrap_or_default(),
            ..msg
        }
    }

    fn await_ack(&mut self, link: LinkId, now: Instant) {
        if let Some(link) = self.links.get_mut(&link)
            && link.dialect == Dialect::V1
        {
            link.heartbeat.awaits_ack(now);
        }
    }
}
