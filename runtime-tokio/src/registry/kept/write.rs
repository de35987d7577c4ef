//! Writing down what this replica holds: what the core says is due, one request at a time.
use std::fmt;
use std::sync::Arc;

use proto_core::registry::{Action, Written};

use super::Kept;
use crate::kubernetes::Error;

/// Why nothing was written.
#[derive(Debug)]
pub(in crate::registry) enum Failure {
    /// The API server has not done it.
    Api(Error),
    /// It wasn't asked: it would not take so much. What it is, and how large.
    TooLarge(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Api(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Api(error) => error.fmt(f),
            Failure::TooLarge(text) => f.write_str(text),
        }
    }
}

impl Failure {
    /// The word for metrics.
    fn as_str(&self) -> &'static str {
        match self {
            Failure::Api(error) if error.is_conflict() => "conflict",
            Failure::Api(error) if error.is_forbidden() => "forbidden",
            Failure::Api(_) => "failed",
            Failure::TooLarge(_) => "too-large",
        }
    }

    fn written(&self) -> Written {
        match self {
            Failure::Api(error) if error.is_conflict() => Written::Conflict,
            Failure::Api(_) | Failure::TooLarge(_) => Written::Failed,
        }
    }
}

/// Writes for ever.
pub(super) async fn run<K: Kept>(kept: Arc<K>) {
    let common = kept.common();
    // What an earlier process of this Pod wrote is taken over, if it can be read.
    let mut looked = common.looked.subscribe();
    let _ = looked.wait_for(|looked| *looked).await;
    let mut is_failing = false;
    loop {
        let (write, deadline, has_left) = kept.core(|core| {
            let now = common.now();
            core.slices.handle_timeout(now);
            let write = core.slices.poll_write(now);
            core.is_writing = write.is_some();
            (write, core.slices.deadline(), core.slices.has_left())
        });
        common.left.send_replace(has_left);
        let Some(write) = write else {
            tokio::select! {
                () = common.sleep_until(deadline) => {}
                () = common.to_write.notified() => {}
            }
            continue;
        };
        let result = kept.write(&write).await;
        let (written, word) = match &result {
            Ok(written) => (*written, "ok"),
            Err(failure) => (failure.written(), failure.as_str()),
        };
        common.metrics.registry_wrote(word);
        match &result {
            // Somebody was quicker: nothing is wrong with that.
            Err(failure) if failure.written() == Written::Conflict => {
                tracing::debug!(error = %failure, "this replica's nodes are written once more");
            }
            Err(failure) if !is_failing => {
                is_failing = true;
                tracing::warn!(error = %failure, nodes = count(&write.action), "this replica's nodes could not be written; the next tries are told at DEBUG");
            }
            Err(failure) => {
                tracing::debug!(error = %failure, "this replica's nodes could not be written");
            }
            Ok(_) if is_failing => {
                is_failing = false;
                tracing::info!("this replica's nodes are written again");
            }
            Ok(_) => {}
        }
        kept.core(|core| {
            core.is_writing = false;
            core.slices.handle_written(written, common.now());
        });
        kept.settle();
    }
}

fn count(action: &Action) -> usize {
    match action {
        Action::Create(nodes) | Action::Replace(nodes) => nodes.len(),
        Action::Delete => 0,
    }
}
