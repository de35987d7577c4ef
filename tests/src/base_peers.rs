//! Peers of the base dialect, written from PROTOCOL.md: the messages, and an edge that behaves as SuperEdge's does.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;
use tokio::sync::mpsc;
use tonic::Status;

use crate::fake_edge::FakeEdge;
use crate::wire::{Event, StreamMsg};

/// A base heartbeat of a node.
pub fn heartbeat(node: &str) -> StreamMsg {
    StreamMsg {
        node: node.into(),
        category: "stream".into(),
        r#type: "heartbeat".into(),
        topic: format!("{node}heartbeat"),
        ..StreamMsg::default()
    }
}

/// `connecting` as a base cloud sends it.
pub fn connecting(node: &str, category: &str, topic: &str, addr: &str) -> StreamMsg {
    StreamMsg {
        node: node.into(),
        category: category.into(),
        r#type: "connecting".into(),
        topic: topic.into(),
        data: format!("CONNECT {addr} HTTP/1.1\r\n\r\n\r\n").into_bytes(),
        addr: addr.into(),
        ..StreamMsg::default()
    }
}

/// A message of another's stream: same node, category, topic and address.
pub fn reply(to: &StreamMsg, r#type: &str, data: &[u8]) -> StreamMsg {
    StreamMsg {
        node: to.node.clone(),
        category: to.category.clone(),
        r#type: r#type.into(),
        topic: to.topic.clone(),
        data: data.to_vec(),
        addr: to.addr.clone(),
        ..StreamMsg::default()
    }
}

/// Whether a message uses a field that base peers don't know.
pub fn is_beyond_base(message: &StreamMsg) -> bool {
    *message
        != StreamMsg {
            addr: message.addr.clone(),
            ..reply(message, &message.r#type, &message.data)
        }
}

/// An edge of the base dialect that serves its link in a thread: one message at a time, dialing in between, one message
/// per read of 1 KiB, a heartbeat once a second.
#[derive(Debug)]
pub struct BaseEdge {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<StreamMsg>>>,
}

impl BaseEdge {
    /// Serves a link.
    pub fn serve(edge: FakeEdge) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || serve(&edge, &stopped));
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Ends the link and gives every message that came on it.
    pub fn stop(mut self) -> Vec<StreamMsg> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread
            .take()
            .unwrap()
            .join()
            .expect("the base edge runs to its end")
    }
}

impl Drop for BaseEdge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn serve(edge: &FakeEdge, stop: &AtomicBool) -> Vec<StreamMsg> {
    let mut sockets: HashMap<String, (TcpStream, Arc<AtomicBool>)> = HashMap::new();
    let mut refused = HashSet::new();
    let mut all = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let message = match edge.wire.next(Duration::from_millis(50)) {
            Some(Event::Message(message)) => message,
            Some(Event::End(_)) => break,
            None => continue,
        };
        all.push(message.clone());
        match message.r#type.as_str() {
            "connecting" => {
                if let Some(socket) = dial(edge, &message) {
                    let from = socket.try_clone().unwrap();
                    let outbox = edge.wire.sender();
                    let closed = Arc::new(AtomicBool::new(false));
                    let entry = (socket, closed.clone());
                    sockets.insert(message.topic.clone(), entry);
                    thread::spawn(move || forward(from, &message, &outbox, &closed));
                }
            }
            "tcp-forward" => match sockets.get_mut(&message.topic) {
                Some((socket, _)) => drop(socket.write_all(&message.data)),
                None if refused.insert(message.topic.clone()) => {
                    edge.wire.send(reply(&message, "closed", b"unknown topic"));
                }
                None => {}
            },
            "closed" => {
                if let Some((socket, closed)) = sockets.remove(&message.topic) {
                    // The flag, as Linux goes on receiving after a shutdown.
                    closed.store(true, Ordering::SeqCst);
                    let _ = socket.shutdown(Shutdown::Both);
                }
            }
            _ => {}
        }
    }
    for (socket, closed) in sockets.values() {
        closed.store(true, Ordering::SeqCst);
        let _ = socket.shutdown(Shutdown::Both);
    }
    all
}

fn dial(edge: &FakeEdge, message: &StreamMsg) -> Option<TcpStream> {
    match TcpStream::connect(&message.addr) {
        Ok(socket) => {
            let _ = socket.set_nodelay(true);
            edge.wire.send(reply(message, "connected", b""));
            Some(socket)
        }
        Err(error) => {
            edge.wire.send(reply(
                message,
                "connect-failed",
                error.to_string().as_bytes(),
            ));
            None
        }
    }
}

fn forward(
    mut from: TcpStream,
    to: &StreamMsg,
    outbox: &mpsc::Sender<Result<StreamMsg, Status>>,
    closed: &AtomicBool,
) {
    let mut buffer = [0; 1024];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        let message = reply(to, "tcp-forward", &buffer[..len]);
        if closed.load(Ordering::SeqCst) || outbox.blocking_send(Ok(message)).is_err() {
            // These bytes are read for nobody. As if they were still unread its end is a reset: if no other stands behind them, the
            // kernel keeps a closed socket that has no room, and whoever sends to it probes that for a minute.
            let _ = SockRef::from(&from).set_linger(Some(Duration::ZERO));
            return;
        }
    }
    if !closed.load(Ordering::SeqCst) {
        let _ = outbox.blocking_send(Ok(reply(to, "closed", b"EOF")));
    }
}
