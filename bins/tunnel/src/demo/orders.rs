//! What a second terminal can ask of a demo with several replicas: `echo cut > DIR/control`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::mpsc::Sender;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::Event;

/// One thing to do to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Cut the line of node-A.
    Cut,
    /// Cut the operators' lines.
    CutClients,
    /// Kill the replica that serves node-A, by SIGKILL, and start it again.
    Kill,
    /// Replace every replica in turn, each in good order.
    Roll,
}

impl Order {
    pub(super) const ALL: [(&'static str, Order, &'static str); 4] = [
        ("cut", Order::Cut, "cut the line of node-A"),
        ("cut-clients", Order::CutClients, "cut the operators' lines"),
        (
            "kill",
            Order::Kill,
            "kill the replica that serves node-A (SIGKILL; it starts again)",
        ),
        (
            "roll",
            Order::Roll,
            "replace every replica in turn, as a rolling update does",
        ),
    ];

    fn parse(word: &str) -> Option<Order> {
        let mut all = Order::ALL.into_iter();
        all.find(|(name, ..)| *name == word.trim())
            .map(|(_, order, _)| order)
    }
}

/// Listens at `path` for as long as the demo lasts.
pub(super) fn listen(path: &Path, events: Sender<Event>) -> Result<(), String> {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let path = path.to_owned();
    std::thread::Builder::new()
        .name("orders".into())
        .spawn(move || {
            // Each writer's end is an end of the file: it is opened again for the next.
            while let Ok(fifo) = File::open(&path) {
                for word in BufReader::new(fifo).lines().map_while(Result::ok) {
                    let told = match Order::parse(&word) {
                        Some(order) => events.send(Event::Order(order)).is_ok(),
                        None => true,
                    };
                    if !told {
                        return;
                    }
                }
            }
        })
        .map(drop)
        .map_err(|error| format!("orders: {error}"))
}
