use super::*;

#[test]
fn names_are_those_of_the_conventions() {
    let metrics = Metrics::new("cloud");
    metrics.link_up(LinkLabels {
        kind: "edge",
        dialect: "1",
    });
    metrics.connect_reply(503, "node-offline");
    metrics.rtt(Duration::from_millis(1));
    let text = metrics.render();
    for line in [
        "tunnel_build_info{version=\"0.1.0\",role=\"cloud\"} 1",
        "tunnel_links{kind=\"edge\",dialect=\"1\"} 1",
        "tunnel_links_opened_total{kind=\"edge\",result=\"ok\"} 1",
        "tunnel_connect_replies_total{code=\"503\",reason=\"node-offline\"} 1",
        "tunnel_streams{state=\"detached\"} 0",
        "tunnel_accept_errors_total 0",
        "tunnel_link_rtt_seconds_count 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

/// Everything once, so that each name is there with its labels.
fn full() -> String {
    let metrics = Metrics::new("cloud");
    let link = LinkLabels {
        kind: "edge",
        dialect: "1",
    };
    metrics.link_up(link);
    metrics.link_down(link, "eof");
    metrics.reloaded("tls", "failed");
    metrics.set_streams(["open"].into_iter());
    metrics.stream_closed("done");
    metrics.moved(1, 1);
    metrics.connect_reply(200, "ok");
    metrics.dialed("ok", Duration::ZERO);
    metrics.refused("over-limit");
    metrics.registry_asked("dns", "ok");
    metrics.registry_wrote("ok");
    metrics.accept_failed();
    metrics.handshake_took(Duration::ZERO);
    metrics.connect_took(Duration::ZERO);
    metrics.resumed(Duration::ZERO, 1);
    metrics.rtt(Duration::ZERO);
    metrics.render()
}

#[test]
fn dashboard_and_alerts_ask_for_what_there_is() {
    let text = full();
    let mut labels = std::collections::BTreeMap::<&str, Vec<&str>>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line
            .split_once('{')
            .or_else(|| line.split_once(' '))
            .expect("a sample");
        let inner = rest.split_once('}').map_or("", |(inner, _)| inner);
        let names = inner
            .split(',')
            .filter_map(|pair| Some(pair.split_once('=')?.0));
        labels.entry(name).or_default().extend(names);
    }
    let asked = [
        include_str!("../../../deploy/helm/tunnel/files/dashboard.json"),
        include_str!("../../../deploy/helm/tunnel/templates/monitoring.yaml"),
    ]
    .concat()
    .replace("\\\"", "\"");
    let (mut queries, mut unknown) = (0, Vec::new());
    for part in asked.split("tunnel_").skip(1) {
        let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (name, rest) = part.split_at(end.unwrap_or(part.len()));
        let Some(known) = labels.get(format!("tunnel_{name}").as_str()) else {
            unknown.push(name.to_owned());
            continue;
        };
        queries += 1;
        // Prometheus itself knows where a sample comes from.
        let inner = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split_once("\"}"));
        for label in inner.map_or("", |(inner, _)| inner).split(',') {
            let label = label.split('=').next().unwrap_or_default();
            if !known.contains(&label) && !["", "namespace"].contains(&label) {
                unknown.push(format!("{name}{{{label}}}"));
            }
        }
    }
    assert!(queries > 25, "{queries}");
    assert_eq!(unknown, Vec::<String>::new());
}
