//! Several replicas behind one address, and what is done to them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::folder::CloudAddresses;
use super::front::Front;
use super::orders::Order;
use super::{Demo, NODES, Stop, UP_TIMEOUT, words};

/// For a replica that was asked to leave: its drain and a little.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// The cluster's part of a demo.
pub(super) struct Cluster {
    /// Each replica's number among the services.
    who: Vec<usize>,
    /// The way of each node's edge to the replicas.
    edges: Vec<Front>,
    /// The operators'.
    clients: Front,
}

/// Where a replica will listen: settled before it starts, as the others are told of it, and it comes back there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) grpc: SocketAddr,
    pub(super) plain: SocketAddr,
    pub(super) tls: SocketAddr,
    pub(super) admin: SocketAddr,
}

impl Ports {
    /// Ports that nobody has now.
    pub(super) fn find(replicas: usize) -> io::Result<Vec<Ports>> {
        let listeners: Vec<TcpListener> = (0..replicas * 4)
            .map(|_| TcpListener::bind(("127.0.0.1", 0)))
            .collect::<io::Result<_>>()?;
        let addresses: Vec<SocketAddr> = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<io::Result<_>>()?;
        let four = addresses.chunks_exact(4);
        Ok(four
            .map(|four| Ports {
                grpc: four[0],
                plain: four[1],
                tls: four[2],
                admin: four[3],
            })
            .collect())
    }
}

impl Cluster {
    /// The fronts for these replicas.
    pub(super) fn make(who: Vec<usize>, ports: &[Ports]) -> io::Result<Cluster> {
        let grpc = || ports.iter().map(|ports| ports.grpc).collect();
        Ok(Cluster {
            who,
            edges: NODES
                .iter()
                .map(|_| Front::start(grpc()))
                .collect::<io::Result<_>>()?,
            clients: Front::start(grpc())?,
        })
    }

    /// Where the edge of this node finds the cloud.
    pub(super) fn edge(&self, node: usize) -> SocketAddr {
        self.edges[node].address()
    }

    /// What an operator is told.
    pub(super) fn addresses(&self, ports: &[Ports]) -> CloudAddresses {
        CloudAddresses {
            grpc: self.clients.address(),
            plain: ports[0].plain,
            tls: ports[0].tls,
            admin: ports[0].admin,
        }
    }

    fn set_ready(&self, replica: usize, ready: bool) {
        for front in self.edges.iter().chain([&self.clients]) {
            front.set_ready(replica, ready);
        }
    }
}

impl Demo {
    /// Does one thing to the cluster, and says so.
    pub(super) fn obey(&mut self, order: Order) -> Result<(), Stop> {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        match order {
            Order::Cut => {
                cluster.edges[0].cut();
                words::done(&format!("the line of {} was cut", NODES[0]));
            }
            Order::CutClients => {
                cluster.clients.cut();
                words::done("the operators' lines were cut");
            }
            Order::Kill => {
                let replica = cluster.edges[0].serving().unwrap_or(0);
                let who = cluster.who[replica];
                self.services[who].kill();
                words::done(&format!("{} was killed", self.services[who].name));
                self.start_again(who)?;
            }
            Order::Roll => {
                for replica in 0..cluster.who.len() {
                    self.replace(replica)?;
                }
                words::done("every replica was replaced");
            }
        }
        Ok(())
    }

    /// As a rolling update does it: no new connections, SIGTERM, and when it has left its successor.
    fn replace(&mut self, replica: usize) -> Result<(), Stop> {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        cluster.set_ready(replica, false);
        let who = cluster.who[replica];
        self.services[who].ask_to_leave();
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        while self.services[who].ended().is_none() {
            self.next_event(Some(deadline)).map_err(|stop| match stop {
                Some(stop) => stop,
                None => self.services[who].obituary("does not leave").into(),
            })?;
        }
        self.start_again(who)?;
        if let Some(cluster) = &self.cluster {
            cluster.set_ready(replica, true);
        }
        Ok(())
    }

    fn start_again(&mut self, who: usize) -> Result<(), Stop> {
        self.statuses[who] = None;
        let folder = self.folder.path().to_owned();
        let name = self.services[who].name.clone();
        let config = self.folder.join(&format!("{name}/cloud.toml"));
        let command = self.service_command(&self.programs.cloud, config);
        self.services[who]
            .start_again(command, &folder, who, self.sender.clone())
            .map_err(|error| format!("{name}: {error}"))?;
        self.wait_until(who, Instant::now() + UP_TIMEOUT, "listens", |status| {
            status.contains_key("connect")
        })
    }
}
