//! deploy/: the Helm chart, the kustomize base and overlays made from it, and `tunnel install` say the same, and an API
//! server takes it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tunnel_tests::binaries::binary;
use tunnel_tests::kubernetes::{ControlPlane, Setup, programs};
use tunnel_tests::openssh::success;
use tunnel_tests::pages::repository;

const NAMESPACE: &str = "edge-system";

/// What is committed is what the chart says.
#[test]
fn the_base_and_the_components_are_made_from_the_chart() {
    let out = tempfile::tempdir().unwrap();
    run(Command::new(deploy("render"))
        .arg(out.path())
        .env("HELM", programs(&[]).join("helm")));
    let mut compared = 0;
    for folder in [
        "kubernetes",
        "components/cert-manager",
        "components/monitoring",
        "components/autoscaling",
        "components/superedge",
    ] {
        for file in files(&out.path().join(folder)) {
            let there = deploy(folder).join(file.file_name().unwrap());
            let (made, there) = (
                fs::read_to_string(&file).unwrap(),
                fs::read_to_string(there),
            );
            assert_eq!(made, there.unwrap(), "{file:?}: run deploy/render");
            compared += 1;
        }
    }
    assert!(compared >= 10, "{compared}");
}

/// A kustomize overlay and the chart with the values of the same name make the same objects.
#[test]
fn overlays_say_what_the_chart_says() {
    let mut compared = 0;
    for overlay in files(&deploy("overlays")) {
        let values = chart(&format!("values/{}.yaml", name(&overlay)));
        let by_kustomize = run(Command::new(programs(&[]).join("kubectl"))
            .arg("kustomize")
            .arg(&overlay));
        let by_helm = helm(
            &["--set", "createNamespace=true,configChecksums=false"],
            &values,
        );
        same(
            &name(&overlay),
            &objects(&without_hashes(&by_kustomize)),
            &objects(&by_helm),
        );
        compared += 1;
    }
    assert!(compared >= 6, "{compared}");
}

/// `tunnel install` needs no Helm and makes the same of the chart.
#[test]
fn tunnel_install_prints_what_helm_makes() {
    for values in value_files() {
        let by_helm = helm(&["--set", "createNamespace=true"], &values);
        same(
            &name(&values),
            &objects(&install(&["-f", text(&values)])),
            &objects(&by_helm),
        );
    }
    let set = "cloud.replicas=7";
    let (ours, helms) = (
        install(&["--set", set]),
        helm_with(&["--set", set, "--set", "createNamespace=true"]),
    );
    same("--set", &objects(&ours), &objects(&helms));
    assert!(ours.contains("replicas: 7"), "{ours}");

    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users.toml");
    fs::write(&users, "[[user]]\nname = \"ann\"\n").unwrap();
    let flag = format!("cloud.users={}", users.display());
    let secret = &objects(&install(&["--set-file", &flag, "-n", "elsewhere"]))["Secret elsewhere/tunnel-users"];
    assert_eq!(
        secret["stringData"]["users.toml"],
        "[[user]]\nname = \"ann\"\n"
    );

    let refused = Command::new(binary("tunnel"))
        .args(["install", "--dry-run", "--set", "cloud.replica=7"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(said, "tunnel: --set: the chart has no cloud.replica\n");
}

/// Everything in deploy/, and the chart by all value files. Kinds of other projects are held against their own Go types; for
/// them the API server only knows that there are such kinds.
#[test]
fn an_api_server_takes_everything() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(dir.path(), &Setup::default());
    plane.apply(&other_projects_kinds());
    for kind in [
        "certificates.cert-manager.io",
        "prometheusrules.monitoring.coreos.com",
    ] {
        plane.ask(&[
            "wait",
            "--for=condition=Established",
            &format!("crd/{kind}"),
            "--timeout=20s",
        ]);
    }
    plane.ask(&["create", "namespace", NAMESPACE]);
    let mut strict = 0;
    let mut check = |what: &str, manifests: &str| {
        strict += by_their_types(what, manifests);
        let file = dir.path().join("manifests.yaml");
        fs::write(&file, manifests).unwrap();
        let line = [
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-o",
            "name",
            "-f",
            text(&file),
        ];
        let taken = plane.ask(&line);
        assert_eq!(
            taken.lines().count(),
            objects(manifests).len(),
            "{what}: {taken}"
        );
    };
    for overlay in files(&deploy("overlays"))
        .iter()
        .chain([&deploy("kubernetes")])
    {
        let mut command = Command::new(programs(&[]).join("kubectl"));
        check(&name(overlay), &run(command.arg("kustomize").arg(overlay)));
    }
    for values in value_files() {
        check(&name(&values), &helm(&[], &values));
    }
    assert!(strict >= 20, "{strict} objects of other projects' kinds");

    // The line that SuperEdge's users know.
    let service =
        objects(&helm_with(&[]))[&format!("Service {NAMESPACE}/tunnel-cloud")].to_string();
    plane.apply(&service);
    for port in ["grpc", "ssh", "tunnel-metrics"] {
        let path = format!("jsonpath={{.spec.ports[?(@.name==\"{port}\")].nodePort}}");
        let number = plane.ask(&["-n", NAMESPACE, "get", "svc", "tunnel-cloud", "-o", &path]);
        assert!(
            (30000..32768).contains(&number.parse::<u16>().unwrap()),
            "{port}: {number}"
        );
    }
}

/// Pods of the cloud may run where the strictest of the cluster's own standards holds.
#[test]
fn the_cloud_s_pods_are_restricted() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(dir.path(), &Setup::default());
    plane.apply(&format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}, labels: {{pod-security.kubernetes.io/warn: restricted}}}}}}"
    ));
    let file = dir.path().join("manifests.yaml");
    let said = |flags: &[&str]| {
        fs::write(&file, helm_with(flags)).unwrap();
        let line = ["apply", "--dry-run=server", "-f", text(&file)];
        String::from_utf8(plane.kubectl(&line).output().unwrap().stderr).unwrap()
    };
    let without_edges = said(&["--set", "edge.enabled=false"]);
    assert!(!without_edges.contains("PodSecurity"), "{without_edges}");
    // It does say so of what isn't.
    assert!(said(&[]).contains("would violate PodSecurity"));
}

fn deploy(path: &str) -> PathBuf {
    repository("deploy").join(path)
}

fn chart(path: &str) -> PathBuf {
    deploy("helm/tunnel").join(path)
}

/// In a folder, by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files
}

fn value_files() -> Vec<PathBuf> {
    let files = files(&chart("values"));
    assert!(files.len() >= 8, "{files:?}");
    files
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    success(&format!("{command:?}"), &output);
    String::from_utf8(output.stdout).unwrap()
}

fn helm(flags: &[&str], values: &Path) -> String {
    helm_with(&[flags, &["-f", text(values)]].concat())
}

fn helm_with(flags: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    run(Command::new(programs(&[]).join("helm"))
        .args([
            "template",
            "tunnel",
            text(&chart("")),
            "--namespace",
            NAMESPACE,
        ])
        .args(flags)
        .env("HOME", home.path()))
}

fn install(flags: &[&str]) -> String {
    run(Command::new(binary("tunnel"))
        .args(["install", "--dry-run"])
        .args(flags))
}

/// By kind, namespace and name; lists of things with names in the order of these.
fn objects(manifests: &str) -> BTreeMap<String, Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(manifests).unwrap();
    let mut objects = BTreeMap::new();
    for mut object in all.into_iter().filter(|object| !object.is_null()) {
        sort(&mut object);
        let word = |at: &str| {
            object
                .pointer(at)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (kind, namespace, name) = (
            word("/kind"),
            word("/metadata/namespace"),
            word("/metadata/name"),
        );
        let key = format!("{kind} {namespace}/{name}");
        assert!(objects.insert(key.clone(), object).is_none(), "{key} twice");
    }
    objects
}

fn sort(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(sort);
            if items.iter().all(|item| item["name"].is_string()) {
                items.sort_by_key(|item| item["name"].as_str().map(str::to_owned));
            }
        }
        Value::Object(map) => map.values_mut().for_each(sort),
        _ => {}
    }
}

/// kustomize names ConfigMaps after what is in them too.
fn without_hashes(manifests: &str) -> String {
    let mut text = manifests.to_owned();
    for name in ["tunnel-cloud", "tunnel-edge"] {
        let hash = manifests
            .split(&format!("name: {name}-"))
            .skip(1)
            .filter_map(|rest| rest.get(..10))
            .find(|hash| {
                hash.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            });
        match hash {
            Some(hash) => text = text.replace(&format!("{name}-{hash}"), name),
            None => assert!(!manifests.contains(name), "{name} without a hash"),
        }
    }
    text
}

#[track_caller]
fn same(what: &str, one: &BTreeMap<String, Value>, other: &BTreeMap<String, Value>) {
    let keys = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(one), keys(other), "{what}");
    for (key, object) in one {
        assert_eq!(object, &other[key], "{what}: {key}");
    }
}

/// How many objects of other projects' kinds there are, all of which have to be right.
fn by_their_types(what: &str, manifests: &str) -> usize {
    let mut child = Command::new(programs(&[]).join("crds"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(manifests.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    success(what, &output);
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

/// Definitions that let everything pass.
fn other_projects_kinds() -> String {
    let mut text = String::new();
    for (group, kind) in [
        ("cert-manager.io", "Certificate"),
        ("cert-manager.io", "Issuer"),
        ("monitoring.coreos.com", "ServiceMonitor"),
        ("monitoring.coreos.com", "PrometheusRule"),
    ] {
        let one = kind.to_lowercase();
        text.push_str(&format!(
            "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {one}s.{group}}}\n\
             spec: {{group: {group}, scope: Namespaced, names: {{kind: {kind}, plural: {one}s, singular: {one}}}, \
             versions: [{{name: v1, served: true, storage: true, \
             schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}}}]}}\n"
        ));
    }
    text
}

/// By kubectl itself: `kubectl tunnel`, and the completion of its words.
#[test]
fn tunnel_is_a_plugin_of_kubectl() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["kubectl-tunnel", "kubectl_complete-tunnel"] {
        std::os::unix::fs::symlink(binary("tunnel"), dir.path().join(name)).unwrap();
    }
    let kubectl = |line: &[&str]| {
        let mut command = Command::new(programs(&[]).join("kubectl"));
        run(command
            .args(line)
            .env("PATH", dir.path())
            .env("HOME", dir.path()))
    };
    assert!(kubectl(&["tunnel", "--help"]).contains("Usage: kubectl tunnel [OPTIONS]"));
    let listed = kubectl(&["plugin", "list", "--name-only"]);
    assert!(listed.contains("kubectl-tunnel\n"), "{listed}");
    let completed = kubectl(&["__complete", "tunnel", "str"]);
    assert!(completed.starts_with("streams\t"), "{completed}");
    let completed = kubectl(&["__complete", "tunnel", "nodes", "--output", ""]);
    assert!(completed.starts_with("table\njson\n"), "{completed}");

    let config = dir.path().join("config");
    let contexts =
        "contexts: [{name: prod, context: {cluster: c}}, {name: test, context: {cluster: c}}]";
    std::fs::write(
        &config,
        format!("apiVersion: v1\nkind: Config\n{contexts}\n"),
    )
    .unwrap();
    let mut command = Command::new(programs(&[]).join("kubectl"));
    let path = format!("{}:{}", dir.path().display(), programs(&[]).display());
    command.env("PATH", path).env("KUBECONFIG", config);
    let completed = run(command.args(["__complete", "tunnel", "--kube-context", "p"]));
    assert!(completed.starts_with("prod\n"), "{completed}");
}

/// By the rules that krew checks when it installs, and names when a manifest is handed in.
#[test]
fn krew_is_given_what_it_checks() {
    let dir = tempfile::tempdir().unwrap();
    let pack = || {
        let mut command = Command::new(deploy("krew/pack"));
        command.arg(dir.path()).arg("https://example.com/releases/");
        let other = format!("arm64={}", binary("tunnel").display());
        run(command.arg(binary("tunnel")).arg(other))
    };
    let text = pack();
    assert_eq!(text, pack(), "the same each time");
    let manifest: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(
        manifest["apiVersion"],
        "krew.googlecontainertools.github.com/v1alpha2"
    );
    assert_eq!(manifest["kind"], "Plugin");
    // The name is that of the file in the index and of the command, and never begins with kube.
    assert_eq!(manifest["metadata"]["name"], "tunnel");
    let spec = &manifest["spec"];
    assert_eq!(spec["version"], "v0.1.0");
    let short = spec["shortDescription"].as_str().unwrap();
    assert!(
        (1..=50).contains(&short.len()) && !short.contains('\n'),
        "{short}"
    );
    for field in ["description", "homepage", "caveats"] {
        assert!(spec[field].is_string(), "{field}");
    }
    let platforms = spec["platforms"].as_array().unwrap();
    let mut machines = Vec::new();
    for platform in platforms {
        let labels = platform["selector"]["matchLabels"].as_object().unwrap();
        assert_eq!(labels.keys().collect::<Vec<_>>(), ["arch", "os"]);
        assert_eq!(labels["os"], "linux");
        machines.push(labels["arch"].as_str().unwrap());
        let uri = platform["uri"].as_str().unwrap();
        let file = uri.strip_prefix("https://example.com/releases/").unwrap();
        assert!(file.ends_with(".tar.gz"), "{file}");
        let archive = dir.path().join(file);
        let sum = run(Command::new("sha256sum").arg(&archive));
        assert_eq!(sum.split(' ').next(), platform["sha256"].as_str());
        let bin = platform["bin"].as_str().unwrap();
        let listed = run(Command::new("tar").arg("-tvzf").arg(&archive));
        let is_program = |line: &str| line.starts_with("-rwxr-xr-x") && line.ends_with(bin);
        assert!(listed.lines().any(is_program), "{listed}");
        assert!(listed.contains("LICENSE"), "{listed}");
    }
    machines.sort_unstable();
    machines.dedup();
    assert_eq!(
        (machines.len(), machines.contains(&"arm64")),
        (2, true),
        "no two for one machine"
    );
}
