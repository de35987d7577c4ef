//! `tunnel connect HOST PORT`: stdin and stdout to a port of a node. Made to be ssh's ProxyCommand.

mod handshake;
mod line;
mod link;
mod relay;

pub(crate) use handshake::printable;
pub(crate) use line::Line;

use crate::settings::{Server, Settings, Way};
use relay::Broken;

/// Connects; the error is the line to show, empty if there is nobody to read it.
pub(crate) fn run(settings: &Settings, host: &str, port: u16) -> Result<(), String> {
    let server = match settings.way()? {
        Way::Link(server) => return link::run(server, host, port),
        Way::Connect(server) => server,
    };
    let authorization = settings.authorization();
    let request = handshake::request(host, port, authorization.as_deref())?;
    let line =
        Line::open(&server).map_err(|error| format!("cannot connect to {server}: {error}"))?;
    relay::run(line, request).map_err(|broken| explain(&server, host, broken))
}

fn explain(server: &Server, host: &str, broken: Broken) -> String {
    match broken {
        Broken::Refused(refusal) => format!("{host}: {refusal}"),
        Broken::NoReply(what) => format!("{server} {what}"),
        Broken::Lost(error) => format!("the connection to {server} broke: {error}"),
        Broken::Abandoned => String::new(),
    }
}
