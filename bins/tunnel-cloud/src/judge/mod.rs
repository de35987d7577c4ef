//! Kubernetes as the judge of tokens: edges by the token of their Pod, operators by their own and what RBAC lets them do.
mod cache;
mod claims;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto_core::auth::{EdgeBearer, Glob, Ports, Rights, Secret, UserName};
use proto_core::connect::ProxyCredentials;
use proto_core::hub::Standing;
use proto_core::name::NodeName;
use runtime_tokio::cloud::{Denial, User};
use runtime_tokio::kubernetes::{Client, Error, Subject};
use runtime_tokio::metrics::Metrics;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};

use cache::{Cache, Key};
use claims::Claims;

/// Before the names of Kubernetes' users: no user of a file has a colon in its name.
const PREFIX: &str = "kubernetes:";
/// Who sends a token as a password, where only that can be sent.
const BASIC_USER: &str = "kubernetes";

/// Reviews that are under way at once.
const REVIEWS_MAX: usize = 16;
/// Those that wait for their turn, and are under way.
const PENDING_MAX: usize = 256;
/// A no is remembered for so long at most: what makes it a yes should not be waited for.
const NO_AGE_MAX: Duration = Duration::from_secs(5);
/// How often users' rights are asked for again if no answer is to be remembered.
const UNREMEMBERED_EVERY: Duration = Duration::from_secs(30);
/// Tokens that are remembered as good, and rights.
const GOOD_MAX: usize = 32_768;
/// Tokens that are remembered as wrong. Apart, as whoever makes them up has many.
const WRONG_MAX: usize = 4_096;
/// Users whose groups are remembered.
const USERS_MAX: usize = 4_096;
/// That Kubernetes can't be asked is worth a line so often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

const NODE: &str = "authentication.kubernetes.io/node-name";
const POD: &str = "authentication.kubernetes.io/pod-name";

const AWAY: Denial = Denial::Unavailable("Kubernetes can't be asked about the token just now");
const BUSY: Denial = Denial::Unavailable("too many tokens are being checked just now");

/// What it is told at its start.
pub(crate) struct Settings {
    /// Whom is asked.
    pub(crate) client: Client,
    /// Whether edges' tokens are taken.
    pub(crate) edges: bool,
    /// Whether operators' are.
    pub(crate) operators: bool,
    /// Whom edges' tokens are made for.
    pub(crate) audience: String,
    /// How long an answer holds.
    pub(crate) cache: Duration,
    /// The edges' ServiceAccount, and its namespace.
    pub(crate) service_account: String,
    pub(crate) namespace: String,
    /// The ports that operators may reach.
    pub(crate) ports: Vec<u16>,
    /// New reviews a second.
    pub(crate) reviews_per_second_max: u32,
    pub(crate) metrics: Arc<Metrics>,
}

/// See the module.
pub(crate) struct Judge {
    settings: Settings,
    edges_name: String,
    good: Cache<Arc<Subject>>,
    wrong: Cache<()>,
    rights: Cache<bool>,
    users: Mutex<BTreeMap<UserName, Arc<Subject>>>,
    pending: Semaphore,
    reviews: Semaphore,
    /// When reviews were begun, within the last second.
    begun: Mutex<VecDeque<Instant>>,
    complained: Mutex<Option<Instant>>,
}

impl Judge {
    pub(crate) fn new(settings: Settings) -> Judge {
        let Settings {
            namespace,
            service_account,
            ..
        } = &settings;
        Judge {
            edges_name: format!("system:serviceaccount:{namespace}:{service_account}"),
            settings,
            good: Cache::new(GOOD_MAX),
            wrong: Cache::new(WRONG_MAX),
            rights: Cache::new(GOOD_MAX),
            users: Mutex::default(),
            pending: Semaphore::new(PENDING_MAX),
            reviews: Semaphore::new(REVIEWS_MAX),
            begun: Mutex::default(),
            complained: Mutex::default(),
        }
    }

    /// Whether edges' tokens are its business.
    pub(crate) fn takes_edges(&self) -> bool {
        self.settings.edges
    }

    /// How often users' rights are asked for again.
    pub(crate) fn asks_every(&self) -> Option<Duration> {
        let every = match self.settings.cache.is_zero() {
            true => UNREMEMBERED_EVERY,
            false => self.settings.cache,
        };
        self.settings.operators.then_some(every)
    }

    /// Whether a user is one of Kubernetes'.
    pub(crate) fn knows(name: &UserName) -> bool {
        name.as_str().starts_with(PREFIX)
    }

    /// The node of an edge: the one that its Pod runs on.
    pub(crate) async fn edge(&self, bearer: &EdgeBearer) -> Result<NodeName, Denial> {
        let claims = Claims::of(bearer.token().expose()).ok_or(Denial::WRONG)?;
        let audience = &self.settings.audience;
        if !claims.is_for(audience) {
            return Err(Denial::Wrong(
                "the token is made for another audience (kubernetes.audience)",
            ));
        }
        let subject = self
            .subject(bearer.token(), &claims, Some(audience))
            .await?;
        let node = node_of(&subject, &self.edges_name)?;
        if &node != bearer.node() {
            tracing::warn!(%node, claimed = %bearer.node(), "an edge claims to be another node than its token's");
            return Err(Denial::ANOTHERS);
        }
        Ok(node)
    }

    /// The token among an operator's credentials, if there may be one.
    pub(crate) fn token_of(&self, credentials: &ProxyCredentials) -> Option<Secret> {
        let token = match credentials {
            ProxyCredentials::Bearer(token) => token,
            ProxyCredentials::Basic { user, password } if user.as_str() == BASIC_USER => password,
            ProxyCredentials::Basic { .. } | ProxyCredentials::Unreadable => return None,
        };
        (self.settings.operators && !token.expose().is_empty()).then(|| token.clone())
    }

    /// An operator, with the rights to a node.
    pub(crate) async fn operator(
        &self,
        token: &Secret,
        node: Option<&NodeName>,
    ) -> Result<User, Denial> {
        let claims = Claims::of(token.expose()).unwrap_or_default();
        // What isn't made for us is made for the API server: its own audience is what it takes if none is named.
        let audience = Some(self.settings.audience.as_str()).filter(|ours| claims.is_for(ours));
        let subject = self.subject(token, &claims, audience).await?;
        let name = UserName::parse(&format!("{PREFIX}{}", subject.name)).ok_or(Denial::Wrong(
            "the user's name in Kubernetes is too long, or not printable ASCII without spaces",
        ))?;
        let rights = match node {
            Some(node) => self.rights(&subject, node, true).await?,
            None => Rights::default(),
        };
        let mut users = lock(&self.users);
        if users.len() >= USERS_MAX && !users.contains_key(&name) {
            // Whoever is still here is asked for by name, and then stays as it is.
            users.pop_first();
        }
        users.insert(name.clone(), subject);
        Ok(User {
            name,
            rights,
            resume: true,
            is_admin: false,
        })
    }

    /// What a user may do with a node by now.
    pub(crate) async fn standing(&self, name: &UserName, node: &NodeName) -> Standing {
        let subject = lock(&self.users).get(name).cloned();
        match subject {
            Some(subject) => match self.rights(&subject, node, false).await {
                Ok(rights) => Standing::May(rights),
                Err(_) => Standing::Unknown,
            },
            None => Standing::Unknown,
        }
    }

    async fn rights(
        &self,
        subject: &Subject,
        node: &NodeName,
        remembered: bool,
    ) -> Result<Rights, Denial> {
        let Ok(glob) = Glob::parse(node.key()) else {
            return Ok(Rights::default());
        };
        let allowed = self.may_reach(subject, node.key(), remembered).await?;
        let ports = Ports::Of(self.settings.ports.iter().copied().collect());
        Ok(match allowed {
            true => Rights::new(vec![glob], ports),
            false => Rights::default(),
        })
    }

    async fn may_reach(
        &self,
        subject: &Subject,
        node: &str,
        remembered: bool,
    ) -> Result<bool, Denial> {
        let key = key(&[&format!("{subject:?}"), node]);
        let known = || self.rights.get(&key, Instant::now());
        if let Some(allowed) = known().filter(|_| remembered) {
            return Ok(allowed);
        }
        let _slot = self.slot().await?;
        if let Some(allowed) = known().filter(|_| remembered) {
            return Ok(allowed);
        }
        self.count_begun()?;
        let answer = self.settings.client.may_reach(subject, node).await;
        let allowed = self.noted("access", answer, |allowed| *allowed)?;
        let (now, age) = (Instant::now(), self.age(allowed));
        self.rights.put(key, allowed, now + age, now);
        Ok(allowed)
    }

    /// Whom a token proves.
    async fn subject(
        &self,
        token: &Secret,
        claims: &Claims,
        audience: Option<&str>,
    ) -> Result<Arc<Subject>, Denial> {
        let key = key(&[token.expose(), audience.unwrap_or_default()]);
        if let Some(known) = self.known(&key) {
            return known;
        }
        let _slot = self.slot().await?;
        // Others with the same token may have been before.
        if let Some(known) = self.known(&key) {
            return known;
        }
        self.count_begun()?;
        let answer = self.settings.client.review_token(token, audience).await;
        let now = Instant::now();
        match self.noted("token", answer, Option::is_some)? {
            Some(subject) => {
                let subject = Arc::new(subject);
                let left = claims.left().unwrap_or(Duration::MAX);
                let age = self.age(true).min(left);
                self.good.put(key, subject.clone(), now + age, now);
                Ok(subject)
            }
            None => {
                self.wrong.put(key, (), now + self.age(false), now);
                Err(Denial::WRONG)
            }
        }
    }

    fn known(&self, key: &Key) -> Option<Result<Arc<Subject>, Denial>> {
        let now = Instant::now();
        match self.good.get(key, now) {
            Some(subject) => Some(Ok(subject)),
            None => self.wrong.get(key, now).map(|()| Err(Denial::WRONG)),
        }
    }

    /// For how long an answer is remembered.
    fn age(&self, yes: bool) -> Duration {
        match yes {
            true => self.settings.cache,
            false => self.settings.cache.min(NO_AGE_MAX),
        }
    }

    /// A turn to ask. Those who wait for one are few, so that nobody's memory is theirs.
    async fn slot(&self) -> Result<(SemaphorePermit<'_>, SemaphorePermit<'_>), Denial> {
        let pending = self.pending.try_acquire().map_err(|_| BUSY)?;
        let review = self.reviews.acquire().await.map_err(|_| BUSY)?;
        Ok((pending, review))
    }

    /// Whoever makes tokens up is not to keep the API server busy.
    fn count_begun(&self) -> Result<(), Denial> {
        let (mut begun, now) = (lock(&self.begun), Instant::now());
        while begun.front().is_some_and(|at| *at + SECOND <= now) {
            begun.pop_front();
        }
        if begun.len() >= self.settings.reviews_per_second_max as usize {
            return Err(BUSY);
        }
        begun.push_back(now);
        Ok(())
    }

    /// Counts an answer; that there is none is said, but not each time.
    fn noted<A>(
        &self,
        kind: &'static str,
        answer: Result<A, Error>,
        is_yes: impl Fn(&A) -> bool,
    ) -> Result<A, Denial> {
        let metrics = &self.settings.metrics;
        let error = match answer {
            Ok(answer) => {
                metrics.reviewed(kind, if is_yes(&answer) { "yes" } else { "no" });
                return Ok(answer);
            }
            Err(error) => error,
        };
        metrics.reviewed(kind, "failed");
        let (mut complained, now) = (lock(&self.complained), Instant::now());
        if complained.is_none_or(|at| now >= at + COMPLAIN_EVERY) {
            *complained = Some(now);
            tracing::warn!(%error, "Kubernetes can't be asked who somebody is or what they may do");
        }
        Err(AWAY)
    }
}

/// The node of an edge whose token is good.
fn node_of(subject: &Subject, edges_name: &str) -> Result<NodeName, Denial> {
    if subject.name != edges_name {
        return Err(Denial::Wrong(
            "the token is of another ServiceAccount than edges have (kubernetes.service_account)",
        ));
    }
    let one = |key| match subject.extra.get(key).map(Vec::as_slice) {
        Some([one]) => Some(one),
        Some(_) | None => None,
    };
    let node = one(POD).and(one(NODE));
    node.and_then(|node| NodeName::parse(node).ok())
        .ok_or(Denial::Wrong(
            "the token is bound to no Pod on a node: it has to be a projected one of the edge's Pod",
        ))
}

/// Parts that are told apart by where they end.
fn key(parts: &[&str]) -> Key {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().into()
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge")
            .field("client", &self.settings.client)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGES: &str = "system:serviceaccount:edge-system:tunnel-edge";

    #[test]
    fn an_edge_is_the_node_of_its_pod() {
        let node = node_of(
            &subject(EDGES, &[(POD, &["edge-1"]), (NODE, &["node-a"])]),
            EDGES,
        );
        assert_eq!(node.expect("a node").as_str(), "node-a");
    }

    #[test]
    fn who_is_no_edge_on_a_node_is_refused() {
        let both: &[(&str, &[&str])] = &[(POD, &["edge-1"]), (NODE, &["node-a"])];
        for (name, extra) in [
            ("system:serviceaccount:other:tunnel-edge", both),
            ("system:serviceaccount:edge-system:default", both),
            ("system:node:node-a", both),
            (EDGES, &[]),
            (EDGES, &both[..1]),
            (EDGES, &both[1..]),
            (EDGES, &[(POD, &["edge-1"]), (NODE, &["node-a", "node-b"])]),
            (EDGES, &[(POD, &["edge-1"]), (NODE, &["node a"])]),
        ] {
            let refused = node_of(&subject(name, extra), EDGES);
            assert!(matches!(refused, Err(Denial::Wrong(_))), "{name} {extra:?}");
        }
    }

    #[test]
    fn keys_differ_by_where_parts_end() {
        assert_ne!(key(&["a", "bc"]), key(&["ab", "c"]));
        assert_ne!(key(&["a"]), key(&["a", ""]));
    }

    fn subject(name: &str, extra: &[(&str, &[&str])]) -> Subject {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        let extra = extra.iter().map(|(key, of)| (key.to_string(), texts(of)));
        Subject {
            name: name.to_owned(),
            extra: extra.collect(),
            ..Subject::default()
        }
    }
}
