//! What changes at a replica when its files do: nodes and users that are named no more lose what they have.
use std::sync::Arc;

use proto_core::NodeHub;
use proto_core::auth::{Tokens, UserName};
use proto_core::hub::Standing;
use tokio::sync::watch;

use super::Directory;
use super::replica::{Replica, tell};

impl Replica {
    /// Takes over a new tokens file, whenever there is one: nodes that it doesn't name any more lose their links.
    pub(super) async fn follow_tokens(self: Arc<Self>, mut tokens: watch::Receiver<Arc<Tokens>>) {
        let mut last = tokens.borrow_and_update().clone();
        while tokens.changed().await.is_ok() {
            let new = tokens.borrow_and_update().clone();
            self.set_tokens(&new);
            // Others have proved their names by certificates.
            let last = std::mem::replace(&mut last, new.clone());
            for (node, hub) in self.hubs() {
                if last.is_listed(&node) && !new.is_listed(&node) {
                    tracing::info!(%node, "the node's token is gone, and its links with it");
                    tell(&hub, NodeHub::revoke);
                }
            }
        }
    }

    /// The nodes of the tokens file are known.
    pub(super) fn set_tokens(&self, tokens: &Tokens) {
        self.with_cloud(|cloud| cloud.set_listed(tokens.nodes().cloned()));
    }

    /// Ends the streams of those who may not have them any more, whenever the users have changed.
    pub(super) async fn follow_users(
        self: Arc<Self>,
        mut changed: watch::Receiver<()>,
        directory: Arc<dyn Directory>,
    ) {
        while changed.changed().await.is_ok() {
            for (_, hub) in self.hubs() {
                let directory = directory.clone();
                tell(&hub, move |hub, now| {
                    hub.revoke_users(|user| standing(&*directory, user), now);
                });
            }
        }
    }

    /// Asks every now and then what those users still may whom others than our files know, and who are here now.
    pub(super) async fn ask_of_users(self: Arc<Self>, directory: Arc<dyn Directory>) {
        let Some(every) = directory.asks_every() else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(every).await;
            for (node, hub) in self.hubs() {
                for user in hub.ask(|hub, _| hub.users()).await.unwrap_or_default() {
                    let Some(name) = UserName::parse(&user) else {
                        continue;
                    };
                    let now_may = directory.ask_standing(&name, &node).await;
                    if !matches!(now_may, Standing::Unknown) {
                        tell(&hub, move |hub, now| {
                            let of = |other: &str| match other == user {
                                true => now_may.clone(),
                                false => Standing::Unknown,
                            };
                            hub.revoke_users(of, now);
                        });
                    }
                }
            }
        }
    }
}

fn standing(directory: &dyn Directory, user: &str) -> Standing {
    match UserName::parse(user) {
        Some(name) => directory.standing(&name),
        None => Standing::Gone,
    }
}
