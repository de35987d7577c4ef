//! Whose message goes next on a link: control before content, sparse streams before bulk, and bulk by deficit round robin.

use crate::output::StreamId;
use alloc::collections::VecDeque;

/// What one stream may send before the next one's turn, in bytes.
const QUANTUM_BYTES: i64 = 64 * 1024;

/// A stream's place in its link's queues. It lives with the stream, so that a queue holds only ids.
#[derive(Debug)]
pub(crate) struct Place {
    urgent: bool,
    active: bool,
    /// What is left of its turn. It is kept while the stream has nothing to send, so that one which stops and starts has no
    /// more than one which goes on.
    deficit: i64,
}

impl Default for Place {
    fn default() -> Self {
        Place {
            urgent: false,
            active: false,
            deficit: QUANTUM_BYTES,
        }
    }
}

/// The queues of one link. A stream is at most once in each; ids of streams that are gone are skipped.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    urgent: VecDeque<StreamId>,
    /// Streams that have not used up their turn yet: a keystroke is here, in front of every bulk copy.
    fresh: VecDeque<StreamId>,
    /// Streams that have used up a turn.
    backlog: VecDeque<StreamId>,
}

impl Schedule {
    /// The stream has control messages.
    pub(crate) fn add_urgent(&mut self, id: StreamId, place: &mut Place) {
        if !place.urgent {
            place.urgent = true;
            self.urgent.push_back(id);
        }
    }

    /// The stream has content.
    pub(crate) fn add_active(&mut self, id: StreamId, place: &mut Place) {
        if place.active {
            return;
        }
        place.active = true;
        if place.deficit > 0 {
            self.fresh.push_back(id);
        } else {
            place.deficit += QUANTUM_BYTES;
            self.backlog.push_back(id);
        }
    }

    /// The next stream with control messages. It is out of the queue then.
    pub(crate) fn pop_urgent(&mut self) -> Option<StreamId> {
        self.urgent.pop_front()
    }

    /// It was taken from the queue.
    pub(crate) fn urgent_taken(place: &mut Place) {
        place.urgent = false;
    }

    /// Whose turn it is to send content. It stays in the queue until `served`.
    pub(crate) fn peek_active(&self) -> Option<StreamId> {
        self.fresh.front().or(self.backlog.front()).copied()
    }

    /// The stream in front is gone.
    pub(crate) fn drop_front(&mut self) {
        if self.fresh.pop_front().is_none() {
            self.backlog.pop_front();
        }
    }

    /// The stream in front sent `bytes`; `more`: it could send on. Zero bytes: it had nothing after all.
    pub(crate) fn served(&mut self, id: StreamId, place: &mut Place, bytes: usize, more: bool) {
        place.deficit -= i64::try_from(bytes).unwrap_or(i64::MAX);
        if more && place.deficit > 0 {
            return;
        }
        self.drop_front();
        place.active = more;
        if more {
            place.deficit += QUANTUM_BYTES;
            self.backlog.push_back(id);
        }
    }

    /// Whether any stream is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.fresh.is_empty() && self.backlog.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    /// Serves `turns` messages; how many bytes each stream sent.
    fn serve(
        schedule: &mut Schedule,
        places: &mut BTreeMap<StreamId, Place>,
        size: &dyn Fn(StreamId) -> usize,
        turns: usize,
    ) -> BTreeMap<StreamId, usize> {
        let mut sent = BTreeMap::new();
        for _ in 0..turns {
            let id = schedule.peek_active().expect("somebody's turn");
            *sent.entry(id).or_insert(0) += size(id);
            schedule.served(id, places.get_mut(&id).expect("known"), size(id), true);
        }
        sent
    }

    #[test]
    fn bulk_streams_share_by_bytes_not_by_messages() {
        let mut schedule = Schedule::default();
        let mut places = BTreeMap::new();
        for id in [StreamId(1), StreamId(2), StreamId(3)] {
            schedule.add_active(id, places.entry(id).or_default());
        }
        let size = |id: StreamId| if id == StreamId(1) { 65_536 } else { 8_192 };
        let sent = serve(&mut schedule, &mut places, &size, 1_700);
        let (min, max) = (sent.values().min(), sent.values().max());
        assert!(
            min.expect("some") * 10 >= max.expect("some") * 8,
            "{sent:?}"
        );
    }

    #[test]
    fn a_keystroke_passes_a_bulk_copy_until_it_is_one_itself() {
        let mut schedule = Schedule::default();
        let mut places: BTreeMap<StreamId, Place> = BTreeMap::new();
        let (bulk, key) = (StreamId(1), StreamId(2));
        schedule.add_active(bulk, places.entry(bulk).or_default());
        schedule.served(bulk, places.get_mut(&bulk).expect("known"), 65_536, true);
        let mut passed = 0;
        loop {
            schedule.add_active(key, places.entry(key).or_default());
            if schedule.peek_active() != Some(key) {
                break;
            }
            passed += 1;
            schedule.served(key, places.get_mut(&key).expect("known"), 1_024, false);
        }
        assert_eq!(passed, 64, "a turn's worth");
        assert_eq!(schedule.peek_active(), Some(bulk));
    }

    #[test]
    fn streams_that_stop_and_start_do_not_starve_one_that_goes_on() {
        let mut schedule = Schedule::default();
        let mut places: BTreeMap<StreamId, Place> = BTreeMap::new();
        let mut sent: BTreeMap<StreamId, usize> = BTreeMap::new();
        let steady = StreamId(0);
        for _ in 0..1_000 {
            // Seven are held back by their windows and come again at once; the eighth always has more.
            for id in (0..8).map(StreamId) {
                schedule.add_active(id, places.entry(id).or_default());
            }
            let id = schedule.peek_active().expect("somebody's turn");
            *sent.entry(id).or_default() += 32_768;
            let place = places.get_mut(&id).expect("known");
            schedule.served(id, place, 32_768, id == steady);
        }
        let (min, max) = (sent.values().min(), sent.values().max());
        assert!(
            min.expect("some") * 10 >= max.expect("some") * 8,
            "{sent:?}"
        );
    }
}
