//! `[kubernetes]`: who the API server is, and what it is asked.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cloud::CloudConfig;
use super::values::duration;
use super::{Mistake, Places};

/// Where every Pod with a ServiceAccount has these.
const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The cluster's API server, and as a judge of credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kubernetes {
    /// Its URL; empty: that of the cluster this is a Pod of, filled in at load.
    pub server: String,
    /// The CA of its certificate, PEM; empty, for a Pod: where Pods have it, filled in at load.
    pub ca: PathBuf,
    /// This replica's ServiceAccount token; empty, for a Pod: where Pods have it, filled in at load.
    pub token_file: PathBuf,
    /// Whether edges may show the token of their Pod.
    pub token_review: bool,
    /// Whom such a token must be made for.
    pub audience: String,
    /// The ServiceAccount of edges, in the replica's namespace.
    pub service_account: String,
    /// Whether operators may show their Kubernetes token, and have the rights that RBAC gives them.
    pub subject_access_review: bool,
    /// The ports that these may reach.
    pub ports: Vec<u16>,
    /// How long an answer holds.
    #[serde(with = "duration")]
    pub cache: Duration,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            server: String::new(),
            ca: PathBuf::new(),
            token_file: PathBuf::new(),
            token_review: false,
            audience: "tunnel".to_owned(),
            service_account: "tunnel-edge".to_owned(),
            subject_access_review: false,
            ports: vec![22],
            cache: Duration::from_secs(30),
        }
    }
}

impl Kubernetes {
    /// Whether this process is in a Pod of a cluster.
    pub(super) fn is_in_cluster(env: &dyn Fn(&str) -> Option<String>) -> bool {
        in_cluster(env).is_some()
    }

    /// Fills in what a Pod knows of its cluster.
    pub(super) fn resolve(&mut self, places: &Places, env: &dyn Fn(&str) -> Option<String>) {
        if !places.given("kubernetes.server") {
            self.server = in_cluster(env).unwrap_or_default();
        }
        if in_cluster(env).is_none() {
            return;
        }
        for (key, field, name) in [
            ("kubernetes.ca", &mut self.ca, "ca.crt"),
            ("kubernetes.token_file", &mut self.token_file, "token"),
        ] {
            if !places.given(key) {
                *field = PathBuf::from(MOUNTED).join(name);
            }
        }
    }
}

/// The API server of the cluster that this process is in a Pod of.
fn in_cluster(env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let set = |name| env(name).filter(|value| !value.is_empty());
    let host = set("KUBERNETES_SERVICE_HOST")?;
    let port = set("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    Some(match host.parse() {
        Ok(IpAddr::V6(_)) => format!("https://[{host}]:{port}"),
        _ => format!("https://{host}:{port}"),
    })
}

impl CloudConfig {
    /// Whether anything is asked of an API server.
    pub fn asks_kubernetes(&self) -> bool {
        self.kubernetes.token_review
            || self.kubernetes.subject_access_review
            || self.registry.is_in_kubernetes()
    }

    pub(super) fn check_kubernetes(&self, places: &Places, found: &mut Vec<Mistake>) {
        let kubernetes = &self.kubernetes;
        if !self.asks_kubernetes() {
            return;
        }
        self.check_reviews(places, found);
        let rest = kubernetes.server.strip_prefix("https://");
        if !rest.is_some_and(|rest| !rest.is_empty() && !rest.trim_end_matches('/').contains('/')) {
            found.push(places.mistake(
                "kubernetes.server",
                "registry.kind (\"hosts\" without hosts_file, too), token_review or subject_access_review needs the API server: expected its URL, https://HOST:PORT; Pods know it from KUBERNETES_SERVICE_HOST",
            ));
            return;
        }
        for (key, path, what) in [
            (
                "kubernetes.ca",
                &kubernetes.ca,
                "the PEM file of the API server's CA",
            ),
            (
                "kubernetes.token_file",
                &kubernetes.token_file,
                "the file of this replica's ServiceAccount token",
            ),
        ] {
            if path.as_os_str().is_empty() {
                found.push(places.mistake(
                    key,
                    format_args!("outside of a Pod it has no default: expected the path of {what}"),
                ));
            }
        }
    }
}

impl CloudConfig {
    fn check_reviews(&self, places: &Places, found: &mut Vec<Mistake>) {
        let kubernetes = &self.kubernetes;
        if kubernetes.token_review {
            for (key, value, what) in [
                (
                    "kubernetes.service_account",
                    &kubernetes.service_account,
                    "the name of the edges' ServiceAccount",
                ),
                (
                    "registry.namespace",
                    &self.registry.namespace,
                    "the namespace of the edges' ServiceAccount (or POD_NAMESPACE)",
                ),
            ] {
                if value.is_empty() {
                    let text = format_args!("kubernetes.token_review needs it: expected {what}");
                    found.push(places.mistake(key, text));
                }
            }
        }
        let reviews = kubernetes.token_review || kubernetes.subject_access_review;
        if reviews && kubernetes.audience.is_empty() {
            let text = "expected whom tokens are made for, \"tunnel\" for example";
            found.push(places.mistake("kubernetes.audience", text));
        }
        if kubernetes.ports.contains(&0) {
            let text = "expected ports from 1 to 65535, such as [22]";
            found.push(places.mistake("kubernetes.ports", text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_knows_its_cluster() {
        let pod = |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some("fd00::1".to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some("6443".to_owned()),
            _ => None,
        };
        assert_eq!(in_cluster(&pod).as_deref(), Some("https://[fd00::1]:6443"));
        assert_eq!(in_cluster(&|_| None), None);
        assert_eq!(in_cluster(&|_| Some(String::new())), None);
    }
}
