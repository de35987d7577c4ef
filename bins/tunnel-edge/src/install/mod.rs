//! `tunnel-edge install`: from a binary, a token and a cloud's address to a service that starts at boot.
mod machine;
mod plan;

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use tunnel_common::args::EdgeArgs;
use tunnel_common::config::{ConfigError, EdgeConfig, Overrides};
use tunnel_common::exit::Exit;

use machine::{Machine, System};
use plan::Plan;

/// What to set up, and where.
#[derive(Args, Clone, Debug)]
pub(crate) struct InstallArgs {
    /// The authority that issued the cloud's certificate: copied to /etc/tunnel/tls/ca.crt, as --token-file is to /etc/tunnel/token ("-": stdin)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The program to copy, for a machine of another kind [default: this one]
    #[arg(long, value_name = "FILE", requires = "root")]
    program: Option<PathBuf>,
    /// Replace a configuration, token or authority that says something else; the old one is kept beside it as FILE.old
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    place: Place,
}

/// What to take away, and where.
#[derive(Args, Clone, Debug)]
pub(crate) struct UninstallArgs {
    /// Also remove the configuration and the token: this machine can't be reached by them any more
    #[arg(long)]
    purge: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Args, Clone, Debug)]
struct Place {
    /// Lay the files out below this folder, such as the root of a card's image, and start nothing
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Why nothing, or not everything, was done.
pub(crate) struct Refused {
    pub(crate) exit: Exit,
    pub(crate) why: String,
}

/// Where a package puts it.
const PROGRAM: &str = "/usr/bin/tunnel-edge";
const TOKEN: &str = "/etc/tunnel/token";
const CA: &str = "/etc/tunnel/tls/ca.crt";

pub(crate) fn install(args: &InstallArgs, edge: &EdgeArgs) -> Result<(), Refused> {
    let machine = Machine::find(args.place.root.as_deref(), args.place.dry_run)?;
    let mut plan = Plan::new(&machine, args.force);
    let config = configuration(&machine, edge)?;
    if let Some(text) = config {
        plan.file(EdgeConfig::FILE, 0o644, text.into_bytes(), true)?;
    }
    let secret = given(edge.token_file.as_deref())?;
    plan.given(TOKEN, 0o600, secret, "this node's token: --token-file FILE")?;
    let ca = given(args.ca.as_deref())?;
    plan.given(CA, 0o644, ca, "the cloud's authority: --ca FILE")?;
    let program = program(&machine, args.program.as_deref(), &mut plan)?;
    machine.service(program, &mut plan)?;
    plan.run(args.place.dry_run)
}

pub(crate) fn uninstall(args: &UninstallArgs) -> Result<(), Refused> {
    let machine = Machine::find(args.place.root.as_deref(), args.place.dry_run)?;
    let mut plan = Plan::new(&machine, false);
    machine.no_service(&mut plan);
    if args.purge {
        for path in [EdgeConfig::FILE, TOKEN, CA] {
            plan.remove(path);
        }
    }
    plan.run(args.place.dry_run)
}

/// The file that the flags come to; none if there are none, and there is a file.
fn configuration(machine: &Machine, edge: &EdgeArgs) -> Result<Option<String>, Refused> {
    let env = |name: &str| std::env::var(name).ok().filter(|_| name == "NODE_NAME");
    let there = machine.path(EdgeConfig::FILE);
    // The token's file is copied, and not named.
    let flags = EdgeArgs {
        token_file: None,
        ..edge.clone()
    };
    let overrides = flags.overrides();
    let base = flags.common.config.as_deref();
    if base.is_none() && overrides.is_empty() && there.exists() {
        EdgeConfig::load(Some(&there), &Overrides::default(), &env)?;
        return Ok(None);
    }
    let base = base.unwrap_or(Path::new("/dev/null"));
    Ok(Some(EdgeConfig::load(Some(base), &overrides, &env)?.text()))
}

fn given(file: Option<&Path>) -> Result<Option<Vec<u8>>, Refused> {
    let Some(file) = file else {
        return Ok(None);
    };
    let read = if file == Path::new("-") {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        read.map(|_| bytes)
    } else {
        std::fs::read(file)
    };
    match read {
        Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => {
            Err(Refused::failed(format!("{}: is empty", file.display())))
        }
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => Err(Refused::failed(format!("{}: {error}", file.display()))),
    }
}

/// Where the program is for good: where a package has put it, or a copy.
fn program(
    machine: &Machine,
    given: Option<&Path>,
    plan: &mut Plan<'_>,
) -> Result<&'static str, Refused> {
    let copy = match machine.system {
        System::Systemd if machine.has_package() => return Ok(PROGRAM),
        System::Systemd => "/usr/local/bin/tunnel-edge",
        System::Procd => PROGRAM,
    };
    let program = given.map_or_else(std::env::current_exe, |given| Ok(given.to_owned()));
    let read = program.and_then(|program| {
        let named = |error| std::io::Error::other(format!("{}: {error}", program.display()));
        std::fs::read(&program).map_err(named)
    });
    let bytes = read.map_err(|error| Refused::failed(error.to_string()))?;
    plan.file(copy, 0o755, bytes, false)?;
    Ok(copy)
}

impl Refused {
    fn failed(why: String) -> Refused {
        Refused {
            exit: Exit::Failed,
            why,
        }
    }

    fn usage(why: &str) -> Refused {
        Refused {
            exit: Exit::Usage,
            why: why.to_owned(),
        }
    }
}

impl From<ConfigError> for Refused {
    fn from(error: ConfigError) -> Refused {
        Refused {
            exit: Exit::Config,
            why: error.to_string(),
        }
    }
}
