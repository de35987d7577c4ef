//! Files that hold secrets: nodes' tokens, one token, one password.

use std::path::Path;

use proto_core::auth::{Secret, Tokens};
use zeroize::Zeroizing;

use crate::config::ConfigError;

/// A value from a file, and what its reader should be warned of.
#[derive(Clone, Debug)]
pub struct Checked<T> {
    /// The value.
    pub value: T,
    /// Each worth a line at WARN.
    pub warnings: Vec<String>,
}

impl<T> Checked<T> {
    /// The same warnings with another value.
    pub fn map<U>(self, to: impl FnOnce(T) -> U) -> Checked<U> {
        Checked {
            value: to(self.value),
            warnings: self.warnings,
        }
    }
}

/// The longest file of secrets that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Reads the file of nodes' tokens.
pub fn read_tokens(path: &Path, allow_default: bool) -> Result<Checked<Tokens>, ConfigError> {
    let Checked {
        value: text,
        mut warnings,
    } = read_text(path)?;
    let tokens = Tokens::parse(&text, allow_default)
        .map_err(|error| ConfigError::at_line(path, Some(error.line), error.text))?;
    if tokens.has_unused_default() {
        warnings.push(format!(
            "{}: the line default:… is not in force: tokens.allow_default = true would let whoever holds it claim any unlisted name",
            path.display()
        ));
    }
    Ok(Checked {
        value: tokens,
        warnings,
    })
}

/// Reads a file that holds one token or password: its first line.
pub fn read_secret(path: &Path) -> Result<Checked<Secret>, ConfigError> {
    let Checked {
        value: text,
        warnings,
    } = read_text(path)?;
    let line = text.lines().next().unwrap_or("").trim();
    if line.is_empty() {
        return Err(ConfigError::at_line(
            path,
            Some(1),
            "is empty: expected a token or password in its first line",
        ));
    }
    if text.lines().skip(1).any(|line| !line.trim().is_empty()) {
        return Err(ConfigError::at_line(
            path,
            Some(2),
            "expected one line only",
        ));
    }
    Ok(Checked {
        value: Secret::new(line.to_owned()),
        warnings,
    })
}

/// Reads a text that will be wiped, and looks at who else may read it.
pub(crate) fn read_text(path: &Path) -> Result<Checked<Zeroizing<String>>, ConfigError> {
    let refuse =
        |error: std::io::Error| ConfigError::of_file(path, format_args!("can't be read: {error}"));
    let about = std::fs::metadata(path).map_err(refuse)?;
    if about.len() > FILE_BYTES_MAX {
        return Err(ConfigError::of_file(path, "is larger than 64 MiB"));
    }
    let bytes = Zeroizing::new(std::fs::read(path).map_err(refuse)?);
    let text =
        std::str::from_utf8(&bytes).map_err(|_| ConfigError::of_file(path, "is no UTF-8 text"))?;
    let warnings = exposure(path, &about).into_iter().collect();
    Ok(Checked {
        value: Zeroizing::new(text.to_owned()),
        warnings,
    })
}

/// What to say of a secret file that everybody may read.
pub(crate) fn exposure(path: &Path, about: &std::fs::Metadata) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = about.permissions().mode() & 0o777;
    (mode & 0o004 != 0).then(|| {
        format!(
            "{}: everybody on this machine may read it (mode {mode:04o}); chmod 600 it",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn tokens_name_their_line_and_warn_of_onlookers() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("tokens");
        std::fs::write(&path, "node-A:one\nnode-B\n").expect("write");
        let error = read_tokens(&path, false).expect_err("line 2").to_string();
        assert!(
            error.ends_with("tokens:2:1: a line must be node:token"),
            "{error}"
        );
        std::fs::write(&path, "node-A:one\ndefault:two\n").expect("write");
        for (mode, warnings) in [(0o644, 2), (0o600, 1)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
            assert_eq!(
                read_tokens(&path, false).expect("good").warnings.len(),
                warnings,
                "{mode:o}"
            );
        }
        assert_eq!(read_tokens(&path, true).expect("good").warnings.len(), 0);
    }

    #[test]
    fn a_secret_is_one_line() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("token");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("write");
            read_secret(&path)
        };
        assert_eq!(read(" s3cret \n").expect("good").value.expose(), "s3cret");
        assert!(read("\n").is_err());
        assert!(read("a\nb\n").is_err());
        assert!(read_secret(&folder.path().join("none")).is_err());
    }
}
