//! Pages of docs/: their commands are run as they stand there, so that neither drifts from the other.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The text of one.
pub fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap()
}

/// What stands behind one text, up to another or the end.
#[track_caller]
pub fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, text) = text
        .split_once(from)
        .unwrap_or_else(|| panic!("{from:?} is not there"));
    text.split_once(to).map_or(text, |(text, _)| text)
}

/// The blocks of shell, in the order in which they stand there.
pub fn shell(page: &str) -> impl Iterator<Item = &str> {
    let blocks = page.split("```sh\n").skip(1);
    blocks.map(|block| block.split_once("```").map_or(block, |(block, _)| block))
}
