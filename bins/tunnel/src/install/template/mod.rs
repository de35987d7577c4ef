//! Go's templates, as far as our chart uses them: what Helm makes of it, without Helm. Whatever else stands in a template is an
//! error, and the tests hold the outcome against Helm's own.

mod functions;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::Value;

use parse::{Base, Command, Node, Operand, Pipe};

/// How deep templates may include each other.
const DEPTH_MAX: usize = 16;

/// All of a chart's templates.
#[derive(Debug, Default)]
pub(super) struct Templates {
    named: BTreeMap<String, Vec<Node>>,
    /// For `.Files.Get`.
    files: BTreeMap<&'static str, &'static str>,
}

impl Templates {
    /// Adds a file's text, for itself and for what it defines.
    pub(super) fn add(&mut self, name: &str, text: &str) -> Result<(), String> {
        let parsed = parse::parse(text).map_err(|what| format!("{name}: {what}"))?;
        self.named.extend(parsed.defined);
        self.named.insert(name.to_owned(), parsed.body);
        Ok(())
    }

    /// Adds a file that templates may read.
    pub(super) fn add_file(&mut self, name: &'static str, text: &'static str) {
        self.files.insert(name, text);
    }

    /// What a template makes of `root`.
    pub(super) fn render(&self, name: &str, root: &Value) -> Result<String, String> {
        self.render_at(name, root, 0)
            .map_err(|what| format!("{name}: {what}"))
    }

    fn render_at(&self, name: &str, root: &Value, depth: usize) -> Result<String, String> {
        let nodes = self
            .named
            .get(name)
            .ok_or_else(|| format!("there is no template {name:?}"))?;
        if depth > DEPTH_MAX {
            return Err(format!("{name:?} includes itself"));
        }
        let mut run = Run {
            templates: self,
            depth,
            variables: vec![(String::new(), root.clone())],
            out: String::new(),
        };
        run.nodes(nodes, root)?;
        Ok(run.out)
    }
}

/// One template at work.
struct Run<'a> {
    templates: &'a Templates,
    depth: usize,
    /// The innermost last; the one without a name is `$`.
    variables: Vec<(String, Value)>,
    out: String,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        let variables = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
        }
        self.variables.truncate(variables);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), String> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Output(pipe) => {
                let value = self.pipe(pipe, dot)?;
                self.out.push_str(&functions::text(&value)?);
            }
            Node::Set(name, pipe) => {
                let value = self.pipe(pipe, dot)?;
                self.variables.push((name.clone(), value));
            }
            Node::If(branches) => {
                for (condition, body) in branches {
                    let holds = match condition {
                        Some(pipe) => is_true(&self.pipe(pipe, dot)?),
                        None => true,
                    };
                    if holds {
                        return self.nodes(body, dot);
                    }
                }
            }
            Node::With(pipe, body) => {
                let value = self.pipe(pipe, dot)?;
                if is_true(&value) {
                    self.nodes(body, &value)?;
                }
            }
            Node::Range(names, pipe, body) => {
                let items: Vec<(Value, Value)> = match self.pipe(pipe, dot)? {
                    Value::Object(map) => map.into_iter().map(|(k, v)| (k.into(), v)).collect(),
                    Value::Array(list) => list
                        .into_iter()
                        .enumerate()
                        .map(|(i, v)| (i.into(), v))
                        .collect(),
                    Value::Null => Vec::new(),
                    other => return Err(format!("range over {other}")),
                };
                for (key, value) in items {
                    let variables = self.variables.len();
                    match names.as_slice() {
                        [] => {}
                        [name] => self.variables.push((name.clone(), value.clone())),
                        [first, second, ..] => {
                            self.variables.push((first.clone(), key));
                            self.variables.push((second.clone(), value.clone()));
                        }
                    }
                    self.nodes(body, &value)?;
                    self.variables.truncate(variables);
                }
            }
        }
        Ok(())
    }

    fn pipe(&self, pipe: &Pipe, dot: &Value) -> Result<Value, String> {
        let mut piped = None;
        for command in pipe {
            piped = Some(self.command(command, piped, dot)?);
        }
        piped.ok_or_else(|| "an empty action".to_owned())
    }

    fn command(
        &self,
        command: &Command,
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, String> {
        let Some((head, rest)) = command.split_first() else {
            return Err("an empty command".to_owned());
        };
        let mut arguments = Vec::with_capacity(rest.len() + 1);
        for operand in rest {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(piped);
        match head {
            Operand::Function(name) if name == "include" => match arguments.as_slice() {
                [Value::String(name), root] => self
                    .templates
                    .render_at(name, root, self.depth + 1)
                    .map(Value::String),
                _ => Err("include takes a name and a value".to_owned()),
            },
            Operand::Function(name) => functions::call(name, &arguments),
            Operand::Path(Base::Dot, fields) if fields == &["Files", "Get"] => {
                let name = arguments
                    .first()
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                let text = self.templates.files.get(name);
                Ok(text.copied().unwrap_or_default().into())
            }
            _ if !arguments.is_empty() => Err(format!("{head:?} takes no arguments")),
            value => self.operand(value, dot),
        }
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Nested(pipe) => self.pipe(pipe, dot),
            Operand::Function(name) => functions::call(name, &[]),
            Operand::Path(base, fields) => {
                let mut value = match base {
                    Base::Dot => dot,
                    Base::Variable(name) => self
                        .variables
                        .iter()
                        .rev()
                        .find_map(|(known, value)| (known == name).then_some(value))
                        .ok_or_else(|| format!("there is no variable ${name}"))?,
                };
                for field in fields {
                    value = match value {
                        Value::Object(map) => map.get(field).unwrap_or(&Value::Null),
                        _ => return Err(format!("there is no {field} in {value}")),
                    };
                }
                Ok(value.clone())
            }
        }
    }
}

/// Everything is true but false, none, zero, and what is empty.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}
