//! A name server that knows one address, whatever it is asked for.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

/// Answers in a thread of its own, in the network of the thread that started it, until the test's process ends.
#[derive(Debug)]
pub struct NameServer {
    address: Arc<Mutex<Ipv4Addr>>,
}

impl NameServer {
    /// Answers at `listen` with `address`.
    pub fn start(listen: &str, address: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind(listen).unwrap();
        let address = Arc::new(Mutex::new(address));
        let told = address.clone();
        thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut question) {
                if let Some(answer) = answer(&question[..len], *told.lock().unwrap()) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { address }
    }

    /// Answers with another one from now on.
    pub fn now(&self, address: Ipv4Addr) {
        *self.address.lock().unwrap() = address;
    }
}

/// RFC 1035: the question again, and its answer if an IPv4 address was asked for.
fn answer(question: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const A: [u8; 4] = [0, 1, 0, 1];
    let name = question.get(HEADER..)?.iter().position(|byte| *byte == 0)? + 1;
    let kind = question.get(HEADER + name..HEADER + name + 4)?;
    let is_asked = kind == A;
    let mut answer = question[..2].to_vec();
    // A response, with recursion, one question, and one answer or none.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_asked), 0, 0, 0, 0]);
    answer.extend(&question[HEADER..HEADER + name + 4]);
    if is_asked {
        answer.extend([0xc0, HEADER as u8]); // the name asked for
        answer.extend(A);
        answer.extend([0, 0, 0, 0, 0, 4]); // not to be kept, four bytes
        answer.extend(address.octets());
    }
    Some(answer)
}
