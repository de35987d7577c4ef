//! From a template's text to a tree.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;
use std::vec::IntoIter;

use serde_json::Value;

/// A piece of a template.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// Stands as it is.
    Text(String),
    /// `{{ … }}`
    Output(Pipe),
    /// `{{ $name := … }}`
    Set(String, Pipe),
    /// `if`, `else if` and `else`, which has no condition.
    If(Vec<(Option<Pipe>, Vec<Node>)>),
    /// `with`
    With(Pipe, Vec<Node>),
    /// `range`, with the names of its variables.
    Range(Vec<String>, Pipe, Vec<Node>),
}

/// Commands; each gets what the one before it came to.
pub(super) type Pipe = Vec<Command>;
/// A function and its arguments, or one value.
pub(super) type Command = Vec<Operand>;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand {
    Literal(Value),
    Path(Base, Vec<String>),
    Function(String),
    Nested(Pipe),
}

/// Where a path starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Dot,
    Variable(String),
}

/// A file.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) body: Vec<Node>,
    pub(super) defined: BTreeMap<String, Vec<Node>>,
}

enum Piece<'a> {
    Text(&'a str),
    Action(&'a str, usize),
}

pub(super) fn parse(text: &str) -> Result<Parsed, String> {
    let mut parser = Parser {
        pieces: split(text)?.into_iter(),
        line: 1,
        defined: BTreeMap::new(),
    };
    let parsed = parser.body(true);
    let (body, _) = parsed.map_err(|what| format!("line {}: {what}", parser.line))?;
    Ok(Parsed {
        body,
        defined: parser.defined,
    })
}

/// Text and actions in turn; a dash beside the braces takes the blanks there away.
fn split(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let (mut rest, mut trim) = (text, false);
    loop {
        let (before, action) = match rest.split_once("{{") {
            Some((before, action)) => (before, Some(action)),
            None => (rest, None),
        };
        let mut plain = if trim { before.trim_start() } else { before };
        let Some(action) = action else {
            pieces.push(Piece::Text(plain));
            return Ok(pieces);
        };
        let line = 1 + text[..text.len() - action.len()].matches('\n').count();
        let (inner, after) = action
            .split_once("}}")
            .ok_or_else(|| format!("line {line}: an action without an end"))?;
        let inner = match inner.strip_prefix('-') {
            Some(inner) if inner.starts_with(char::is_whitespace) => {
                plain = plain.trim_end();
                inner
            }
            _ => inner,
        };
        let stripped = inner.strip_suffix('-');
        let stripped = stripped.filter(|inner| inner.ends_with(char::is_whitespace));
        trim = stripped.is_some();
        pieces.push(Piece::Text(plain));
        pieces.push(Piece::Action(stripped.unwrap_or(inner).trim(), line));
        rest = after;
    }
}

struct Parser<'a> {
    pieces: IntoIter<Piece<'a>>,
    line: usize,
    defined: BTreeMap<String, Vec<Node>>,
}

/// What ended a body.
enum End {
    File,
    Closed,
    /// With the condition of `else if`.
    Else(Option<Pipe>),
}

impl Parser<'_> {
    fn body(&mut self, is_file: bool) -> Result<(Vec<Node>, End), String> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (action, line) = match piece {
                Piece::Text("") => continue,
                Piece::Text(text) => {
                    nodes.push(Node::Text(text.to_owned()));
                    continue;
                }
                Piece::Action(action, line) => (action, line),
            };
            self.line = line;
            let (word, rest) = action
                .split_once(char::is_whitespace)
                .unwrap_or((action, ""));
            match word {
                _ if action.starts_with("/*") => {}
                "if" => nodes.push(self.branches(pipe(rest)?)?),
                "with" => nodes.push(Node::With(pipe(rest)?, self.closed()?)),
                "range" => {
                    let (names, over) = assigned(rest)?;
                    nodes.push(Node::Range(names, pipe(over)?, self.closed()?));
                }
                "define" => {
                    let name = rest.trim().trim_matches('"').to_owned();
                    let body = self.closed()?;
                    self.defined.insert(name, body);
                }
                "end" if !is_file => return Ok((nodes, End::Closed)),
                "else" if !is_file => {
                    let condition = match rest.trim().strip_prefix("if") {
                        Some(condition) => Some(pipe(condition)?),
                        None if rest.trim().is_empty() => None,
                        None => return Err(format!("else {rest}")),
                    };
                    return Ok((nodes, End::Else(condition)));
                }
                "end" | "else" => return Err(format!("{word} without a beginning")),
                _ => match assigned(action)? {
                    (names, value) if names.len() == 1 => {
                        nodes.push(Node::Set(names[0].clone(), pipe(value)?));
                    }
                    _ => nodes.push(Node::Output(pipe(action)?)),
                },
            }
        }
        match is_file {
            true => Ok((nodes, End::File)),
            false => Err("an end is missing".to_owned()),
        }
    }

    fn branches(&mut self, first: Pipe) -> Result<Node, String> {
        let mut branches = Vec::new();
        let mut condition = Some(first);
        loop {
            let (body, end) = self.body(false)?;
            let is_last = condition.is_none();
            branches.push((condition, body));
            match end {
                End::Else(next) if !is_last => condition = next,
                End::Else(_) => return Err("else after else".to_owned()),
                End::Closed | End::File => return Ok(Node::If(branches)),
            }
        }
    }

    /// A body that has no `else`.
    fn closed(&mut self) -> Result<Vec<Node>, String> {
        match self.body(false)? {
            (body, End::Closed) => Ok(body),
            _ => Err("else belongs to if here".to_owned()),
        }
    }
}

/// `$a, $b := …`: the names, and what they are to be; no names if there is no `:=`.
fn assigned(text: &str) -> Result<(Vec<String>, &str), String> {
    let Some((names, value)) = text.split_once(":=").filter(|_| text.starts_with('$')) else {
        return Ok((Vec::new(), text));
    };
    let name = |name: &str| match name.trim().strip_prefix('$') {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(format!("{name:?} is no variable")),
    };
    let names: Result<Vec<String>, String> = names.split(',').map(name).collect();
    Ok((names?, value))
}

fn pipe(text: &str) -> Result<Pipe, String> {
    let mut chars = text.chars().peekable();
    let pipe = pipe_of(&mut chars, false)?;
    Ok(pipe)
}

fn pipe_of(chars: &mut Peekable<Chars<'_>>, is_nested: bool) -> Result<Pipe, String> {
    let mut pipe = vec![Command::new()];
    loop {
        let Some(&next) = chars.peek() else {
            return match is_nested {
                true => Err("a bracket without an end".to_owned()),
                false => Ok(pipe),
            };
        };
        let operand = match next {
            _ if next.is_whitespace() => {
                chars.next();
                continue;
            }
            '|' => {
                chars.next();
                pipe.push(Command::new());
                continue;
            }
            ')' if is_nested => {
                chars.next();
                return Ok(pipe);
            }
            '(' => {
                chars.next();
                Operand::Nested(pipe_of(chars, true)?)
            }
            '"' => Operand::Literal(string(chars)?),
            _ => word(chars)?,
        };
        if let Some(command) = pipe.last_mut() {
            command.push(operand);
        }
    }
}

fn string(chars: &mut Peekable<Chars<'_>>) -> Result<Value, String> {
    let mut text = String::new();
    let mut is_escaped = false;
    for c in chars.by_ref() {
        let is_end = c == '"' && !is_escaped && !text.is_empty();
        text.push(c);
        if is_end {
            // A JSON string has the same escapes, as far as a chart needs them.
            return serde_json::from_str(&text).map_err(|_| format!("{text} is no string"));
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    Err("a string without an end".to_owned())
}

fn word(chars: &mut Peekable<Chars<'_>>) -> Result<Operand, String> {
    let mut word = String::new();
    while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !"|()\"".contains(*c)) {
        word.push(c);
    }
    let fields = |path: &str| -> Vec<String> {
        path.split('.')
            .filter(|field| !field.is_empty())
            .map(str::to_owned)
            .collect()
    };
    if let Some(path) = word.strip_prefix('.') {
        return Ok(Operand::Path(Base::Dot, fields(path)));
    }
    if let Some(path) = word.strip_prefix('$') {
        let (name, path) = path.split_once('.').unwrap_or((path, ""));
        return Ok(Operand::Path(Base::Variable(name.to_owned()), fields(path)));
    }
    match word.as_str() {
        "true" => Ok(Operand::Literal(true.into())),
        "false" => Ok(Operand::Literal(false.into())),
        "nil" => Ok(Operand::Literal(Value::Null)),
        "" => Err("an odd character".to_owned()),
        _ if word.starts_with(|c: char| c.is_ascii_digit() || c == '-') => word
            .parse::<i64>()
            .map(|number| Operand::Literal(number.into()))
            .map_err(|_| format!("{word} is no number")),
        _ => Ok(Operand::Function(word)),
    }
}
