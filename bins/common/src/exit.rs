//! How a program ends, and its last words.

use std::fmt;
use std::process::ExitCode;

/// The exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, also after SIGTERM's orderly end.
    Done,
    /// 1: failed.
    Failed,
    /// 2: the command line is wrong.
    Usage,
    /// 78: the configuration is wrong.
    Config,
    /// 255: `tunnel connect` and `tunnel ssh` on errors of their own, as ssh does.
    Ssh,
    /// 128 + n: a second signal n.
    Signal(u8),
    /// Another program's own status.
    Passed(u8),
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Config => 78,
            Self::Ssh => 255,
            Self::Signal(number) => 128u8.saturating_add(number),
            Self::Passed(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Says why on standard error: a line for each line of `error`, each headed by the program's name.
pub fn report(program: &str, error: &dyn fmt::Display) {
    use std::io::Write as _;
    let mut text = String::new();
    for line in error.to_string().lines() {
        text.push_str(program);
        text.push_str(": ");
        text.push_str(line);
        text.push('\n');
    }
    // Nobody may be reading any more.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_documented_ones() {
        let all = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::Config,
            Exit::Ssh,
            Exit::Signal(15),
            Exit::Passed(7),
        ];
        assert_eq!(all.map(Exit::code), [0, 1, 2, 78, 255, 143, 7]);
    }
}
