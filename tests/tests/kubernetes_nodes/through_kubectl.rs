//! `tunnel --kube-context`: through the API server, by a user who has few rights there and whom no port is open to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;
use tunnel_tests::World;
use tunnel_tests::binaries::binary;
use tunnel_tests::client::Client;
use tunnel_tests::nodes::Nodes;
use tunnel_tests::openssh::Ssh;
use tunnel_tests::pages::{between, read, repository};
use tunnel_tests::session::{Busy, measured};
use tunnel_tests::wait::{secs, wait_until};

use crate::newcomer::Newcomer;
use crate::with_links;

/// Logs in by `tunnel` and by `kubectl tunnel`; the flags for that.
pub(crate) fn logs_in(
    world: &World,
    nodes: &Nodes,
    newcomer: &Newcomer<'_>,
    k: &dyn Fn(&str) -> String,
) -> String {
    let porter = kubeconfig(world, nodes, "porter", k);
    give_rights(world, k);
    let token = newcomer.home().join(".config/tunnel/token");
    let config = world.write("by-kubectl.toml", &format!("token_file = {token:?}\n"));
    let flags = |kubeconfig: &PathBuf| {
        format!(
            "--config {} --kube-context there --kubeconfig {}",
            config.display(),
            kubeconfig.display()
        )
    };
    let by = flags(&porter);

    // As krew would have installed it.
    let pack = repository("deploy/krew/pack");
    let packed = newcomer.types(&format!(
        "{} krew https://example.com target/release/tunnel",
        pack.display()
    ));
    assert!(packed.contains("bin: kubectl-tunnel"), "{packed}");
    newcomer.types("tar -xzf krew/*.tar.gz -C bin kubectl-tunnel");
    let said = newcomer.types(&format!("kubectl tunnel {by} ssh root@edge-a"));
    assert_eq!(said, "hello\n");
    let completed = newcomer.types(
        "ln -s kubectl-tunnel bin/kubectl_complete-tunnel && kubectl __complete tunnel --kube-context ''",
    );
    assert!(completed.starts_with("test\n"), "{completed}");
    let listed = newcomer.types(&format!("tunnel {by} nodes -o json"));
    assert_eq!(listed.matches("\"edge-a\"").count(), 1, "{listed}");

    leaves_nothing(nodes, newcomer, &porter, &by);
    let nobody = kubeconfig(world, nodes, "nobody", k);
    says_what_fails(
        newcomer,
        &by,
        &flags(&nobody),
        &flags(&nodes.plane.kubeconfig()),
    );
    by
}

/// A session of that user's lives through the end of the Pods that serve it.
pub(crate) fn lives_on(
    world: &World,
    nodes: &Nodes,
    newcomer: &Newcomer<'_>,
    by: &str,
    k: &dyn Fn(&str) -> String,
) {
    let connect = format!("{} {by} connect %h %p", binary("tunnel").display());
    let connect = format!("env PATH={} {connect}", newcomer.path());
    let ssh = Ssh::by(world, "edge-a", &[("kubectl", connect)]);
    let session = nodes.networks.client.enter(|| Busy::start(&ssh, "kubectl"));
    let serving = || with_links(nodes, "client");
    let first = serving();
    assert_eq!(first.len(), 1);
    let listed = newcomer.types(&format!("tunnel {by} streams"));
    assert!(
        listed.contains("127.0.0.1:22") && listed.contains("ann"),
        "{listed}"
    );

    k(&format!("delete pod {} --wait=false", first[0]));
    wait_until("another replica serves", secs(30), || {
        let now = serving();
        !now.is_empty() && now != first
    });
    session.moves_after(Instant::now(), secs(20));
    let asked = session.stall();
    let second = serving();
    k(&format!(
        "delete pod {} --force --grace-period=0",
        second[0]
    ));
    session.moves_after(Instant::now(), secs(20));
    wait_until("a third one serves", secs(30), || {
        let now = serving();
        !now.is_empty() && now != second
    });
    session.moves_after(Instant::now(), secs(20));
    measured(
        "by port-forward, the serving Pod is told to leave, then killed",
        &[("stall", asked), ("stall", session.stall())],
    );
    session.finish();
    k("rollout status deployment/tunnel-cloud --timeout=120s");
}

/// The rights that docs/tunnel.md says are enough.
fn give_rights(world: &World, k: &dyn Fn(&str) -> String) {
    let page = read("docs/tunnel.md");
    let section = between(&page, "## Through a Kubernetes cluster", "\n## ");
    let rules = between(section, "```yaml\n", "```");
    let kind = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: porter, namespace: edge-system}\n";
    let role = world.write("porter.yaml", &format!("{kind}{rules}"));
    k(&format!("apply -f {}", role.display()));
    k("create rolebinding porter --role=porter --serviceaccount=edge-system:porter");
}

/// Of a user who has no rights yet.
fn kubeconfig(world: &World, nodes: &Nodes, user: &str, k: &dyn Fn(&str) -> String) -> PathBuf {
    k(&format!("create serviceaccount {user}"));
    let token = k(&format!("create token {user}"));
    let ca = nodes.plane.state().join("pki/ca.crt");
    world.write(
        &format!("{user}.kubeconfig"),
        &format!(
            "apiVersion: v1
kind: Config
clusters: [{{name: there, cluster: {{server: {:?}, certificate-authority: {ca:?}}}}}]
users: [{{name: {user}, user: {{token: {token:?}}}}}]
contexts: [{{name: there, context: {{cluster: there, user: {user}}}}}]
",
            nodes.plane.server(),
        ),
    )
}

/// However it ends.
fn leaves_nothing(nodes: &Nodes, newcomer: &Newcomer<'_>, kubeconfig: &Path, by: &str) {
    let kubectls = || {
        let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
        let ours = |line: &Vec<u8>| {
            let line = String::from_utf8_lossy(line);
            line.contains("port-forward") && line.contains(&*kubeconfig.to_string_lossy())
        };
        lines.filter(ours).count()
    };
    wait_until("no port-forward is left", secs(10), || kubectls() == 0);
    let mut command = Command::new(binary("tunnel"));
    command
        .args(by.split(' '))
        .args(["connect", "edge-a", "22"]);
    command.env("PATH", newcomer.path());
    let mut client = nodes.networks.client.enter(|| Client::by(command));
    wait_until("a port is forwarded", secs(20), || kubectls() == 1);
    client.signal(Signal::SIGKILL);
    client.child.wait().unwrap();
    wait_until("no port-forward is left", secs(10), || kubectls() == 0);
}

/// What stands there at three in the morning.
fn says_what_fails(newcomer: &Newcomer<'_>, by: &str, by_nobody: &str, by_admin: &str) {
    for (flags, expected) in [
        (
            by.replace("--kube-context there", "--kube-context nowhere"),
            "kubectl get configmap tunnel-ca -o jsonpath={.data.ca\\.crt}: error: context \"nowhere\" does not exist",
        ),
        (
            by_nobody.to_owned(),
            "Error from server (Forbidden): configmaps \"tunnel-ca\" is forbidden: User \"system:serviceaccount:edge-system:nobody\"",
        ),
        (
            format!(
                "{} --kube-namespace default",
                by_admin.replace("context there", "context test")
            ),
            "Error from server (NotFound): configmaps \"tunnel-ca\" not found (or set ca, or --ca)",
        ),
        (
            format!("{by_nobody} --ca .config/tunnel/ca.crt"),
            "kubectl get pods -l app=tunnel-cloud -o json: Error from server (Forbidden): pods is forbidden",
        ),
        (
            format!(
                "{} --kube-namespace default --ca .config/tunnel/ca.crt",
                by_admin.replace("context there", "context test")
            ),
            "no Pod with label app=tunnel-cloud is ready in namespace default (see --kube-namespace)",
        ),
    ] {
        let output = newcomer.tries(&format!("tunnel {flags} connect edge-a 22"));
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(255), "{told}");
        assert!(
            told.starts_with("tunnel: ") && told.contains(expected),
            "{told}"
        );
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}
