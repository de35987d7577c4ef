//! `tunnel-cloud certificates`, as the manifests' Job runs it, with no more rights than they give.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tunnel_tests::binaries::{binary, program};
use tunnel_tests::kubernetes::{ControlPlane, Setup};
use tunnel_tests::openssh::success;
use tunnel_tests::pages::repository;
use tunnel_tests::wait::{secs, wait_until};

const NAMESPACE: &str = "edge-system";

struct Cluster {
    plane: ControlPlane,
    dir: tempfile::TempDir,
}

#[test]
fn the_job_makes_an_authority_and_the_replicas_certificate() {
    let cluster = Cluster::start();
    assert_eq!(
        done(&cluster.make(&[])),
        "Secret tunnel-cloud-tls is made\n"
    );
    let (cert, ca) = (cluster.file("tls.crt"), cluster.file("ca.crt"));
    let said = openssl(&[
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-CAfile",
        path(&ca),
        path(&cert),
    ]);
    assert!(said.ends_with(": OK\n"), "{said}");
    openssl(&[
        "verify",
        "-x509_strict",
        "-purpose",
        "sslclient",
        "-CAfile",
        path(&ca),
        path(&cert),
    ]);
    let names = names_in(&cert);
    for name in [
        "DNS:tunnel.cloud.io",
        "DNS:tunnel-cloud.edge-system.svc",
        "URI:spiffe://tunnel/replica",
    ] {
        assert!(names.contains(name), "{names}");
    }
    // It can be read by the replicas themselves, with the key that belongs to it.
    let config = cluster.dir.path().join("cloud.toml");
    let key = cluster.file("tls.key");
    let text = format!(
        "grpc = {{ cert = {cert:?}, key = {key:?}, client_ca = {ca:?} }}\ntokens = {{ file = \"\" }}\n"
    );
    fs::write(&config, text).unwrap();
    done(
        &Command::new(binary("tunnel-cloud"))
            .arg("--config")
            .arg(&config)
            .arg("--check")
            .output()
            .unwrap(),
    );
    // What edges read is the authority's certificate and no key.
    let map = cluster
        .plane
        .get(&["-n", NAMESPACE, "configmap", "tunnel-ca"]);
    assert_eq!(map["data"]["ca.crt"], fs::read_to_string(&ca).unwrap());
    assert_eq!(map["data"].as_object().unwrap().len(), 1);

    // Once more: nothing changes. With a name more: a new one, by the same authority.
    assert_eq!(
        done(&cluster.make(&[])),
        "Secret tunnel-cloud-tls is good\n"
    );
    assert_eq!(
        fs::read(cluster.file("tls.crt")).unwrap(),
        fs::read(&cert).unwrap()
    );
    assert_eq!(
        done(&cluster.make(&["--dns-name=tunnel.example.com"])),
        "Secret tunnel-cloud-tls is made\n"
    );
    let cert = cluster.file("tls.crt");
    openssl(&["verify", "-CAfile", path(&ca), path(&cert)]);
    let names = names_in(&cert);
    assert!(names.contains("DNS:tunnel.example.com"), "{names}");

    // An authority that was given to edges wrongly is put right.
    cluster
        .plane
        .ask(&["-n", NAMESPACE, "delete", "configmap", "tunnel-ca"]);
    cluster.plane.ask(&[
        "-n",
        NAMESPACE,
        "create",
        "configmap",
        "tunnel-ca",
        "--from-literal=ca.crt=other",
    ]);
    done(&cluster.make(&["--dns-name=tunnel.example.com"]));
    let map = cluster
        .plane
        .get(&["-n", NAMESPACE, "configmap", "tunnel-ca"]);
    assert_eq!(map["data"]["ca.crt"], fs::read_to_string(&ca).unwrap());
}

#[test]
fn what_others_made_is_left_alone() {
    let cluster = Cluster::start();
    cluster.plane.ask(&[
        "-n",
        NAMESPACE,
        "create",
        "secret",
        "generic",
        "tunnel-cloud-tls",
        "--from-literal=tls.crt=mine",
    ]);
    let said = done(&cluster.make(&[]));
    assert!(said.contains("not by this command"), "{said}");
    let left = cluster
        .plane
        .ask(&["-n", NAMESPACE, "get", "secrets,configmaps", "-o", "name"]);
    assert!(!left.contains("tunnel-ca"), "{left}");
}

/// One verb less and it fails, and says which.
#[test]
fn the_job_s_role_has_nothing_to_spare() {
    let cluster = Cluster::start();
    let role = cluster
        .plane
        .get(&["-n", NAMESPACE, "role", "tunnel-certificates"]);
    let rules = single_rules(&role);
    assert_eq!(rules.len(), 6);
    for (at, missing) in rules.iter().enumerate() {
        let mut left = rules.clone();
        left.remove(at);
        let metadata = json!({"name": "tunnel-certificates", "namespace": NAMESPACE});
        let less = json!({"apiVersion": role["apiVersion"], "kind": "Role", "metadata": metadata, "rules": left});
        cluster.plane.apply(&less.to_string());
        // Rights come into force a little later.
        wait_until("the rights are as they should be", secs(20), || {
            !cluster.may(missing) && left.iter().all(|rule| cluster.may(rule))
        });
        // Make all, put right what edges read, make anew: something of that needs it.
        cluster
            .plane
            .ask(&["-n", NAMESPACE, "delete", "secrets,configmaps", "--all"]);
        let first = cluster.make(&[]);
        let wrong = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"ca.crt": "other"},
            "metadata": {"name": "tunnel-ca", "namespace": NAMESPACE}});
        cluster.plane.apply(&wrong.to_string());
        let second = cluster.make(&["--dns-name=tunnel.example.com"]);
        let failed = [first, second]
            .into_iter()
            .find(|output| !output.status.success());
        let failed = failed.unwrap_or_else(|| panic!("nothing needs {missing}"));
        let said = String::from_utf8(failed.stderr).unwrap();
        let hint = format!("probably the verb {} is missing", missing["verbs"][0]);
        assert!(said.contains(&hint), "{said}");
    }
}

/// A role's rules, with one verb and one resource each.
fn single_rules(role: &Value) -> Vec<Value> {
    let mut rules = Vec::new();
    for rule in role["rules"].as_array().unwrap() {
        for resource in rule["resources"].as_array().unwrap() {
            for verb in rule["verbs"].as_array().unwrap() {
                let mut single = rule.clone();
                single["resources"] = json!([resource]);
                single["verbs"] = json!([verb]);
                rules.push(single);
            }
        }
    }
    rules
}

impl Cluster {
    /// With the rights that the manifests give the Job, and its token.
    fn start() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let plane = ControlPlane::start(dir.path(), &Setup::default());
        plane.ask(&["create", "namespace", NAMESPACE]);
        let manifest = repository("deploy/kubernetes/certificates.yaml");
        plane.ask(&["apply", "-f", path(&manifest)]);
        // Nothing runs Jobs here.
        let token = plane.ask(&["-n", NAMESPACE, "create", "token", "tunnel-certificates"]);
        fs::write(dir.path().join("token"), token.trim()).unwrap();
        Cluster { plane, dir }
    }

    fn make(&self, flags: &[&str]) -> Output {
        Command::new(binary("tunnel-cloud"))
            .arg("--set")
            .arg(format!("kubernetes.server={}", self.plane.server()))
            .arg("--set")
            .arg(format!(
                "kubernetes.ca={}",
                self.plane.state().join("pki/ca.crt").display()
            ))
            .arg("--set")
            .arg(format!(
                "kubernetes.token_file={}",
                self.dir.path().join("token").display()
            ))
            .arg("certificates")
            .args(flags)
            .env("POD_NAMESPACE", NAMESPACE)
            .output()
            .unwrap()
    }

    /// Whether the Job has that right.
    fn may(&self, rule: &Value) -> bool {
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let mut what = word(&rule["resources"][0]);
        if let Some(name) = rule["resourceNames"].get(0) {
            what = format!("{what}/{}", word(name));
        }
        let them = format!("--as=system:serviceaccount:{NAMESPACE}:tunnel-certificates");
        let line = [
            "-n",
            NAMESPACE,
            "auth",
            "can-i",
            &word(&rule["verbs"][0]),
            &what,
            &them,
        ];
        self.plane.kubectl(&line).output().unwrap().status.success()
    }

    /// One of the Secret's files.
    fn file(&self, name: &str) -> PathBuf {
        let secret = self
            .plane
            .get(&["-n", NAMESPACE, "secret", "tunnel-cloud-tls"]);
        let text = STANDARD
            .decode(secret["data"][name].as_str().unwrap())
            .unwrap();
        let file = self.dir.path().join(name);
        fs::write(&file, text).unwrap();
        file
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn done(output: &Output) -> String {
    success("tunnel-cloud", output);
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The names in a certificate, as openssl writes them.
#[track_caller]
fn names_in(cert: &Path) -> String {
    let line = [
        "x509",
        "-in",
        path(cert),
        "-noout",
        "-ext",
        "subjectAltName",
    ];
    openssl(&line)
}

#[track_caller]
fn openssl(line: &[&str]) -> String {
    let output = Command::new(program("openssl", "openssl"))
        .args(line)
        .output()
        .unwrap();
    success(&format!("openssl {}", line.join(" ")), &output);
    String::from_utf8(output.stdout).unwrap()
}
