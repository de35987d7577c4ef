//! Reading all of the registry, and hearing of its changes.
use std::sync::Arc;
use std::time::Duration;

use proto_core::registry::FollowLoss;

use super::Kept;
use crate::kubernetes::{Error, Why};

/// A watch that the server ends sooner was none.
const WATCH_MIN: Duration = Duration::from_secs(1);

/// Follows for ever, as far as it is let.
pub(super) async fn run<K: Kept>(kept: Arc<K>) {
    let common = kept.common();
    let mut told = None;
    loop {
        let (begin, deadline) = kept.core(|core| {
            let begin = core.sources.poll_follow(common.now());
            (begin, core.sources.deadline())
        });
        if !begin {
            common.sleep_until(deadline).await;
            continue;
        }
        let (loss, why) = follow(&*kept).await;
        common.looked.send_replace(true);
        let is_new = told.replace(loss) != Some(loss);
        if is_new && loss == FollowLoss::Forbidden {
            tracing::warn!(
                why,
                "the other replicas' nodes can't be followed: they are asked for one by one"
            );
        } else {
            tracing::debug!(why, "the other replicas' nodes are not followed");
        }
        kept.core(|core| core.sources.handle_lost(loss, common.now()));
    }
}

fn loss(error: &Error) -> (FollowLoss, String) {
    let loss = match error.why() {
        Why::Refused(_) if error.is_forbidden() => FollowLoss::Forbidden,
        Why::Unreachable(_) | Why::Silent(_) => FollowLoss::Unreachable,
        Why::Refused(_) | Why::Unintelligible(_) => FollowLoss::Broken,
    };
    (loss, error.to_string())
}

/// Reads all there is, then hears what changes, until that fails.
async fn follow<K: Kept>(kept: &K) -> (FollowLoss, String) {
    let common = kept.common();
    if let Err(error) = common.uid().await {
        tracing::debug!(%error, "this replica's Pod is not known");
    }
    if let Err(error) = kept.look().await {
        return loss(&error);
    }
    common.looked.send_replace(true);
    let params = kept.selects();
    loop {
        let mut watching = match kept.objects().watch(&params, &kept.version()).await {
            Ok(watching) => watching,
            Err(error) => return loss(&error),
        };
        let begun = common.now();
        kept.core(|core| {
            if !core.sources.is_followed() {
                core.sources.handle_followed(begun);
                tracing::debug!("the replicas' nodes are followed");
            }
        });
        loop {
            match watching.next().await {
                Some(Ok(change)) => kept.change(change),
                Some(Err(error)) => return loss(&error),
                None => break,
            }
        }
        // The server ends it every few minutes; at once, it means something else.
        let lasted = common.now().saturating_duration_since(begun);
        if lasted < WATCH_MIN {
            return (FollowLoss::Broken, "a watch ended at once".to_owned());
        }
    }
}
