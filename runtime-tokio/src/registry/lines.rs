//! Lines `address node`, as SuperEdge has them: for a CoreDNS with the `hosts` plugin. Several replicas have theirs in one text, and
//! each changes only those with its own address.
use std::collections::HashMap;
use std::net::IpAddr;

/// Who holds what, by names in lower case.
pub(super) type Table = HashMap<String, Vec<IpAddr>>;

/// Makes the lines of an address name exactly these; all others stay as they are.
pub(super) fn replaced<'a>(
    old: &str,
    own: IpAddr,
    nodes: impl IntoIterator<Item = &'a str>,
) -> String {
    let mut text = String::with_capacity(old.len());
    for line in old.lines().filter(|line| address(line) != Some(own)) {
        text.push_str(line);
        text.push('\n');
    }
    for node in nodes {
        text.push_str(&format!("{own} {node}\n"));
    }
    text
}

/// Who holds what, as the text says. What isn't a line of it is skipped.
pub(super) fn table(text: &str) -> Table {
    let mut table = Table::new();
    for (address, names) in lines(text) {
        for name in names {
            let held = table.entry(name.to_ascii_lowercase()).or_default();
            if !held.contains(&address) {
                held.push(address);
            }
        }
    }
    table
}

fn lines(text: &str) -> impl Iterator<Item = (IpAddr, impl Iterator<Item = &str>)> {
    text.lines().filter_map(|line| {
        let words = line.split('#').next().unwrap_or_default();
        Some((address(line)?, words.split_whitespace().skip(1)))
    })
}

fn address(line: &str) -> Option<IpAddr> {
    line.split_whitespace().next()?.parse().ok()
}

/// The names in the lines of an address, one by one.
#[cfg(feature = "kubernetes")]
pub(super) fn names(text: &str, of: IpAddr) -> impl Iterator<Item = &str> {
    lines(text)
        .filter(move |(address, _)| *address == of)
        .flat_map(|(_, names)| names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_lines_are_replaced() {
        let old = "# a comment\n10.0.0.1 a b # two\n10.0.0.2 c\n\nnonsense\n 10.0.0.1\td";
        let own: IpAddr = "10.0.0.1".parse().expect("an address");
        let once = replaced(old, own, ["x", "y"]);
        assert_eq!(
            once,
            "# a comment\n10.0.0.2 c\n\nnonsense\n10.0.0.1 x\n10.0.0.1 y\n"
        );
        assert_eq!(replaced(&once, own, ["x", "y"]), once);
    }

    #[test]
    fn the_table_is_read_as_coredns_reads_it() {
        let table = table("# c\n10.0.0.1 a B # d\n10.0.0.2 a\nbroken a\n\n::1 e\n");
        let of = |name: &str| table.get(name).map(|held| held.len());
        assert_eq!(
            (of("a"), of("b"), of("d"), of("e")),
            (Some(2), Some(1), None, Some(1))
        );
    }

    #[cfg(feature = "kubernetes")]
    #[test]
    fn names_of_an_address_are_told_apart() {
        let text = "10.0.0.1 a b # c\n10.0.0.2 d\n10.0.0.1 a\n";
        let own = "10.0.0.1".parse().expect("an address");
        assert_eq!(names(text, own).collect::<Vec<_>>(), ["a", "b", "a"]);
    }
}
