//! The texts that an operator or an edge writes: the file of tokens, `authorization`, targets, patterns.
use std::collections::BTreeSet;

use proto_core::auth::{EdgeBearer, Glob, Secret, Tokens, UserName};
use proto_core::name::{NodeName, Topic};
use proto_core::target::{Target, Targets};

/// Takes the bytes as a file, and each of its lines as each of the others.
pub fn check(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    check_file(text);
    for line in text.lines() {
        check_bearer(line);
        check_target(line);
        let _ = (UserName::parse(line), Topic::parse(line));
        if let (Ok(glob), Ok(name)) = (
            Glob::parse(line),
            NodeName::parse(&line.replace(['*', '?'], "x")),
        ) {
            assert!(
                glob.matches(&name),
                "{line:?} does not match what it was made of"
            );
        }
    }
}

fn check_file(text: &str) {
    let lines = text.lines().count();
    match (Tokens::parse(text, false), Tokens::parse(text, true)) {
        (Ok(without), Ok(with)) => {
            let keys: BTreeSet<&str> = without.nodes().map(NodeName::key).collect();
            assert_eq!(keys.len(), without.nodes().len());
            assert_eq!(without.nodes().len(), with.nodes().len());
            for node in without.nodes() {
                // No line can hold this token, so it proves nothing.
                let wrong = "~".repeat(text.len().clamp(1, 4000) + 1);
                if let Ok(bearer) = EdgeBearer::new(node.clone(), Secret::new(wrong)) {
                    assert!(
                        text.len() >= 4000 || with.verify(&bearer).is_none(),
                        "{node} is proved by any token"
                    );
                }
            }
        }
        (Err(without), Err(with)) => {
            assert_eq!(without, with);
            assert!((1..=lines).contains(&with.line));
        }
        (without, with) => panic!("default makes a difference to the form: {without:?} {with:?}"),
    }
}

fn check_bearer(line: &str) {
    if let Ok(bearer) = EdgeBearer::parse(line) {
        assert_eq!(EdgeBearer::parse(&bearer.to_value()).as_ref(), Ok(&bearer));
    }
}

fn check_target(line: &str) {
    let Ok(target) = Target::parse(line) else {
        return;
    };
    assert_eq!(Target::parse(&target.to_string()).as_ref(), Ok(&target));
    let allowed = Targets::parse([line], [(22, "127.0.0.1:2222")]).expect("a target is a pattern");
    assert!(allowed.resolve(line, &[]).is_ok());
    let others = Targets::parse(["192.0.2.1:1"], [(22, "192.0.2.1:2"); 0]).expect("targets");
    assert!(line == "192.0.2.1:1" || others.resolve(line, &[]).is_err() || target.port() == 1);
}
