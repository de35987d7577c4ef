//! What went wrong with a request: what was asked, of whom, and what it answered.
use std::fmt;
use std::time::Duration;

use kube::core::Status;

/// A request that came to nothing.
#[derive(Clone, Debug)]
pub struct Error {
    /// `https://host:port`.
    pub(super) server: String,
    /// As RBAC calls it.
    pub(super) verb: &'static str,
    /// `endpointslices.discovery.k8s.io`, and where.
    pub(super) what: String,
    pub(super) why: Why,
}

/// Why.
#[derive(Clone, Debug)]
pub enum Why {
    /// The API server said no.
    Refused(Box<Status>),
    /// It could not be reached, or broke off.
    Unreachable(String),
    /// It did not answer within this.
    Silent(Duration),
    /// What it said makes no sense, or what was asked doesn't.
    Unintelligible(String),
}

impl Error {
    /// Why.
    pub fn why(&self) -> &Why {
        &self.why
    }

    /// The status code of a refusal.
    pub fn code(&self) -> Option<u16> {
        match &self.why {
            Why::Refused(status) => Some(status.code),
            _ => None,
        }
    }

    /// There is no such object.
    pub fn is_missing(&self) -> bool {
        self.code() == Some(404)
    }

    /// Somebody else was quicker: it is there already, or another one by now.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// What was known of the past is no longer to be had: list anew.
    pub fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }

    /// RBAC does not allow it.
    pub fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {}: ", self.verb, self.what, self.server)?;
        match &self.why {
            Why::Refused(status) => {
                write!(f, "{} {}", status.code, status.reason)?;
                if !status.message.is_empty() {
                    write!(f, ": {}", status.message)?;
                }
                match status.code {
                    401 => f.write_str(
                        "; is kubernetes.token_file a token of this cluster, and still valid?",
                    ),
                    403 => write!(
                        f,
                        "; probably the verb \"{}\" is missing in the Role or ClusterRole of the ServiceAccount",
                        self.verb
                    ),
                    _ => Ok(()),
                }
            }
            Why::Unreachable(text) => write!(f, "not reached: {text}"),
            Why::Silent(limit) => write!(f, "no answer within {} s", limit.as_secs()),
            Why::Unintelligible(text) => write!(f, "not understood: {text}"),
        }
    }
}

impl std::error::Error for Error {}

/// An error with its causes, which hyper keeps apart.
pub(super) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}
