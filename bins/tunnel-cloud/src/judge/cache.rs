//! Answers that hold for a while, found by a digest of what was asked.
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use super::lock;

/// A digest: no question stays in memory, as it may be a token.
pub(super) type Key = [u8; 32];

/// Answers, and until when each holds.
pub(super) struct Cache<V> {
    answers: Mutex<BTreeMap<Key, (V, Instant)>>,
    entries_max: usize,
}

impl<V: Clone> Cache<V> {
    pub(super) fn new(entries_max: usize) -> Cache<V> {
        Cache {
            answers: Mutex::default(),
            entries_max,
        }
    }

    /// The answer, if it still holds.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<V> {
        let answers = lock(&self.answers);
        let (answer, until) = answers.get(key)?;
        (now < *until).then(|| answer.clone())
    }

    /// Remembers an answer. Where there is no room, the one that would be over first is forgotten.
    pub(super) fn put(&self, key: Key, answer: V, until: Instant, now: Instant) {
        let mut answers = lock(&self.answers);
        if until <= now {
            answers.remove(&key);
            return;
        }
        if answers.len() >= self.entries_max && !answers.contains_key(&key) {
            answers.retain(|_, (_, until)| now < *until);
            if answers.len() >= self.entries_max
                && let Some(first) = answers.iter().min_by_key(|(_, (_, until))| *until)
            {
                let first = *first.0;
                answers.remove(&first);
            }
        }
        answers.insert(key, (answer, until));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_holds_until_its_time_and_no_longer() {
        let (cache, now) = (Cache::new(2), Instant::now());
        let second = Duration::from_secs(1);
        cache.put([1; 32], "one", now + second, now);
        assert_eq!(cache.get(&[1; 32], now), Some("one"));
        assert_eq!(cache.get(&[1; 32], now + second), None);
        cache.put([1; 32], "over", now, now);
        assert_eq!(cache.get(&[1; 32], now), None);
    }

    #[test]
    fn the_memory_is_bounded() {
        let (cache, now) = (Cache::new(2), Instant::now());
        for at in 1..=4 {
            cache.put([at; 32], at, now + Duration::from_secs(at.into()), now);
        }
        let left: Vec<u8> = (1..=4).filter_map(|at| cache.get(&[at; 32], now)).collect();
        assert_eq!(left, [3, 4]);
    }
}
