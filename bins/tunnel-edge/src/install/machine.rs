//! The machine that is set up: this one, or one whose files lie in a folder; and what starts services there.
use std::path::{Path, PathBuf};

use super::Refused;
use super::plan::Plan;

const UNIT: &str = include_str!("../../../../deploy/systemd/tunnel-edge.service");
const INIT: &str = include_str!("../../../../deploy/openwrt/tunnel-edge.init");
const KEEP: &str = include_str!("../../../../deploy/openwrt/tunnel-edge.keep");

/// Where a package, and where `install`, puts the unit.
const PACKAGED: &str = "/lib/systemd/system/tunnel-edge.service";
const OWN: &str = "/etc/systemd/system/tunnel-edge.service";
const WANTED: &str = "/etc/systemd/system/multi-user.target.wants/tunnel-edge.service";
const STARTED: &str = "/etc/rc.d/S95tunnel-edge";
const INIT_FILE: &str = "/etc/init.d/tunnel-edge";
const KEEP_FILE: &str = "/lib/upgrade/keep.d/tunnel-edge";

/// What starts services.
pub(super) enum System {
    Systemd,
    Procd,
}

/// Where files go, and whose services they are.
pub(super) struct Machine {
    root: Option<PathBuf>,
    pub(super) system: System,
}

impl Machine {
    pub(super) fn find(root: Option<&Path>, is_dry: bool) -> Result<Machine, Refused> {
        if root.is_none() && !is_dry && !nix::unistd::geteuid().is_root() {
            return Err(Refused::failed(
                "this needs root: run it by sudo, or see what it would do with --dry-run"
                    .to_owned(),
            ));
        }
        let mut machine = Machine {
            root: root.map(Path::to_owned),
            system: System::Systemd,
        };
        if machine.path("/etc/openwrt_release").exists() {
            machine.system = System::Procd;
        } else if root.is_none() && !Path::new("/run/systemd/system").exists() {
            return Err(Refused::failed(
                "neither systemd nor procd runs here: have `tunnel-edge` started by what does (its configuration is /etc/tunnel/edge.toml, \
                 its token /etc/tunnel/token), or lay the files out for another machine with --root DIR"
                    .to_owned(),
            ));
        }
        Ok(machine)
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        match &self.root {
            Some(root) => root.join(path.trim_start_matches('/')),
            None => PathBuf::from(path),
        }
    }

    pub(super) fn is_elsewhere(&self) -> bool {
        self.root.is_some()
    }

    pub(super) fn has_package(&self) -> bool {
        self.path(PACKAGED).exists()
    }

    /// A service that runs `program`, enabled, and started if it is this machine's.
    pub(super) fn service(&self, program: &str, plan: &mut Plan<'_>) -> Result<(), Refused> {
        match self.system {
            System::Systemd => {
                if !self.has_package() {
                    let unit = UNIT.replace(super::PROGRAM, program);
                    plan.file(OWN, 0o644, unit.into_bytes(), false)?;
                }
                if self.is_elsewhere() {
                    let unit = match self.has_package() {
                        true => PACKAGED,
                        false => OWN,
                    };
                    plan.link(WANTED, unit);
                    return Ok(());
                }
                // systemd hands the token over when it starts the service. A stop waits for sessions: whoever does this may be in one.
                let is_new = !self.path(super::TOKEN).exists();
                let again: &[&str] = match plan.changes(super::TOKEN) || plan.changes(OWN) {
                    true if is_new => &["restart"],
                    true => &["restart", "--no-block"],
                    false if plan.changes("/") => &["reload-or-restart"],
                    false => &["start"],
                };
                plan.command(&["systemctl", "daemon-reload"]);
                plan.command(&["systemctl", "enable", "--quiet", "tunnel-edge"]);
                plan.command(&[&["systemctl"], again, &["tunnel-edge"]].concat());
            }
            System::Procd => {
                plan.file(INIT_FILE, 0o755, INIT.into(), false)?;
                plan.file(KEEP_FILE, 0o644, KEEP.into(), false)?;
                if self.is_elsewhere() {
                    plan.link(STARTED, "../init.d/tunnel-edge");
                    return Ok(());
                }
                let again = if plan.changes("/") {
                    "restart"
                } else {
                    "start"
                };
                plan.command(&[INIT_FILE, "enable"]);
                plan.command(&[INIT_FILE, again]);
            }
        }
        Ok(())
    }

    pub(super) fn no_service(&self, plan: &mut Plan<'_>) {
        let is_here = !self.is_elsewhere();
        let (link, files): (_, &[&str]) = match self.system {
            System::Systemd => (WANTED, &[OWN, "/usr/local/bin/tunnel-edge"]),
            System::Procd => (STARTED, &[INIT_FILE, KEEP_FILE, super::PROGRAM]),
        };
        match self.system {
            System::Systemd if is_here && (self.path(OWN).exists() || self.has_package()) => {
                plan.command(&["systemctl", "disable", "--quiet", "--now", "tunnel-edge"]);
            }
            System::Procd if is_here && self.path(INIT_FILE).exists() => {
                plan.command(&[INIT_FILE, "stop"]);
                plan.command(&[INIT_FILE, "disable"]);
            }
            // The link goes with the service where that is asked.
            System::Systemd | System::Procd => plan.remove(link),
        }
        for path in files {
            plan.remove(path);
        }
        if is_here && matches!(self.system, System::Systemd) {
            plan.command(&["systemctl", "daemon-reload"]);
        }
    }
}
