//! `tunnel install`: the chart's manifests with the values filled in, printed or handed to kubectl.

mod chart;
mod template;
mod values;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;

use crate::table;

/// What to make, and for whom.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// Print the manifests, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// The namespace
    #[arg(short, long, value_name = "NAME", default_value = "edge-system")]
    namespace: String,
    /// A file of values for the chart, as for helm; later ones win
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// One value: --set cloud.replicas=5
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// One value that is a file's contents: --set-file cloud.users=users.toml
    #[arg(long, value_name = "KEY=FILE")]
    set_file: Vec<String>,
    /// Print the chart's own values, with what they mean, and nothing else
    #[arg(long, conflicts_with_all = ["dry_run", "files", "set", "set_file"])]
    show_values: bool,
    /// For kubectl: which cluster
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// Prints, or installs.
pub(crate) fn run(args: &InstallArgs) -> Result<(), String> {
    if args.show_values {
        return table::print(chart::VALUES_TEXT);
    }
    let manifests = manifests(args)?;
    match args.dry_run {
        true => table::print(&manifests),
        false => apply(args, &manifests),
    }
}

fn manifests(args: &InstallArgs) -> Result<String, String> {
    let read = |file: &PathBuf| {
        std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
    };
    let mut filled = chart::values()?;
    let namespace = values::at("createNamespace", true.into());
    values::merge("install", &mut filled, namespace)?;
    for file in &args.files {
        let name = file.display().to_string();
        values::merge(&name, &mut filled, values::parse(&name, &read(file)?)?)?;
    }
    for line in &args.set {
        let (key, value) = values::assignment(line)?;
        let value = serde_saphyr::from_str(&value).unwrap_or(value.into());
        values::merge("--set", &mut filled, values::at(&key, value))?;
    }
    for line in &args.set_file {
        let (key, file) = values::assignment(line)?;
        let text = read(&PathBuf::from(file))?;
        values::merge("--set-file", &mut filled, values::at(&key, text.into()))?;
    }
    chart::render(filled, &args.namespace)
}

fn apply(args: &InstallArgs, manifests: &str) -> Result<(), String> {
    let mut command = Command::new("kubectl");
    command.args(["apply", "-f", "-"]).stdin(Stdio::piped());
    if let Some(context) = &args.context {
        command.arg("--context").arg(context);
    }
    let mut child = command
        .spawn()
        .map_err(|error| format!("kubectl: {error} (--dry-run prints the manifests)"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // It says itself why it stopped reading.
        let _ = stdin.write_all(manifests.as_bytes());
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("kubectl apply: {status}")),
        Err(error) => Err(format!("kubectl: {error}")),
    }
}
