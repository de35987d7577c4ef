//! Reading `/metrics`.

use crate::http;

/// One reading of a process's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// Asks an admin listener.
    pub fn read(admin: &str) -> Self {
        let (code, text) = http::get(admin, "/metrics");
        assert_eq!(code, 200, "GET /metrics at {admin}");
        Self { text }
    }

    /// The same of one that may have ended.
    pub fn try_read(admin: &str) -> Option<Self> {
        let (code, text) = http::try_get(admin, "/metrics").ok()?;
        (code == 200).then_some(Self { text })
    }

    /// The sum of all samples of `name` (with its `tunnel_` prefix left out) whose labels hold all of `labels`; 0 when
    /// there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name)
            .filter(|(have, _)| labels.iter().all(|(k, v)| has(have, k, v)))
            .map(|(_, value)| value)
            .sum()
    }

    /// Whether a metric of that name is shown at all.
    pub fn knows(&self, name: &str) -> bool {
        let prefix = format!("# TYPE tunnel_{}", name.trim_end_matches("_total"));
        self.text.lines().any(|line| line.starts_with(&prefix))
            || self.samples(name).next().is_some()
    }

    /// The text as served.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> + 'a {
        self.text.lines().filter_map(move |line| {
            let rest = line.strip_prefix("tunnel_")?.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once('}')?,
                None if rest.starts_with(' ') => ("", rest),
                None => return None,
            };
            Some((labels, value.trim().parse().ok()?))
        })
    }
}

fn has(labels: &str, key: &str, value: &str) -> bool {
    labels
        .split(',')
        .any(|label| label.trim() == format!("{key}=\"{value}\""))
}
