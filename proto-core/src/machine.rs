//! What a driver sees of a machine: one contract for a node's hub and for an edge, so that one driver serves both.

use crate::output::{Deadline, LinkId, LinkInfo, LinkLoss, Output, StreamId, StreamInfo};
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::time::Instant;
use alloc::vec::Vec;
use bytes::Bytes;

/// Streams over links, as their driver sees them.
///
/// Inputs are facts: they never fail. After any of them, and after `poll_transmit`, outputs are polled until there are
/// none, and then `deadline` is asked. Ids of streams and links that are gone are ignored everywhere, so a driver need
/// not know who was first.
pub trait Machine {
    /// A link is gone.
    fn link_lost(&mut self, link: LinkId, why: LinkLoss, now: Instant);

    /// A message came by a link. To be called only while `wants_message`.
    fn handle_message(&mut self, link: LinkId, msg: StreamMsg, now: Instant);

    /// Whether the link may be read. It is false only in the base dialect, which has no flow control, while a stream's
    /// buffer is full; `Output::LinkReadable` tells when to ask again.
    fn wants_message(&self, link: LinkId) -> bool;

    /// The next message for a link whose transport has room for one. `None`: `Output::TransmitReady` tells when to ask
    /// again.
    fn poll_transmit(&mut self, link: LinkId, now: Instant) -> Option<StreamMsg>;

    /// How many bytes the stream's socket may be read for, now. 0: it isn't to be polled for reading;
    /// `Output::Local` tells when to ask again. The answer may change with any input.
    fn wants_read(&mut self, id: StreamId, now: Instant) -> usize;

    /// Bytes read from the socket: no more than `wants_read` said last.
    fn handle_read(&mut self, id: StreamId, data: Bytes, now: Instant);

    /// The socket's other side has ended its direction.
    fn handle_read_eof(&mut self, id: StreamId, now: Instant);

    /// The socket failed; it is gone.
    fn handle_socket_error(&mut self, id: StreamId, now: Instant);

    /// What the socket is to be given, in order. Empty: `Output::Local` tells when there is more.
    fn pending_write(&self, id: StreamId) -> impl Iterator<Item = &Bytes>;

    /// The socket took so many bytes of `pending_write`.
    fn written(&mut self, id: StreamId, bytes: usize, now: Instant);

    /// True once: everything is written, and the socket's write side is to be shut down.
    fn take_shutdown(&mut self, id: StreamId, now: Instant) -> bool;

    /// A dial asked for by `Output::Dial` came to this. `Reason` is one of refused, dial-timeout, unreachable,
    /// name-not-found, local-error.
    fn handle_dialed(&mut self, id: StreamId, result: Result<(), Reason>, now: Instant);

    /// Time has come to `deadline`. Early and repeated calls change nothing.
    fn handle_timeout(&mut self, now: Instant);

    /// What the driver is to do next. Always polled until there is nothing more.
    fn poll_output(&mut self) -> Option<Output>;

    /// When `handle_timeout` is wanted; asked last.
    fn deadline(&self) -> Option<Deadline>;

    /// No link and no stream: nothing is lost if the machine goes.
    fn is_idle(&self) -> bool;

    /// The streams, for the admin API.
    fn stream_infos(&self) -> Vec<StreamInfo>;

    /// The links, for the admin API.
    fn link_infos(&self) -> Vec<LinkInfo>;
}

/// Implements what both machines leave to their `mux` field; the rest is given in the braces.
macro_rules! machine_over_mux {
    ($machine:ty { $($own:item)* }) => {
        impl Machine for $machine {
            $($own)*

            fn handle_message(&mut self, link: LinkId, msg: StreamMsg, now: Instant) {
                self.mux.handle_message(link, msg, now);
            }

            fn wants_message(&self, link: LinkId) -> bool {
                self.mux.wants_message(link)
            }

            fn poll_transmit(&mut self, link: LinkId, now: Instant) -> Option<StreamMsg> {
                self.mux.poll_transmit(link, now)
            }

            fn wants_read(&mut self, id: StreamId, now: Instant) -> usize {
                self.mux.wants_read(id, now)
            }

            fn handle_read(&mut self, id: StreamId, data: Bytes, now: Instant) {
                self.mux.handle_read(id, data, now);
            }

            fn handle_read_eof(&mut self, id: StreamId, now: Instant) {
                self.mux.handle_read_eof(id, now);
            }

            fn handle_socket_error(&mut self, id: StreamId, now: Instant) {
                self.mux.handle_socket_error(id, now);
            }

            fn pending_write(&self, id: StreamId) -> impl Iterator<Item = &Bytes> {
                self.mux.pending_write(id)
            }

            fn written(&mut self, id: StreamId, bytes: usize, now: Instant) {
                self.mux.written(id, bytes, now);
            }

            fn take_shutdown(&mut self, id: StreamId, now: Instant) -> bool {
                self.mux.take_shutdown(id, now)
            }

            fn handle_dialed(&mut self, id: StreamId, result: Result<(), Reason>, now: Instant) {
                self.mux.handle_dialed(id, result, now);
            }

            fn stream_infos(&self) -> Vec<StreamInfo> {
                self.mux.stream_infos().collect()
            }

            fn link_infos(&self) -> Vec<LinkInfo> {
                self.mux.link_infos().collect()
            }
        }
    };
}
pub(crate) use machine_over_mux;
