//! A driver's turns at its sockets: what waits is written and looked at, what there is room for is read.

use bytes::Bytes;
use proto_core::{Machine, StreamId};

use crate::host::Host;
use crate::net::{FlowId, Net};
use crate::pattern;
use crate::rogue::ALIEN;

impl<M: Machine> Host<M> {
    pub(crate) fn serve_local(&mut self, net: &mut Net, id: StreamId) {
        let side = self.side();
        let Some(flow) = self.open_flow(id) else {
            return;
        };
        let sock = &mut net.flows[flow].socks[side];
        let own = sock.at == Some((self.id, id));
        if own {
            sock.notified = false;
        }
        if sock.broken || !own {
            self.locals.remove(&id);
            if own {
                sock.at = None;
            }
            self.machine.handle_socket_error(id, net.clock(self.proc));
            return self.after_call(net);
        }
        let busy = self.write_local(net, id, flow) | self.read_local(net, id, flow);
        if busy && self.locals.contains_key(&id) {
            self.ready_locals.insert(id);
        }
    }

    pub(crate) fn open_flow(&self, id: StreamId) -> Option<FlowId> {
        self.locals
            .get(&id)
            .filter(|local| local.open)
            .and_then(|local| local.flow)
    }

    /// True: there is more to do.
    fn write_local(&mut self, net: &mut Net, id: StreamId, flow: FlowId) -> bool {
        let side = self.side();
        for _ in 0..4 {
            let Some(local) = self
                .locals
                .get_mut(&id)
                .filter(|local| !local.write_blocked)
            else {
                break;
            };
            let rogue = net.flows[flow].excuse == Some("rogue");
            let sock = &mut net.flows[flow].socks[side];
            let room = usize::try_from(sock.room()).unwrap_or(0);
            if room == 0 {
                sock.wants_room = true;
                break;
            }
            let room = room.min(self.habits.write_bytes_max);
            let (mut took, mut wrong) = (0, false);
            for chunk in self.machine.pending_write(id) {
                let step = chunk.len().min(room - took);
                let expected = pattern::slice(flow, 1 - side, sock.given + took as u64, step);
                wrong |= match rogue {
                    // Whatever it says is its own, but for what it says under another node's name.
                    true => chunk[..step].contains(&ALIEN),
                    false => chunk[..step] != *expected,
                };
                took += step;
                if took == room {
                    break;
                }
            }
            sock.given += took as u64;
            let (given, sent) = (sock.given, net.flows[flow].socks[1 - side].taken);
            // What is behind a base edge may have been dialed anew, by another replica's doing.
            let of = &net.flows[flow];
            let anew = of.base && of.dialers.len() > 1;
            if wrong && !anew || given > sent && !rogue && !anew {
                net.fail("prefix", || {
                    format!("flow {flow} side {side}: wrong bytes before {given} of {sent}")
                });
            }
            if took == 0 {
                local.write_blocked = true;
                break;
            }
            self.moved = true;
            net.trace.mix(took as u64);
            net.app_soon(flow, side);
            self.machine.written(id, took, net.clock(self.proc));
            self.after_call(net);
        }
        if self.locals.contains_key(&id) && self.machine.take_shutdown(id, net.clock(self.proc)) {
            net.flows[flow].socks[side].fin_given = true;
            net.app_soon(flow, side);
            self.after_call(net);
        }
        let sock = &mut net.flows[flow].socks[side];
        sock.wants_room |= sock.room() == 0;
        let open = self
            .locals
            .get(&id)
            .is_some_and(|local| !local.write_blocked);
        open && sock.room() > 0
    }

    fn read_local(&mut self, net: &mut Net, id: StreamId, flow: FlowId) -> bool {
        let side = self.side();
        for _ in 0..4 {
            let sock = &net.flows[flow].socks[side];
            let ready = sock.readable() > 0 || sock.fin && !sock.fin_taken;
            let local = self.locals.get_mut(&id).filter(|local| !local.read_blocked);
            let (Some(local), true) = (local, ready || sock.taken == 0) else {
                break;
            };
            let wants = self.machine.wants_read(id, net.clock(self.proc));
            if wants == 0 {
                if sock.readable() > 0 {
                    net.cover.hit("read held back by credit");
                }
                local.read_blocked = true;
                self.after_call(net);
                break;
            }
            let now = net.clock(self.proc);
            let sock = &mut net.flows[flow].socks[side];
            let bytes = usize::try_from(sock.readable())
                .unwrap_or(0)
                .min(wants)
                .min(self.habits.read_bytes_max);
            if bytes > 0 {
                let data = pattern::slice(flow, side, sock.taken, bytes);
                sock.taken += bytes as u64;
                let taken = sock.taken;
                self.moved = true;
                net.app_soon(flow, side);
                self.check_read(net, flow, taken);
                self.machine.handle_read(id, Bytes::from_static(data), now);
            } else if sock.fin && !sock.fin_taken {
                sock.fin_taken = true;
                self.machine.handle_read_eof(id, now);
            } else {
                break;
            }
            self.after_call(net);
        }
        let sock = &net.flows[flow].socks[side];
        let open = self
            .locals
            .get(&id)
            .is_some_and(|local| !local.read_blocked);
        open && (sock.readable() > 0 || sock.fin && !sock.fin_taken)
    }

    /// Nobody reads without credit, or more than the buffers may hold.
    fn check_read(&self, net: &mut Net, flow: FlowId, taken: u64) {
        let side = self.side();
        let of = &net.flows[flow];
        if of.base || of.stray || of.excuse == Some("rogue") {
            return;
        }
        let credit = of.limit_heard[side].max(4096);
        if taken > credit {
            net.fail("read without credit", || {
                format!("flow {flow} side {side}: {taken} read, {credit} allowed")
            });
        }
    }
}
