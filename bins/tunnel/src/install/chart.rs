//! The chart, as it was when this program was built.

use serde_json::{Value, json};

use super::template::Templates;

macro_rules! chart {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/helm/tunnel/", $name)))),*]
    };
}

/// In the order in which a cluster should get what they make.
const TEMPLATES: &[(&str, &str)] = chart![
    "templates/_helpers.tpl",
    "templates/namespace.yaml",
    "templates/rbac.yaml",
    "templates/secrets.yaml",
    "templates/config.yaml",
    "templates/certificates.yaml",
    "templates/cert-manager.yaml",
    "templates/reviews.yaml",
    "templates/services.yaml",
    "templates/network-policy.yaml",
    "templates/cloud.yaml",
    "templates/autoscaling.yaml",
    "templates/edge.yaml",
    "templates/monitoring.yaml",
];
const FILES: &[(&str, &str)] = chart!["files/dashboard.json"];
/// `values.yaml`.
pub(super) const VALUES_TEXT: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/helm/tunnel/values.yaml"
));

/// The chart's own values.
pub(super) fn values() -> Result<Value, String> {
    super::values::parse("values.yaml", VALUES_TEXT)
}

/// The manifests, with these values, for this namespace.
pub(super) fn render(values: Value, namespace: &str) -> Result<String, String> {
    let mut templates = Templates::default();
    for (name, text) in TEMPLATES {
        templates.add(name, text)?;
    }
    for (name, text) in FILES {
        templates.add_file(name, text);
    }
    let root = json!({
        "Values": values,
        "Release": {"Name": "tunnel", "Namespace": namespace},
        "Chart": {"Name": "tunnel", "AppVersion": env!("CARGO_PKG_VERSION")},
    });
    let mut out = String::new();
    for (name, _) in TEMPLATES.iter().filter(|(name, _)| name.ends_with(".yaml")) {
        let text = templates.render(name, &root)?;
        let documents = text
            .split("\n---\n")
            .map(|text| text.trim_start_matches("---\n").trim());
        for document in documents.filter(|text| !text.is_empty()) {
            out.push_str("---\n");
            out.push_str(document);
            out.push('\n');
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_file_of_the_chart_is_here() {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/tunnel");
        let known: BTreeSet<String> = [TEMPLATES, FILES]
            .concat()
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let mut there = BTreeSet::new();
        for folder in ["templates", "files"] {
            for file in std::fs::read_dir(chart.join(folder)).expect(folder) {
                let name = file.expect("a file").file_name();
                there.insert(format!("{folder}/{}", name.to_string_lossy()));
            }
        }
        // Words for whoever runs Helm.
        there.remove("templates/NOTES.txt");
        assert_eq!(known, there);
        let version = std::fs::read_to_string(chart.join("Chart.yaml")).expect("Chart.yaml");
        let line = format!("appVersion: {}", env!("CARGO_PKG_VERSION"));
        assert!(version.lines().any(|known| known == line), "{version}");
    }

    #[test]
    fn its_own_values_make_manifests() {
        let text = render(values().expect("values"), "edge-system").expect("manifests");
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        for kind in [
            "Deployment",
            "DaemonSet",
            "Service",
            "NetworkPolicy",
            "PodDisruptionBudget",
        ] {
            assert!(
                objects.iter().any(|object| object["kind"] == kind),
                "{kind}"
            );
        }
    }
}
