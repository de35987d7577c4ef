//! A great many edges in this process, which do nothing but hold their links.

use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::fake_edge::{EdgeOptions, link};
use crate::wire::{Heartbeats, Wire};
use crate::world::{TOKEN, World};

/// Handshakes at once.
const AT_ONCE: usize = 64;

/// Their links. They end with the value.
#[derive(Debug)]
pub struct Crowd {
    wires: Vec<Wire>,
    _runtime: Runtime,
}

impl Crowd {
    /// The name of an edge.
    pub fn node(number: usize) -> String {
        format!("crowd-{number}")
    }

    /// Lines for the tokens file.
    pub fn tokens(count: usize) -> String {
        (0..count)
            .map(|number| format!("{}:{TOKEN}\n", Self::node(number)))
            .collect()
    }

    /// Links `count` edges, in turn to each of these addresses.
    pub fn connect(world: &World, grpc: &[String], count: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let ca: Arc<[u8]> = std::fs::read(world.pki.ca()).unwrap().into();
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let links: Vec<_> = (0..count)
            .map(|number| {
                let (ca, slots) = (ca.clone(), slots.clone());
                let grpc = grpc[number % grpc.len()].clone();
                runtime.spawn(async move {
                    let _slot = slots.acquire_owned().await.unwrap();
                    let options = EdgeOptions {
                        heartbeats: Heartbeats::Answer,
                        ..EdgeOptions::base(&Self::node(number), TOKEN)
                    };
                    let (wire, _) = link(&ca, &grpc, &options).await.expect("a link comes up");
                    wire
                })
            })
            .collect();
        let wires = links
            .into_iter()
            .map(|link| runtime.block_on(link).unwrap())
            .collect();
        Self {
            wires,
            _runtime: runtime,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.wires.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.wires.is_empty()
    }
}
