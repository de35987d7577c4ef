//! Which of a registry's sources is asked for a node, where there is more than one: what is followed as it changes, DNS, and the
//! registry itself. And when following is tried again.
//!
//! What is followed answers at once and costs nothing. While it isn't, DNS answers, which may be as old as its caches; for a
//! node of which that proved wrong the registry itself is asked. Where a source can't be reached the next one is asked; last
//! comes what was known when following broke off.
use crate::name::NodeName;
use crate::output::LinkLoss;
use crate::time::Instant;
use crate::uplink::Reconnect;
use crate::uplink::backoff::Backoff;
use alloc::collections::BTreeMap;
use core::time::Duration;
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;

/// Settings of [`Sources`].
#[derive(Clone, Copy, Debug)]
pub struct SourcesConfig {
    /// There is a DNS server to ask.
    pub dns: bool,
    /// For how long DNS isn't asked for a node after it was wrong: as long as caches of DNS usually are.
    pub doubt: Duration,
    /// Nodes that are doubted at most.
    pub doubts_max: usize,
    /// Pauses between tries to follow.
    pub retry: Reconnect,
    /// The pause where it isn't allowed.
    pub forbidden: Duration,
    /// All of the registry is read for a look-up at most once in so long.
    pub list_interval: Duration,
}

impl Default for SourcesConfig {
    fn default() -> Self {
        SourcesConfig {
            dns: true,
            doubt: Duration::from_secs(30),
            doubts_max: 10_000,
            retry: Reconnect {
                min: Duration::from_millis(500),
                max: Duration::from_secs(5),
                reset_after: Duration::from_secs(10),
            },
            forbidden: Duration::from_secs(60),
            list_interval: Duration::from_secs(1),
        }
    }
}

/// Where an answer comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// What is known of the registry here.
    Watch,
    /// The DNS server.
    Dns,
    /// The registry itself, read anew.
    Api,
}

impl Source {
    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Watch => "watch",
            Source::Dns => "dns",
            Source::Api => "api",
        }
    }
}

/// Why following ended, or never began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FollowLoss {
    /// Nobody answers.
    Unreachable,
    /// An answer that is none, or the past is no longer to be had.
    Broken,
    /// It is not allowed.
    Forbidden,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Follow {
    At(Instant),
    Begins,
    Up(Instant),
}

/// See the module.
#[derive(Debug)]
pub struct Sources {
    config: SourcesConfig,
    follow: Follow,
    backoff: Backoff,
    rng: ChaCha12Rng,
    doubts: BTreeMap<NodeName, Instant>,
    list_at: Instant,
}

impl Sources {
    /// Nothing is followed yet, which `poll_follow` says.
    pub fn new(config: SourcesConfig, seed: [u8; 32]) -> Sources {
        Sources {
            follow: Follow::At(Instant::ZERO),
            backoff: Backoff::new(config.retry),
            rng: ChaCha12Rng::from_seed(seed),
            doubts: BTreeMap::new(),
            list_at: Instant::ZERO,
            config,
        }
    }

    /// The sources to ask for a node, each if those before it don't answer.
    pub fn order(&self, node: &NodeName, now: Instant) -> &'static [Source] {
        let is_doubted = self.doubts.get(node).is_some_and(|until| *until > now);
        match (self.follow, self.config.dns, is_doubted) {
            (Follow::Up(_), _, _) => &[Source::Watch],
            (_, true, false) => &[Source::Dns, Source::Api, Source::Watch],
            (_, true, true) => &[Source::Api, Source::Dns, Source::Watch],
            (_, false, _) => &[Source::Api, Source::Watch],
        }
    }

    /// Who was said to hold the node does not.
    pub fn wrong(&mut self, node: &NodeName, now: Instant) {
        if self.doubts.len() >= self.config.doubts_max {
            self.doubts.retain(|_, until| *until > now);
        }
        if self.doubts.len() < self.config.doubts_max {
            self.doubts.insert(node.clone(), now + self.config.doubt);
        }
    }

    /// Whether to read all of the registry for a look-up. If not, it was read a moment ago.
    pub fn poll_list(&mut self, now: Instant) -> bool {
        let is_due = now >= self.list_at;
        if is_due {
            self.list_at = now + self.config.list_interval;
        }
        is_due
    }

    /// Whether to begin to follow now. `handle_followed` or `handle_lost` is owed.
    pub fn poll_follow(&mut self, now: Instant) -> bool {
        match self.follow {
            Follow::At(at) if at <= now => {
                self.follow = Follow::Begins;
                true
            }
            Follow::At(_) | Follow::Begins | Follow::Up(_) => false,
        }
    }

    /// All of it is known now, and its changes come.
    pub fn handle_followed(&mut self, now: Instant) {
        self.follow = Follow::Up(now);
        self.doubts.clear();
    }

    /// They come no more.
    pub fn handle_lost(&mut self, why: FollowLoss, now: Instant) {
        if let Follow::Up(since) = self.follow {
            self.backoff.held(since, now);
        }
        let pause = match why {
            FollowLoss::Forbidden => self.config.forbidden,
            FollowLoss::Unreachable => self.backoff.pause(LinkLoss::Refused, false, &mut self.rng),
            FollowLoss::Broken => self.backoff.pause(LinkLoss::Broken, false, &mut self.rng),
        };
        self.follow = Follow::At(now + pause);
    }

    /// Whether changes come.
    pub fn is_followed(&self) -> bool {
        matches!(self.follow, Follow::Up(_))
    }

    /// When `poll_follow` has something to say, if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        match self.follow {
            Follow::At(at) => Some(at),
            Follow::Begins | Follow::Up(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_followed_answers_and_dns_while_it_is_not() {
        let mut sources = Sources::new(SourcesConfig::default(), [1; 32]);
        assert_eq!(order(&sources, 0)[0], Source::Dns);
        assert!(sources.poll_follow(at(0)));
        assert!(!sources.poll_follow(at(0)), "once");
        assert_eq!(sources.deadline(), None);
        sources.handle_followed(at(100));
        assert_eq!(order(&sources, 200), [Source::Watch]);
        sources.handle_lost(FollowLoss::Broken, at(300));
        let expected = [Source::Dns, Source::Api, Source::Watch];
        assert_eq!(order(&sources, 300), expected);
        let again = sources.deadline().expect("a try");
        assert!(again >= at(800) && again <= at(300 + 5_000), "{again:?}");
        assert!(!sources.poll_follow(at(799)));
        assert!(sources.poll_follow(again));
    }

    #[test]
    fn what_dns_was_wrong_about_the_registry_itself_is_asked_for_a_while() {
        let mut sources = Sources::new(SourcesConfig::default(), [1; 32]);
        sources.wrong(&node("node-a"), at(0));
        assert_eq!(order(&sources, 29_999)[0], Source::Api);
        assert_eq!(sources.order(&node("node-b"), at(0))[0], Source::Dns);
        assert_eq!(order(&sources, 30_000)[0], Source::Dns);
        sources.wrong(&node("node-a"), at(40_000));
        sources.handle_followed(at(41_000));
        sources.handle_lost(FollowLoss::Unreachable, at(42_000));
        assert_eq!(order(&sources, 42_000)[0], Source::Dns, "it was read anew");
    }

    #[test]
    fn without_dns_nobody_asks_it() {
        let config = SourcesConfig {
            dns: false,
            ..SourcesConfig::default()
        };
        let sources = Sources::new(config, [1; 32]);
        assert_eq!(order(&sources, 0), [Source::Api, Source::Watch]);
    }

    #[test]
    fn all_of_it_is_read_once_a_second_at_most() {
        let mut sources = Sources::new(SourcesConfig::default(), [1; 32]);
        assert!(sources.poll_list(at(0)));
        assert!(!sources.poll_list(at(999)));
        assert!(sources.poll_list(at(1_000)));
    }

    #[test]
    fn where_it_is_forbidden_it_is_tried_rarely_and_doubts_are_limited() {
        let config = SourcesConfig {
            doubts_max: 2,
            ..SourcesConfig::default()
        };
        let mut sources = Sources::new(config, [1; 32]);
        assert!(sources.poll_follow(at(0)));
        sources.handle_lost(FollowLoss::Forbidden, at(0));
        assert_eq!(sources.deadline(), Some(at(60_000)));
        for number in 0..10 {
            sources.wrong(&node(&alloc::format!("node-{number}")), at(0));
        }
        assert_eq!(sources.doubts.len(), 2);
        sources.wrong(&node("node-a"), at(30_000));
        assert_eq!(sources.doubts.len(), 1);
    }

    fn order(sources: &Sources, millis: u64) -> &'static [Source] {
        sources.order(&node("node-a"), at(millis))
    }

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).expect("a name")
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }
}
