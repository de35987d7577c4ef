//! `tunnel ssh NODE`: the real ssh, with us as its ProxyCommand.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::args::ServerArgs;
use crate::settings::Settings;

/// Becomes ssh; comes back with the reason if that failed.
pub(crate) fn exec(server: &ServerArgs, node: &str, rest: &[String]) -> String {
    // Said here once and clearly, not by a helper with ssh's own complaint behind it.
    if let Err(line) = Settings::load(server).and_then(|settings| settings.way().map(drop)) {
        return line;
    }
    if node.starts_with('-') || node.rsplit('@').next().unwrap_or("").is_empty() {
        return format!("{node:?} is no node's name");
    }
    let own = match std::env::current_exe() {
        Ok(path) => path,
        Err(error) => return format!("cannot find my own path: {error}"),
    };
    let error = Command::new("ssh")
        .args(arguments(&own, server, node, rest))
        .exec();
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no ssh on the PATH: install OpenSSH's client".to_owned()
        }
        _ => format!("cannot run ssh: {error}"),
    }
}

/// ssh's arguments: ours first (ssh takes an option's first value), then the node, then the user's.
fn arguments(own: &Path, server: &ServerArgs, node: &str, rest: &[String]) -> Vec<OsString> {
    let mut arguments = vec![
        "-o".into(),
        OsString::from(format!("ProxyCommand={}", proxy_command(own, server))),
    ];
    // One known_hosts entry a node, whatever port is asked for and however the name is spelled.
    let alias_given = rest
        .iter()
        .any(|word| word.to_ascii_lowercase().contains("hostkeyalias"));
    if !alias_given {
        let name = node.rsplit('@').next().unwrap_or(node).to_ascii_lowercase();
        arguments.extend(["-o".into(), format!("HostKeyAlias={name}").into()]);
    }
    arguments.push(node.into());
    arguments.extend(rest.iter().map(OsString::from));
    arguments
}

/// The command line that ssh hands to a shell. The flags hold no secrets, only names of files; what was given by the
/// environment goes there by itself, and as flags too, which is harmless.
pub(crate) fn proxy_command(own: &Path, server: &ServerArgs) -> String {
    let mut words = vec![quoted(&own.to_string_lossy())];
    let mut flag = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words.push(name.to_owned());
            words.push(quoted(&value));
        }
    };
    let path = |path: &Option<std::path::PathBuf>| {
        // ssh starts us in the same folder, but a ControlMaster may outlive it.
        path.as_ref().map(|p| {
            std::path::absolute(p)
                .unwrap_or_else(|_| p.clone())
                .to_string_lossy()
                .into_owned()
        })
    };
    flag("--config", path(&server.config));
    flag("--server", server.server.clone());
    flag("--kube-context", server.kube_context.clone());
    flag("--kubeconfig", path(&server.kubeconfig));
    flag("--kube-namespace", server.kube_namespace.clone());
    flag("--ca", path(&server.ca));
    flag("--user", server.user.clone());
    flag("--password-file", path(&server.password_file));
    flag("--token-file", path(&server.token_file));
    words.push("connect %h %p".to_owned());
    words.join(" ")
}

/// For the shell, and for ssh's own percent signs before it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@,+=".contains(c);
    let word = word.replace('%', "%%");
    if !word.is_empty() && word.chars().all(plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(server: &ServerArgs, node: &str, rest: &[&str]) -> Vec<String> {
        let rest: Vec<String> = rest.iter().map(|word| (*word).to_owned()).collect();
        arguments(Path::new("/opt/my bin/tunnel"), server, node, &rest)
            .into_iter()
            .map(|word| word.into_string().expect("text"))
            .collect()
    }

    #[test]
    fn ours_come_first_and_the_rest_is_passed_on() {
        let server = ServerArgs {
            server: Some("https://cloud:2222".into()),
            ..ServerArgs::default()
        };
        assert_eq!(
            line(&server, "me@Node-A", &["-L", "1:x:2", "uptime"]),
            [
                "-o",
                "ProxyCommand='/opt/my bin/tunnel' --server https://cloud:2222 connect %h %p",
                "-o",
                "HostKeyAlias=node-a",
                "me@Node-A",
                "-L",
                "1:x:2",
                "uptime"
            ]
        );
    }

    #[test]
    fn a_cluster_is_passed_on() {
        let server = ServerArgs {
            kube_context: Some("prod eu".into()),
            kubeconfig: Some("/home/me/kubeconfig".into()),
            kube_namespace: Some("tunnels".into()),
            ..ServerArgs::default()
        };
        assert_eq!(
            proxy_command(Path::new("tunnel"), &server),
            "tunnel --kube-context 'prod eu' --kubeconfig /home/me/kubeconfig --kube-namespace tunnels connect %h %p"
        );
    }

    #[test]
    fn a_host_key_alias_of_the_users_own_holds() {
        let words = line(
            &ServerArgs::default(),
            "node-a",
            &["-o", "hostkeyalias=other"],
        );
        assert!(
            !words.iter().any(|word| word == "HostKeyAlias=node-a"),
            "{words:?}"
        );
    }

    #[test]
    fn quoting_survives_ssh_and_the_shell() {
        assert_eq!(quoted("/usr/bin/tunnel"), "/usr/bin/tunnel");
        assert_eq!(quoted("/a b/100%"), "'/a b/100%%'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
