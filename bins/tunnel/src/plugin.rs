//! As a plugin of kubectl: `kubectl tunnel …` runs `kubectl-tunnel`, and asks `kubectl_complete-tunnel` what may come next. Both are
//! this program by another name.

use std::ffi::OsStr;
use std::path::Path;

use clap::{Arg, Command};

use crate::kube;

/// How the program was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    /// By its own name, or any other.
    Tunnel,
    /// By kubectl.
    Plugin,
    /// By kubectl, for a completion.
    Complete,
}

/// What kubectl is to do where nothing is found: look for files, or nothing.
const FILES: &str = ":0\n";
const NOTHING: &str = ":4\n";

/// From the first of a process's arguments.
pub(crate) fn called(program: Option<&OsStr>) -> Called {
    let name = program.and_then(|program| Path::new(program).file_name());
    match name.and_then(OsStr::to_str) {
        Some("kubectl-tunnel") => Called::Plugin,
        Some("kubectl_complete-tunnel") => Called::Complete,
        _ => Called::Tunnel,
    }
}

/// What may stand for the last of these words: a line each, with what it is behind a tab, and what kubectl is to do else.
pub(crate) fn complete(command: &Command, words: &[String]) -> String {
    let (last, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", words),
    };
    let mut known: Vec<&Arg> = command.get_arguments().collect();
    let mut at = command;
    let mut value_of: Option<&Arg> = None;
    let mut has_operand = false;
    for word in before {
        if value_of.take().is_some() {
            continue;
        }
        if word.starts_with('-') {
            value_of = known.iter().copied().find(|arg| takes_value(arg, word));
        } else if let Some(next) = at.find_subcommand(word) {
            at = next;
            known.extend(at.get_arguments());
        } else {
            has_operand = true;
        }
    }
    if let Some(arg) = value_of {
        if arg.get_id() == "kube_context" {
            let contexts = kube::contexts().into_iter();
            return lines(contexts.filter(|name| name.starts_with(last)));
        }
        let values = arg.get_possible_values();
        let names: Vec<String> = values
            .iter()
            .map(|value| value.get_name().to_owned())
            .filter(|name| name.starts_with(last))
            .collect();
        return match values.is_empty() {
            true => FILES.to_owned(),
            false => lines(names),
        };
    }
    if last.starts_with('-') {
        return lines(known.iter().filter_map(|arg| {
            let flag = format!("--{}", arg.get_long()?);
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            (flag.starts_with(last) && !arg.is_hide_set()).then(|| format!("{flag}\t{help}"))
        }));
    }
    if has_operand {
        return NOTHING.to_owned();
    }
    let values = at.get_positionals().next();
    let values = values.map(Arg::get_possible_values).unwrap_or_default();
    let values = values.iter().map(|value| value.get_name().to_owned());
    let commands = at
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    let commands = commands.map(|command| {
        let about = command.get_about().map(ToString::to_string);
        format!("{}\t{}", command.get_name(), about.unwrap_or_default())
    });
    lines(commands.chain(values).filter(|name| name.starts_with(last)))
}

/// Whether the word after this one belongs to it.
fn takes_value(arg: &Arg, word: &str) -> bool {
    let is_it = match word.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => word.len() == 2 && arg.get_short() == word.chars().nth(1),
    };
    is_it && arg.get_action().takes_values()
}

fn lines(words: impl IntoIterator<Item = String>) -> String {
    let mut out = String::new();
    for word in words {
        out.push_str(&word);
        out.push('\n');
    }
    out.push_str(NOTHING);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::CommandFactory;

    fn completed(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let text = complete(&Cli::command(), &words);
        let word = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
        text.lines().map(word).collect()
    }

    #[test]
    fn it_knows_by_which_name_it_was_called() {
        for (name, expected) in [
            ("/usr/local/bin/kubectl-tunnel", Called::Plugin),
            ("kubectl_complete-tunnel", Called::Complete),
            ("target/debug/tunnel", Called::Tunnel),
        ] {
            assert_eq!(called(Some(OsStr::new(name))), expected);
        }
        assert_eq!(called(None), Called::Tunnel);
    }

    #[test]
    fn words_are_completed() {
        assert_eq!(completed("str"), ["streams", ":4"]);
        assert!(completed("").contains(&"ssh".to_owned()));
        assert!(!completed("").iter().any(|word| word.starts_with('_')));
        assert_eq!(completed("--serv"), ["--server", ":4"]);
        // Flags of all commands hold behind each.
        assert_eq!(completed("nodes --serv"), ["--server", ":4"]);
        assert_eq!(completed("nodes --output "), ["table", "json", ":4"]);
        assert_eq!(completed("nodes -o j"), ["json", ":4"]);
        assert_eq!(completed("--config x nodes --adm"), ["--admin", ":4"]);
        assert_eq!(completed("--ca "), [":0"], "a file");
        assert_eq!(completed("ssh node-a x"), [":4"]);
        assert!(completed("completions ").contains(&"bash".to_owned()));
    }
}
