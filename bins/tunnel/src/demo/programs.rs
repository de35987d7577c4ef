//! Where the programs are that the demo runs.

use std::path::{Path, PathBuf};

/// Where sshd is on systems whose users don't have it on their PATH.
const SBIN: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// All that the demo needs.
pub(super) struct Programs {
    pub(super) own: PathBuf,
    pub(super) cloud: PathBuf,
    pub(super) edge: PathBuf,
    pub(super) ssh: PathBuf,
    pub(super) ssh_keygen: PathBuf,
    pub(super) sshd: PathBuf,
}

impl Programs {
    /// Looks for everything; the error names all that is missing.
    pub(super) fn find() -> Result<Self, String> {
        let own =
            std::env::current_exe().map_err(|error| format!("cannot find my own path: {error}"))?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let beside: Vec<PathBuf> = own
            .parent()
            .map(Path::to_path_buf)
            .into_iter()
            .chain(folders.clone())
            .collect();
        folders.extend(SBIN.map(PathBuf::from));
        let mut missing = Vec::new();
        let mut need = |name: &str, folders: &[PathBuf], hint: &str| {
            first(name, folders).unwrap_or_else(|| {
                missing.push(format!("{name} ({hint})"));
                PathBuf::new()
            })
        };
        let built = "built beside tunnel: cargo build --release";
        let programs = Self {
            cloud: need("tunnel-cloud", &beside, built),
            edge: need("tunnel-edge", &beside, built),
            ssh: need("ssh", &folders, "Debian: apt-get install openssh-client"),
            ssh_keygen: need(
                "ssh-keygen",
                &folders,
                "Debian: apt-get install openssh-client",
            ),
            sshd: need("sshd", &folders, "Debian: apt-get install openssh-server"),
            own,
        };
        if missing.is_empty() {
            Ok(programs)
        } else {
            Err(format!("not found: {}", missing.join(", ")))
        }
    }
}

/// True if `name` is on the PATH.
pub(super) fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    first(name, &std::env::split_paths(&path).collect::<Vec<_>>()).is_some()
}

/// The server of sftp, which a forced command needs by its path.
pub(super) fn sftp_server() -> Option<PathBuf> {
    let folders = [
        "/usr/lib/openssh",
        "/usr/libexec/openssh",
        "/usr/lib/ssh",
        "/usr/libexec",
    ]
    .map(PathBuf::from);
    first("sftp-server", &folders)
}

fn first(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    folders
        .iter()
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| {
            path.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}
