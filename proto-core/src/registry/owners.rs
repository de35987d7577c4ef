//! Pieces of a registry whose owner may be gone: when to ask after it.
//!
//! A piece goes with its owner, if the registry sees to that; where it doesn't, whoever comes upon it does. Found at the start, an
//! owner is asked after at once; when a piece of its proved wrong, soon; else rarely.
use crate::time::Instant;
use alloc::collections::BTreeMap;
use core::time::Duration;

/// Settings of [`Owners`].
#[derive(Clone, Copy, Debug)]
pub struct OwnersConfig {
    /// How often an owner is asked after, if nothing is amiss.
    pub interval: Duration,
    /// How often at most.
    pub again: Duration,
}

impl Default for OwnersConfig {
    fn default() -> Self {
        OwnersConfig {
            interval: Duration::from_secs(600),
            again: Duration::from_secs(10),
        }
    }
}

#[derive(Debug)]
struct Owner {
    asked_at: Option<Instant>,
    next: Instant,
}

/// The owners of others' pieces, by whatever names them. See the module.
#[derive(Debug)]
pub struct Owners<O> {
    config: OwnersConfig,
    owners: BTreeMap<O, Owner>,
    under_way: bool,
}

impl<O: Ord + Clone> Owners<O> {
    /// None is known.
    pub fn new(config: OwnersConfig) -> Owners<O> {
        Owners {
            config,
            owners: BTreeMap::new(),
            under_way: false,
        }
    }

    /// A piece of this owner's is there. `is_old`: it was when this process started.
    pub fn handle_seen(&mut self, owner: &O, is_old: bool, now: Instant) {
        if !self.owners.contains_key(owner) {
            let next = match is_old {
                true => now,
                false => now + self.config.interval,
            };
            let new = Owner {
                asked_at: None,
                next,
            };
            self.owners.insert(owner.clone(), new);
        }
    }

    /// The last piece of this owner's is gone.
    pub fn handle_gone(&mut self, owner: &O) {
        self.owners.remove(owner);
    }

    /// What a piece of this owner's says is wrong.
    pub fn doubt(&mut self, owner: &O, now: Instant) {
        let again = self.config.again;
        if let Some(owner) = self.owners.get_mut(owner) {
            let soonest = owner.asked_at.map_or(now, |at| at + again);
            owner.next = owner.next.min(soonest.max(now));
        }
    }

    /// An owner to ask after now; `handle_asked` is owed.
    pub fn poll_ask(&mut self, now: Instant) -> Option<O> {
        if self.under_way {
            return None;
        }
        let due = self.owners.iter().filter(|(_, owner)| owner.next <= now);
        let (owner, _) = due.min_by_key(|(_, owner)| owner.next)?;
        self.under_way = true;
        Some(owner.clone())
    }

    /// That came to something: it is there, or it is gone and so are its pieces; or to nothing.
    pub fn handle_asked(&mut self, owner: &O, is_settled: bool, now: Instant) {
        self.under_way = false;
        if let Some(owner) = self.owners.get_mut(owner) {
            owner.asked_at = Some(now);
            owner.next = now
                + match is_settled {
                    true => self.config.interval,
                    false => self.config.again,
                };
        }
    }

    /// When `poll_ask` has something to say, if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        match self.under_way {
            true => None,
            false => self.owners.values().map(|owner| owner.next).min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_found_at_the_start_are_asked_after_at_once_and_new_ones_later() {
        let mut owners = Owners::new(OwnersConfig::default());
        owners.handle_seen(&"old", true, at(0));
        owners.handle_seen(&"new", false, at(0));
        assert_eq!(owners.poll_ask(at(0)), Some("old"));
        assert_eq!(owners.poll_ask(at(0)), None, "one at a time");
        owners.handle_asked(&"old", true, at(1));
        assert_eq!(owners.deadline(), Some(at(600)));
        assert_eq!(owners.poll_ask(at(600)), Some("new"));
        owners.handle_asked(&"new", true, at(600));
        owners.handle_gone(&"old");
        assert_eq!(owners.deadline(), Some(at(1_200)));
    }

    #[test]
    fn a_doubt_is_followed_up_but_not_again_and_again() {
        let mut owners = Owners::new(OwnersConfig::default());
        owners.handle_seen(&"one", false, at(0));
        owners.doubt(&"one", at(5));
        owners.doubt(&"stranger", at(5));
        assert_eq!(owners.poll_ask(at(5)), Some("one"));
        owners.handle_asked(&"one", true, at(5));
        owners.doubt(&"one", at(6));
        assert_eq!(
            (owners.poll_ask(at(14)), owners.deadline()),
            (None, Some(at(15)))
        );
        assert_eq!(owners.poll_ask(at(15)), Some("one"));
        owners.handle_asked(&"one", false, at(15));
        assert_eq!(owners.deadline(), Some(at(25)), "nobody could be asked");
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }
}
