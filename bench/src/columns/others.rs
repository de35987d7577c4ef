//! Other tools, where they are on the PATH, as each of them comes: frp with TLS, chisel with SSH, rathole in plaintext.

use std::fs;
use std::path::Path;

use super::{Line, free_port, on_path, start as run, wait_port};
use crate::Result;
use crate::column::{Column, Door};
use crate::proc::Pids;
use tunnel_tests::World;

/// A tool with a server, a client beside the target, and a port at the server that leads to it.
#[derive(Debug)]
pub(crate) struct Tool {
    /// The column's name.
    pub(crate) name: &'static str,
    server: &'static str,
    client: &'static str,
    arguments: fn(&Ports<'_>) -> std::io::Result<[Vec<String>; 2]>,
}

/// Where everything is.
#[derive(Debug)]
struct Ports<'a> {
    dir: &'a Path,
    server: u16,
    entry: u16,
    target: &'a str,
    /// The server's port as the client reaches it, once the server runs.
    over: u16,
}

/// All that are known.
pub(crate) const TOOLS: &[Tool] = &[
    Tool {
        name: "frp",
        server: "frps",
        client: "frpc",
        arguments: frp,
    },
    Tool {
        name: "chisel",
        server: "chisel",
        client: "chisel",
        arguments: chisel,
    },
    Tool {
        name: "rathole",
        server: "rathole",
        client: "rathole",
        arguments: rathole,
    },
];

/// Starts a tool, if it is there.
pub(crate) fn start(tool: &Tool, target: &str, line: Line) -> Result<Option<Column>> {
    let (Some(server), Some(client)) = (on_path(tool.server), on_path(tool.client)) else {
        return Ok(None);
    };
    let world = World::new();
    let (port, entry) = (free_port()?, free_port()?);
    let mut ports = Ports {
        dir: world.dir(),
        server: port,
        entry,
        target,
        over: port,
    };
    let [arguments, _] = (tool.arguments)(&ports)?;
    let server = run("server", world.dir(), &server, &arguments);
    wait_port(&format!("127.0.0.1:{port}"), &server)?;
    let over = line.to(&format!("127.0.0.1:{port}"))?;
    ports.over = over
        .rsplit_once(':')
        .ok_or("an address without a port")?
        .1
        .parse()?;
    let [_, arguments] = (tool.arguments)(&ports)?;
    let client = run("client", world.dir(), &client, &arguments);
    let entry = format!("127.0.0.1:{entry}");
    wait_port(&entry, &client)?;
    Ok(Some(Column {
        name: tool.name,
        door: Door::Direct(entry),
        cloud: Pids::One(server.id()),
        edge: Pids::One(client.id()),
        _parts: vec![Box::new(client), Box::new(server), Box::new(world)],
    }))
}

fn frp(ports: &Ports<'_>) -> std::io::Result<[Vec<String>; 2]> {
    let (host, port) = ports
        .target
        .rsplit_once(':')
        .unwrap_or(("127.0.0.1", ports.target));
    let server = format!("bindAddr = \"127.0.0.1\"\nbindPort = {}\n", ports.server);
    let client = format!(
        "serverAddr = \"127.0.0.1\"\nserverPort = {}\n[[proxies]]\nname = \"bench\"\ntype = \"tcp\"\nlocalIP = \"{host}\"\n\
         localPort = {port}\nremotePort = {}\n",
        ports.over, ports.entry
    );
    Ok([
        file(ports, "frps.toml", &server, "-c")?,
        file(ports, "frpc.toml", &client, "-c")?,
    ])
}

fn chisel(ports: &Ports<'_>) -> std::io::Result<[Vec<String>; 2]> {
    let port = ports.server.to_string();
    Ok([
        [
            "server",
            "--reverse",
            "--host",
            "127.0.0.1",
            "--port",
            &port,
        ]
        .map(str::to_owned)
        .to_vec(),
        vec![
            "client".to_owned(),
            format!("http://127.0.0.1:{}", ports.over),
            format!("R:127.0.0.1:{}:{}", ports.entry, ports.target),
        ],
    ])
}

fn rathole(ports: &Ports<'_>) -> std::io::Result<[Vec<String>; 2]> {
    let side = |side: &str, address: String, service: String| {
        format!("[{side}]\n{address}default_token = \"bench\"\n[{side}.services.bench]\n{service}")
    };
    let server = side(
        "server",
        format!("bind_addr = \"127.0.0.1:{}\"\n", ports.server),
        format!("bind_addr = \"127.0.0.1:{}\"\n", ports.entry),
    );
    let client = side(
        "client",
        format!("remote_addr = \"127.0.0.1:{}\"\n", ports.over),
        format!("local_addr = \"{}\"\n", ports.target),
    );
    Ok([
        file(ports, "server.toml", &server, "--server")?,
        file(ports, "client.toml", &client, "--client")?,
    ])
}

fn file(ports: &Ports<'_>, name: &str, text: &str, flag: &str) -> std::io::Result<Vec<String>> {
    let path = ports.dir.join(name);
    fs::write(&path, text)?;
    Ok(vec![flag.to_owned(), path.display().to_string()])
}
