//! Where the other replicas are: a list, and what a DNS name has at the moment.
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;

use super::PeersSettings;
use super::Replica;

/// How often the name is looked up.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
/// How long that may take. The addresses of the last time hold on.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Tells the machine, now and whenever they change, until the replica ends.
pub(super) async fn follow(settings: PeersSettings, replica: Arc<Replica>) {
    let mut ends = replica.cluster().ends.subscribe();
    let mut told = None;
    loop {
        let mut addresses = settings.addresses.clone();
        if let Some(name) = &settings.dns {
            match tokio::time::timeout(LOOKUP_TIMEOUT, lookup_host(name)).await {
                Ok(Ok(found)) => addresses.extend(found.map(|address| address.to_string())),
                Ok(Err(error)) => {
                    tracing::debug!(name, %error, "the replicas' name could not be looked up");
                    addresses.extend(told.iter().flatten().cloned());
                }
                Err(_) => addresses.extend(told.iter().flatten().cloned()),
            }
        }
        addresses.sort();
        addresses.dedup();
        if told.as_ref() != Some(&addresses) {
            tracing::debug!(?addresses, "the other replicas are at these");
            told = Some(addresses.clone());
            replica
                .cluster()
                .tell(move |peers, now| peers.set_addresses(addresses, now));
        }
        if settings.dns.is_none() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOKUP_INTERVAL) => {}
            _ = ends.changed() => return,
        }
    }
}
