//! Whole files in, values or places out.

use std::path::Path;
use std::time::Duration;

use super::*;

fn write(folder: &tempfile::TempDir, text: &str) -> std::path::PathBuf {
    let path = folder.path().join("f.toml");
    std::fs::write(&path, text).expect("write");
    path
}

/// The mistakes, with the file's folder left out.
fn cloud_mistakes(text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("folder");
    let path = write(&folder, text);
    let error = CloudConfig::load(Some(&path), &Overrides::default(), &|_| None).expect_err(text);
    let prefix = format!("{}/", folder.path().display());
    error
        .mistakes()
        .iter()
        .map(|mistake| mistake.to_string().replace(&prefix, ""))
        .collect()
}

fn cloud(text: &str, overrides: &Overrides, env: &dyn Fn(&str) -> Option<String>) -> CloudConfig {
    let folder = tempfile::tempdir().expect("folder");
    CloudConfig::load(Some(&write(&folder, text)), overrides, env).expect(text)
}

#[test]
fn an_empty_file_is_all_defaults() {
    let config = cloud("", &Overrides::default(), &|_| None);
    let mut expected = CloudConfig::default();
    expected.registry.address.clear();
    expected.registry.namespace.clear();
    expected.connect[0].tls = Some(TlsMode::Optional);
    // This machine may have the product installed.
    let has_users = expected.users.file.exists();
    expected.connect[0].auth = Some(if has_users { Auth::Users } else { Auth::None });
    assert_eq!(config, expected);
}

#[test]
fn what_kubernetes_is_asked_needs_its_places() {
    let file = "[kubernetes]\ntoken_review = true\naudience = \"\"\nports = [0]\n";
    let found = cloud_mistakes(file);
    for key in [
        "registry.namespace",
        "kubernetes.audience",
        "kubernetes.ports",
        "kubernetes.server",
    ] {
        assert!(
            found.iter().any(|line| line.contains(key)),
            "{key}: {found:?}"
        );
    }
    let file = "[kubernetes]\nsubject_access_review = true\nserver = \"https://api:6443\"\nca = \"ca\"\ntoken_file = \"t\"\n";
    let config = cloud(file, &Overrides::default(), &|_| None);
    assert_eq!(
        config.connect[0].auth,
        Some(Auth::Users),
        "there are users, though no file"
    );
}

#[test]
fn flag_over_environment_over_file_over_default() {
    let env = |name: &str| (name == "RUST_LOG").then(|| "debug".to_owned());
    let file = "[log]\nlevel = \"warn\"\nformat = \"json\"";
    assert_eq!(
        cloud(file, &Overrides::default(), &|_| None).log.level,
        "warn"
    );
    let by_env = cloud(file, &Overrides::default(), &env);
    assert_eq!(
        (by_env.log.level.as_str(), by_env.log.format),
        ("debug", LogFormat::Json)
    );
    let mut flags = Overrides::default();
    flags.set("log.level", "error", "--log-level");
    assert_eq!(cloud(file, &flags, &env).log.level, "error");
}

#[test]
fn every_mistake_has_its_place() {
    let found = cloud_mistakes(
        "[grpc]\nlisten = \"nowhere\"\nlinks_max = \"many\"\nlisen = 1\n[heartbeat]\ninterval = 10\n[limits]\nconnects_max = -1\n",
    );
    assert_eq!(found.len(), 5, "{found:#?}");
    for (place, words) in [
        ("f.toml:2:1: grpc.listen: ", "expected IP:PORT"),
        ("f.toml:3:1: grpc.links_max: ", "expected a whole number"),
        ("f.toml:4:1: grpc.lisen: unknown key; ", "`listen`"),
        (
            "f.toml:6:1: heartbeat.interval: ",
            "expected a duration such as",
        ),
        (
            "f.toml:8:1: limits.connects_max: ",
            "expected a whole number",
        ),
    ] {
        assert!(
            found
                .iter()
                .any(|line| line.starts_with(place) && line.contains(words)),
            "{place} in {found:#?}"
        );
    }
}

#[test]
fn broken_toml_has_its_line() {
    let found = cloud_mistakes("[grpc]\nlisten = \n");
    assert!(found[0].starts_with("f.toml:2:"), "{found:?}");
}

#[test]
fn what_does_not_fit_together_has_its_line() {
    let found = cloud_mistakes(
        "[[connect]]\nlisten = \"0.0.0.0:2222\"\n[[connect]]\nlisten = \"0.0.0.0:2222\"\n[grpc]\ncert = \"\"\n[streams]\nwindow_bytes_max = 1\n[log]\nlevel = \"loud\"\n[peers]\ndns = \"two words\"",
    );
    for place in [
        "f.toml:1:1: connect.0.auth: the listener on 0.0.0.0:2222 asks for users",
        "f.toml:4:1: connect.1.listen: ",
        "f.toml:6:1: grpc.cert: ",
        "f.toml:8:1: streams.window_bytes_max: ",
        "f.toml:10:1: log.level: ",
        "f.toml:12:1: peers.dns: ",
    ] {
        assert!(
            found.iter().any(|line| line.starts_with(place)),
            "{place} in {found:#?}"
        );
    }
}

#[test]
fn open_is_said_in_so_many_words() {
    let config = cloud(
        "connect = [{ listen = \"0.0.0.0:2222\", auth = \"none\" }]",
        &Overrides::default(),
        &|_| None,
    );
    assert_eq!(
        (config.connect[0].tls(), config.connect[0].auth()),
        (TlsMode::Required, Auth::None)
    );
    let found = cloud_mistakes("[users]\nfile = \"/nowhere/users.toml\"");
    assert!(
        found[0].starts_with("f.toml:2:1: users.file: "),
        "{found:?}"
    );
}

#[test]
fn flags_have_the_type_of_their_key() {
    let mut flags = Overrides::default();
    flags.set("connect.0.listen", "127.0.0.1:0", "--connect-listen");
    flags.set("connect.1.listen", "127.0.0.1:0", "--connect-listen");
    flags.set("streams.resume", "false", "--set");
    flags.set("heartbeat.jitter", "0.5", "--set");
    flags.set("streams.buffers_bytes_max", "1000000", "--set");
    flags.set("admin.listen", "", "--admin-listen");
    let config = cloud("", &flags, &|_| None);
    assert_eq!(config.connect.len(), 2);
    assert!(!config.streams.resume);
    assert_eq!(config.streams.buffers_bytes_max, Size::Bytes(1_000_000));
    assert_eq!(config.admin.listen, None);
    flags.set("grpc.links_max", "lots", "--set");
    flags.set("grpc.nothing", "1", "--set");
    let error = CloudConfig::load(Some(Path::new("/dev/null")), &flags, &|_| None)
        .expect_err("two mistakes");
    let text = error.to_string();
    assert!(
        text.contains("--set: grpc.links_max: \"lots\" is no whole number"),
        "{text}"
    );
    assert!(text.contains("--set: grpc.nothing: unknown key"), "{text}");
}

#[test]
fn variables_come_from_the_environment() {
    let env = |name: &str| match name {
        "POD_IP" => Some("10.0.0.7".to_owned()),
        "POD_NAMESPACE" => Some("edge-system".to_owned()),
        _ => None,
    };
    let config = cloud(
        "grpc.listen = \"$POD_IP:9000\"",
        &Overrides::default(),
        &env,
    );
    assert_eq!(config.grpc.listen.to_string(), "10.0.0.7:9000");
    assert_eq!(config.registry.address, "10.0.0.7");
    assert_eq!(config.registry.namespace, "edge-system");
    let found = cloud_mistakes("grpc.cert = \"$HOME_OF_CERTS/x\"");
    assert!(
        found[0].starts_with("f.toml:1:6: grpc.cert: the environment has no HOME_OF_CERTS"),
        "{found:?}"
    );
}

#[test]
fn hosts_without_a_file_is_a_configmap() {
    let file = "registry = { kind = \"hosts\", hosts_file = \"/x\", address = \"10.0.0.7\" }";
    let config = cloud(file, &Overrides::default(), &|_| None);
    assert!(!config.registry.is_in_kubernetes() && !config.asks_kubernetes());
    let pod = |name: &str| match name {
        "POD_IP" => Some("10.0.0.7".to_owned()),
        "POD_NAMESPACE" => Some("edge-system".to_owned()),
        "KUBERNETES_SERVICE_HOST" => Some("10.96.0.1".to_owned()),
        _ => None,
    };
    let config = cloud("registry.kind = \"hosts\"", &Overrides::default(), &pod);
    assert!(config.registry.is_in_kubernetes() && config.asks_kubernetes());
    let found = cloud_mistakes("registry = { kind = \"hosts\", configmap = \"\" }");
    for key in [
        "registry.configmap",
        "registry.namespace",
        "registry.address",
        "kubernetes.server",
    ] {
        let place = format!("{key}: registry.kind");
        assert!(
            found.iter().any(|line| line.contains(&place)),
            "{key} in {found:#?}"
        );
    }
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let error = CloudConfig::load(
        Some(Path::new("/nowhere/c.toml")),
        &Overrides::default(),
        &|_| None,
    )
    .expect_err("missing");
    assert!(
        error
            .to_string()
            .starts_with("/nowhere/c.toml: can't be read"),
        "{error}"
    );
}

#[test]
fn an_edge_needs_to_know_where_to_go() {
    let folder = tempfile::tempdir().expect("folder");
    let env = |name: &str| (name == "NODE_NAME").then(|| "node-A".to_owned());
    let path = write(
        &folder,
        "[cloud]\ncert = \"/x\"\n[targets]\nallow = [\"127.0.0.1:*\", \"nix\"]\nmap = { 22 = \"127.0.0.1:0\" }\n",
    );
    let error = EdgeConfig::load(Some(&path), &Overrides::default(), &env)
        .expect_err("mistakes")
        .to_string();
    assert!(
        error.contains("f.toml:4:25: targets.allow.1: \"nix\": the port must"),
        "{error}"
    );
    assert!(
        error.contains("f.toml:5:9: targets.map.22: \"127.0.0.1:0\": the port must"),
        "{error}"
    );
    let path = write(&folder, "[cloud]\ncert = \"/x\"\n");
    let error = EdgeConfig::load(Some(&path), &Overrides::default(), &env)
        .expect_err("mistakes")
        .to_string();
    assert!(
        error.contains("f.toml:1:2: cloud.addresses: nowhere to connect to"),
        "{error}"
    );
    assert!(
        error.contains("f.toml:1:2: cloud.key: a certificate needs its key"),
        "{error}"
    );
    let path = write(
        &folder,
        "cloud.addresses = [\"c:1\"]\ntargets.map = { 22 = \"127.0.0.1:2222\" }",
    );
    let config = EdgeConfig::load(Some(&path), &Overrides::default(), &env).expect("good");
    assert_eq!(config.node.name, "node-A");
    assert_eq!(config.targets.map[&Port(22)], "127.0.0.1:2222");
    assert_eq!(config.targets.dial_timeout, Duration::from_millis(4_500));
}

#[test]
fn the_operator_is_told_what_a_server_looks_like() {
    let load = |text: &str| {
        let folder = tempfile::tempdir().expect("folder");
        ClientConfig::load(Some(&write(&folder, text)), &Overrides::default(), &|_| {
            None
        })
    };
    let config = load("server = \"https://cloud:2222\"\nca = \"/ca.crt\"").expect("good");
    let server = config.server.expect("a server");
    assert_eq!((server.scheme, server.address.port), (Scheme::Https, 2222));
    assert!(
        load("server = \"cloud:2222\"")
            .expect_err("no scheme")
            .to_string()
            .contains("expected grpcs://HOST:9000")
    );
    assert!(
        load("server = \"grpcs://cloud:9000\"")
            .expect_err("no CA")
            .to_string()
            .contains("ca: ")
    );
}

#[test]
fn several_replicas_may_be_named_where_a_session_can_move() {
    let parse = |text: &str| text.parse::<Server>();
    let text = "grpcs://cloud-1:9000,[::1]:9000";
    let server = parse(text).expect("two replicas");
    assert_eq!(server.others.len(), 1);
    assert_eq!(server.to_string(), text);
    assert!(parse("https://cloud-1:2222,cloud-2:2222").is_err());
    assert!(parse("grpcs://cloud-1:9000,").is_err());
}
