//! The committed corpus, and whatever once crashed a target, on every build.
use std::fs;
use std::path::Path;

#[test]
fn connect() {
    replay("connect", tunnel_fuzz::connect::check);
}

#[test]
fn message() {
    replay("message", tunnel_fuzz::message::check);
}

#[test]
fn stream() {
    replay("stream", tunnel_fuzz::stream::check);
}

#[test]
fn tokens() {
    replay("tokens", tunnel_fuzz::tokens::check);
}

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let files: Vec<_> = fs::read_dir(&folder)
        .expect("a corpus")
        .map(|file| file.expect("a file").path())
        .collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        println!("{}", file.display());
        check(&fs::read(file).expect("a readable file"));
    }
}
