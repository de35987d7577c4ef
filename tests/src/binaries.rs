//! Where the programs under test are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of one of our binaries: in `TUNNEL_BIN_DIR`, else built in release once for this test process.
pub fn binary(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let path = DIR.get_or_init(directory).join(name);
    assert!(path.is_file(), "{} is not there", path.display());
    path
}

/// Where they are, or are built to.
pub(crate) fn directory() -> PathBuf {
    if let Some(dir) = std::env::var_os("TUNNEL_BIN_DIR") {
        return PathBuf::from(dir);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--quiet"])
        .args(["-p", "tunnel-cloud", "-p", "tunnel-edge", "-p", "tunnel"])
        .current_dir(root)
        .status()
        .expect("cargo starts");
    assert!(status.success(), "the binaries don't build");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("release")
}

/// A program of the system, or a message that says which package has it.
pub fn program(name: &str, package: &str) -> PathBuf {
    let extra = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(extra)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: apt-get install {package}"))
}
