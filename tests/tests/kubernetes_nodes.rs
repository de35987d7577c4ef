//! Real nodes: what the manifests say, run by kubelets.
#![allow(clippy::unwrap_used)]

use tunnel_tests::nodes::{CLOUD, EDGE, Nodes};
use tunnel_tests::wait::{secs, wait_until};

/// Pods run on both nodes, in images of ours; the edge reaches the cloud, and not the other way round.
#[test]
fn pods_run_on_a_cloud_node_and_on_an_edge_that_lets_nobody_in() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = Nodes::start(dir.path(), &[]);
    let pods = dir.path().join("pods.yaml");
    let restricted = "securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, \
                      runAsNonRoot: true, runAsUser: 65532, capabilities: {drop: [ALL]}, \
                      seccompProfile: {type: RuntimeDefault}}";
    let mut text = String::new();
    for (node, more) in [("cloud-a", ""), ("edge-a", "hostNetwork: true, ")] {
        text.push_str(&format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: on-{node}}}\nspec: {{nodeName: {node}, {more}\
             terminationGracePeriodSeconds: 5, containers: [{{name: main, image: \"localhost/pause:test\", {restricted}}}]}}\n"
        ));
    }
    std::fs::write(&pods, text).unwrap();
    nodes.kubectl(&["apply", "-f", pods.to_str().unwrap()]);
    nodes.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "pod/on-cloud-a",
        "pod/on-edge-a",
        "--timeout=90s",
    ]);
    let address = |pod: &str| nodes.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]);
    assert_eq!(
        address("on-edge-a"),
        EDGE,
        "an edge's Pod has the node's network"
    );
    assert!(address("on-cloud-a").starts_with("10.244.1."));

    let connect =
        |to: &str| std::net::TcpStream::connect_timeout(&to.parse().unwrap(), secs(2)).map(drop);
    let kubelet = |host: &str| format!("{host}:10250");
    wait_until("the edge reaches the cloud", secs(10), || {
        nodes
            .networks
            .edge
            .enter(|| connect(&kubelet(CLOUD)))
            .is_ok()
    });
    let refused = nodes.networks.cloud.enter(|| connect(&kubelet(EDGE)));
    assert!(refused.is_err(), "the cloud reaches the edge's kubelet");
}
