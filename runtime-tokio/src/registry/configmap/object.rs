//! What the ConfigMap says, in the core's words, and what becomes of it by a change.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ConfigMap;
use proto_core::name::NodeName;

use crate::registry::kept::Owner;
use crate::registry::lines::{self, Table};

/// The key that CoreDNS reads as a file.
const HOSTS: &str = "hosts";
/// Which addresses are our replicas', and whose: a JSON object `address: pod/uid`. SuperEdge's replicas leave it alone, whereas
/// they take away comments.
const REPLICAS: &str = "tunnel.cloud.io/replicas";
/// What Kubernetes lets a ConfigMap have in it.
pub(super) const BYTES_MAX: usize = 1 << 20;

/// The ConfigMap as it was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) version: String,
    pub(super) table: Table,
    pub(super) own: Own,
    pub(super) replicas: BTreeMap<IpAddr, Owner>,
}

/// A replica's own lines.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) nodes: BTreeSet<NodeName>,
    /// Something else stands there, too: what is no name, or one twice.
    pub(super) is_mixed: bool,
}

impl Seen {
    pub(super) fn of(map: &ConfigMap, own: IpAddr) -> Seen {
        let text = text(map);
        let names: Vec<&str> = lines::names(text, own).collect();
        let nodes: BTreeSet<NodeName> = names
            .iter()
            .filter_map(|name| NodeName::parse(name).ok())
            .collect();
        Seen {
            version: map.metadata.resource_version.clone().unwrap_or_default(),
            table: lines::table(text),
            own: Own {
                is_mixed: nodes.len() != names.len(),
                nodes,
            },
            replicas: replicas(map),
        }
    }
}

/// Gives an address exactly these nodes, and an owner, if that is known. Whether anything was another before.
pub(super) fn set(
    map: &mut ConfigMap,
    own: IpAddr,
    nodes: &[NodeName],
    owner: Option<&Owner>,
) -> bool {
    let mut replicas = replicas(map);
    match owner.filter(|_| !nodes.is_empty()) {
        Some(owner) => replicas.insert(own, owner.clone()),
        None => replicas.remove(&own),
    };
    let text = lines::replaced(text(map), own, nodes.iter().map(NodeName::key));
    put(map, text, &replicas)
}

/// Takes an address out: that it is a replica's, and its lines unless somebody else has the address by now.
pub(super) fn take_away(map: &mut ConfigMap, address: IpAddr, is_passed_on: bool) -> bool {
    let mut replicas = replicas(map);
    replicas.remove(&address);
    let text = match is_passed_on {
        true => text(map).to_owned(),
        false => lines::replaced(text(map), address, []),
    };
    put(map, text, &replicas)
}

/// What counts for [`BYTES_MAX`].
pub(super) fn bytes(map: &ConfigMap) -> usize {
    let texts = map.data.iter().flatten().map(|(_, text)| text.len());
    let others = map.binary_data.iter().flatten();
    texts.sum::<usize>() + others.map(|(_, bytes)| bytes.0.len()).sum::<usize>()
}

fn text(map: &ConfigMap) -> &str {
    let data = map.data.as_ref();
    data.and_then(|data| data.get(HOSTS))
        .map_or("", String::as_str)
}

/// What is no owner is nobody's.
fn replicas(map: &ConfigMap) -> BTreeMap<IpAddr, Owner> {
    let annotations = map.metadata.annotations.as_ref();
    let text = annotations.and_then(|all| all.get(REPLICAS));
    let texts: BTreeMap<String, String> = text
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let replicas = texts.iter().filter_map(|(address, owner)| {
        let (pod, uid) = owner.split_once('/')?;
        let owner = Owner {
            pod: pod.to_owned(),
            uid: uid.to_owned(),
        };
        Some((address.parse().ok()?, owner))
    });
    replicas.collect()
}

fn put(map: &mut ConfigMap, text: String, replicas: &BTreeMap<IpAddr, Owner>) -> bool {
    let old = (self::text(map) == text, self::replicas(map) == *replicas);
    if old == (true, true) {
        return false;
    }
    let texts: BTreeMap<String, String> = replicas
        .iter()
        .map(|(address, owner)| (address.to_string(), format!("{}/{}", owner.pod, owner.uid)))
        .collect();
    let annotations = map.metadata.annotations.get_or_insert_default();
    match serde_json::to_string(&texts) {
        Ok(json) if !texts.is_empty() => annotations.insert(REPLICAS.to_owned(), json),
        Ok(_) | Err(_) => annotations.remove(REPLICAS),
    };
    map.data
        .get_or_insert_default()
        .insert(HOSTS.to_owned(), text);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_lines_and_their_owner_are_set_and_all_else_stays() {
        let mut map = map("# theirs\n10.0.0.9    node-x\n");
        assert!(set(
            &mut map,
            ip(1),
            &nodes(&["Node-A", "node-b"]),
            Some(&owner("one"))
        ));
        assert!(set(
            &mut map,
            ip(2),
            &nodes(&["node-c"]),
            Some(&owner("two"))
        ));
        assert_eq!(
            text(&map),
            "# theirs\n10.0.0.9    node-x\n10.0.0.1 node-a\n10.0.0.1 node-b\n10.0.0.2 node-c\n"
        );
        let seen = Seen::of(&map, ip(1));
        assert_eq!((seen.own.nodes.len(), seen.own.is_mixed), (2, false));
        assert_eq!(
            seen.replicas,
            [(ip(1), owner("one")), (ip(2), owner("two"))].into()
        );
        assert_eq!(seen.table["node-x"], [ip(9)]);
        let again = set(&mut map, ip(2), &nodes(&["node-c"]), Some(&owner("two")));
        assert!(!again, "nothing is new");
        assert!(set(&mut map, ip(1), &[], Some(&owner("one"))));
        assert!(set(&mut map, ip(2), &nodes(&["node-c"]), None));
        assert_eq!(
            text(&map),
            "# theirs\n10.0.0.9    node-x\n10.0.0.2 node-c\n"
        );
        assert_eq!(Seen::of(&map, ip(1)).replicas, BTreeMap::new());
        assert_eq!(map.metadata.annotations, Some(BTreeMap::new()));
        assert_eq!(map.data.as_ref().map(BTreeMap::len), Some(2));
    }

    #[test]
    fn who_is_gone_is_taken_away_but_not_who_has_the_address_now() {
        let mut map = map("10.0.0.1 theirs\n");
        set(&mut map, ip(2), &nodes(&["node-a"]), Some(&owner("one")));
        let mut passed_on = map.clone();
        assert!(take_away(&mut map, ip(2), false));
        assert_eq!(text(&map), "10.0.0.1 theirs\n");
        assert!(take_away(&mut passed_on, ip(2), true));
        assert_eq!(text(&passed_on), "10.0.0.1 theirs\n10.0.0.2 node-a\n");
        assert_eq!(replicas(&passed_on), BTreeMap::new());
    }

    #[test]
    fn what_is_no_line_of_ours_is_seen_as_that() {
        for text in [
            "10.0.0.1 node-a node-a\n",
            "10.0.0.1 node-a\n10.0.0.1 NODE-A\n",
            "10.0.0.1 no$name\n",
        ] {
            assert!(Seen::of(&map(text), ip(1)).own.is_mixed, "{text}");
        }
        assert!(!Seen::of(&map("10.0.0.2 a a\n"), ip(1)).own.is_mixed);
        let mut strange = map("");
        let annotation = (REPLICAS.to_owned(), "{\"x\":1".to_owned());
        strange.metadata.annotations = Some([annotation].into());
        assert_eq!(replicas(&strange), BTreeMap::new());
        assert_eq!(bytes(&strange), 4);
    }

    fn map(hosts: &str) -> ConfigMap {
        let data = [("hosts", hosts), ("other", "kept")];
        ConfigMap {
            data: Some(data.map(|(key, text)| (key.into(), text.into())).into()),
            ..ConfigMap::default()
        }
    }

    fn nodes(names: &[&str]) -> Vec<NodeName> {
        let names = names.iter();
        names
            .map(|name| NodeName::parse(name).expect("a name"))
            .collect()
    }

    fn owner(pod: &str) -> Owner {
        Owner {
            pod: pod.to_owned(),
            uid: format!("uid-{pod}"),
        }
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }
}
