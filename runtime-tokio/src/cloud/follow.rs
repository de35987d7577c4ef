//! What changes at a replica when its files do: nodes and users that are named no more lose what they have.
use std::sync::Arc;

use proto_core::NodeHub;
use proto_core::auth::{Rights, Tokens, UserName};
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
                    hub.revoke_users(|user| rights(&*directory, user), now);
                });
            }
        }
    }
}

fn rights(directory: &dyn Directory, user: &str) -> Option<Rights> {
    let name = UserName::parse(user)?;
    directory.user(&name).map(|user| user.rights)
}
