//! What a Kubernetes Service is to a cluster: one address in front of several replicas. And a line that can be cut.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A replica on this machine answers at once, or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// One address.
pub(super) struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    replicas: Vec<SocketAddr>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Replicas that take nothing new.
    leaving: Vec<usize>,
    next: usize,
    passing: Vec<Passing>,
}

/// A connection that is passed on.
struct Passing {
    number: usize,
    replica: usize,
    near: TcpStream,
    far: TcpStream,
}

impl Front {
    /// Listens on loopback for these replicas.
    pub(super) fn start(replicas: Vec<SocketAddr>) -> io::Result<Front> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let front = Front {
            address: listener.local_addr()?,
            shared: Arc::new(Shared {
                replicas,
                state: Mutex::default(),
            }),
        };
        let shared = Arc::clone(&front.shared);
        std::thread::Builder::new()
            .name("front".into())
            .spawn(move || {
                for (number, near) in listener.incoming().enumerate() {
                    match near {
                        Ok(near) => shared.take(number, near),
                        // Out of descriptors: whoever asked tries again.
                        Err(_) => std::thread::sleep(Duration::from_millis(50)),
                    }
                }
            })?;
        Ok(front)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts whatever goes through here now; how many connections that was.
    pub(super) fn cut(&self) -> usize {
        let passing = std::mem::take(&mut self.shared.lock().passing);
        passing.iter().for_each(Passing::cut);
        passing.len()
    }

    /// A replica takes new connections, or doesn't.
    pub(super) fn set_ready(&self, replica: usize, ready: bool) {
        let mut state = self.shared.lock();
        state.leaving.retain(|leaving| *leaving != replica);
        if !ready {
            state.leaving.push(replica);
        }
    }

    /// The replica that the newest connection leads to.
    pub(super) fn serving(&self) -> Option<usize> {
        let state = self.shared.lock();
        state.passing.last().map(|passing| passing.replica)
    }
}

impl Shared {
    fn take(self: &Arc<Self>, number: usize, near: TcpStream) {
        let Some((replica, far)) = self.reach() else {
            return; // Nobody is there: the end of the connection says it.
        };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let clones = || {
            io::Result::Ok([
                (near.try_clone()?, far.try_clone()?),
                (far.try_clone()?, near.try_clone()?),
            ])
        };
        let Ok(ways) = clones() else {
            return;
        };
        self.lock().passing.push(Passing {
            number,
            replica,
            near,
            far,
        });
        for (from, to) in ways {
            let shared = Arc::clone(self);
            // Without a thread the connection just goes nowhere until its ends give up.
            let _ = std::thread::Builder::new()
                .name("front way".into())
                .spawn(move || {
                    let _ = io::copy(&mut &from, &mut &to);
                    shared.end(number);
                });
        }
    }

    /// The next replica that is there.
    fn reach(&self) -> Option<(usize, TcpStream)> {
        let (first, leaving) = {
            let mut state = self.lock();
            state.next += 1;
            (state.next, state.leaving.clone())
        };
        let count = self.replicas.len();
        let all = (0..count).map(|step| (first + step) % count);
        all.filter(|replica| !leaving.contains(replica))
            .find_map(|replica| {
                TcpStream::connect_timeout(&self.replicas[replica], CONNECT_TIMEOUT)
                    .ok()
                    .map(|far| (replica, far))
            })
    }

    /// One end has closed, and with it the other: a link has no use for half of a connection.
    fn end(&self, number: usize) {
        let mut state = self.lock();
        state.passing.retain(|passing| {
            let stays = passing.number != number;
            if !stays {
                passing.cut();
            }
            stays
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passing {
    fn cut(&self) {
        let _ = self.near.shutdown(Shutdown::Both);
        let _ = self.far.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn it_leads_to_a_replica_that_is_there_and_is_cut() {
        let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
        let there = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addresses = vec![
            gone.local_addr().expect("an address"),
            there.local_addr().expect("an address"),
        ];
        drop(gone);
        let front = Front::start(addresses).expect("a front");
        for _ in 0..3 {
            let mut client = TcpStream::connect(front.address()).expect("a connection");
            client.write_all(b"hello").expect("written");
            let (mut served, _) = there.accept().expect("a connection");
            let mut word = [0; 5];
            served.read_exact(&mut word).expect("read");
            assert_eq!((&word, front.serving()), (b"hello", Some(1)));
            front.cut();
            assert_eq!(client.read(&mut word).unwrap_or(0), 0, "cut");
        }
    }
}
