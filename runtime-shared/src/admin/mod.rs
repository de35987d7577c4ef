//! What the admin pages show, and what they say to who may not see them, whoever serves them.
pub mod api;
pub mod infos;

/// The content type of the metrics page.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Denied something isn't shown or done.
#[derive(Clone, Copy, Debug)]
pub struct Denied {
    /// One word for programs.
    pub reason: &'static str,
    /// One line for people.
    pub message: &'static str,
}

/// 404.
pub const NO_SUCH_PAGE: Denied = Denied {
    reason: "not-found",
    message: "there is no such page",
};
/// 404, where a drain is asked for by a page.
pub const NO_DRAIN: Denied = Denied {
    reason: "not-found",
    message: "this process leaves by SIGTERM alone",
};
/// 401.
pub const AUTH_MISSING: Denied = Denied {
    reason: "auth-missing",
    message: "credentials are needed: a user and password, or a token",
};
/// 401.
pub const AUTH_FAILED: Denied = Denied {
    reason: "auth-failed",
    message: "the user, password or token is wrong",
};

impl From<Denied> for api::Refusal {
    fn from(why: Denied) -> api::Refusal {
        api::Refusal {
            reason: why.reason.to_owned(),
            message: why.message.to_owned(),
        }
    }
}
