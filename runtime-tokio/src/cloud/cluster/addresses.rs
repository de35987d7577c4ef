//! Where the other replicas are: a list, and what a DNS name has at the moment.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::PeersSettings;
use super::Replica;

/// How often the name is looked up.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
/// The same while replicas come: at the start, after a change, and when one is heard of that isn't known.
const UNSETTLED_INTERVAL: Duration = Duration::from_millis(500);
/// For so long. A cluster's DNS may be behind what a registry says.
const UNSETTLED: Duration = Duration::from_secs(15);
/// How long a look-up may take. The addresses of the last time hold on.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Tells the machine, now and whenever they change, until the replica ends.
pub(super) async fn follow(settings: PeersSettings, replica: Arc<Replica>) {
    let cluster = replica.cluster();
    let lookup = async |name: String| Ok(lookup_host(name).await?.collect());
    let tell = |addresses: Vec<String>| {
        tracing::debug!(?addresses, "the other replicas are at these");
        cluster.tell(move |peers, now| peers.set_addresses(addresses, now));
    };
    let mut ends = cluster.ends.subscribe();
    tokio::select! {
        () = look(settings.addresses, settings.dns, &cluster.stranger, lookup, tell) => {}
        _ = ends.changed() => {}
    }
}

/// Goes on for as long as there is a name to look up.
async fn look(
    listed: Vec<String>,
    dns: Option<String>,
    stranger: &Notify,
    lookup: impl AsyncFn(String) -> io::Result<Vec<SocketAddr>>,
    tell: impl Fn(Vec<String>),
) {
    let mut told = None;
    let mut unsettled_until = Instant::now() + UNSETTLED;
    loop {
        let mut addresses = listed.clone();
        if let Some(name) = &dns {
            match timeout(LOOKUP_TIMEOUT, lookup(name.clone())).await {
                Ok(Ok(found)) => addresses.extend(found.iter().map(SocketAddr::to_string)),
                Ok(Err(error)) => {
                    tracing::debug!(name, %error, "the replicas' name could not be looked up");
                    addresses.extend(told.iter().flatten().cloned());
                }
                Err(_) => addresses.extend(told.iter().flatten().cloned()),
            }
        }
        addresses.sort();
        addresses.dedup();
        let now = Instant::now();
        if told.as_ref() != Some(&addresses) {
            told = Some(addresses.clone());
            unsettled_until = now + UNSETTLED;
            tell(addresses);
        }
        if dns.is_none() {
            return;
        }
        let soon = now + UNSETTLED_INTERVAL;
        let next = match now < unsettled_until {
            true => soon,
            false => now + LOOKUP_INTERVAL,
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = stranger.notified() => {
                unsettled_until = Instant::now() + UNSETTLED;
                sleep_until(soon).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A name that has one address, and a second one from a time on; who is told of both, and how often it was looked up.
    async fn told_after(
        from: Duration,
        heard_of: Option<Duration>,
        until: Duration,
    ) -> (Option<Duration>, u32) {
        let start = Instant::now();
        let (lookups, both) = (Cell::new(0), Cell::new(None));
        let stranger = Notify::new();
        let lookup = async |_: String| {
            lookups.set(lookups.get() + 1);
            let count = if start.elapsed() < from { 1 } else { 2 };
            Ok((1..=count)
                .map(|host| SocketAddr::from(([10, 0, 0, host], 9000)))
                .collect())
        };
        let tell = |addresses: Vec<String>| {
            if addresses.len() == 2 {
                both.set(Some(start.elapsed()));
            }
        };
        let hears = async {
            if let Some(at) = heard_of {
                tokio::time::sleep(at).await;
                stranger.notify_one();
            }
            std::future::pending::<()>().await;
        };
        let name = Some("replicas:9000".to_owned());
        tokio::select! {
            () = look(Vec::new(), name, &stranger, lookup, tell) => {}
            () = hears => {}
            () = tokio::time::sleep(until) => {}
        }
        (both.get(), lookups.get())
    }

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_that_start_together_find_each_other_within_a_second() {
        let from = Duration::from_millis(1700);
        let (told, _) = told_after(from, None, secs(10)).await;
        let told = told.expect("told");
        assert!(told - from < secs(1), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_heard_of_is_found_within_a_second_and_any_other_soon() {
        let from = secs(3600);
        let (told, _) = told_after(from, Some(from), secs(3700)).await;
        let told = told.expect("told");
        assert!(told - from < secs(1), "{told:?}");
        // DNS has it later than the registry.
        let heard = from - secs(2);
        let (told, _) = told_after(from, Some(heard), secs(3700)).await;
        let told = told.expect("told");
        assert!(told - from < secs(1), "{told:?}");
        let (told, _) = told_after(from, None, secs(3700)).await;
        let told = told.expect("told");
        assert!(told - from <= LOOKUP_INTERVAL, "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_is_settled_is_looked_up_seldom() {
        let (_, lookups) = told_after(secs(0), None, secs(3600)).await;
        assert!(lookups <= 3600 / 5 + 31, "{lookups}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_cannot_be_looked_up_leaves_what_was_known() {
        let (lookups, told) = (Cell::new(0), RefCell::new(Vec::new()));
        let lookup = async |_: String| {
            lookups.set(lookups.get() + 1);
            match lookups.get() {
                1 => Ok(vec![SocketAddr::from(([10, 0, 0, 1], 9000))]),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        };
        let tell = |addresses| told.borrow_mut().push(addresses);
        let (listed, name) = (vec!["a:9000".to_owned()], Some("replicas:9000".to_owned()));
        let stranger = Notify::new();
        let _ = timeout(secs(60), look(listed, name, &stranger, lookup, tell)).await;
        assert!(lookups.get() > 5);
        let expected = ["10.0.0.1:9000".to_owned(), "a:9000".to_owned()];
        assert_eq!(*told.borrow(), [expected]);
    }
}
