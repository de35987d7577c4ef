//! What a stream says next, in either dialect.

use super::attachment::Introduction;
use super::{Phase, Role, Stream};
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::time::Instant;
use crate::wire::{Dialect, Kind, base_connect_data};
use bytes::Bytes;

impl Stream {
    pub(crate) fn has_control(&self, now: Instant) -> bool {
        self.introduction_due
            || self.closed_is_due()
            || (self.introduced
                && self.ended().is_none()
                && self.dialect == Dialect::V1
                && (self.replay.eof_due() || self.receive.wants_window(now)))
    }

    /// `closed` goes before content that nobody wants any more, and behind content that was taken in good order.
    fn closed_is_due(&self) -> bool {
        self.closed_due.is_some() && self.replay.is_drained()
    }

    /// The next message that is not content.
    pub(crate) fn next_control(&mut self, now: Instant) -> Option<StreamMsg> {
        if self.introduction_due {
            self.introduction_due = false;
            return Some(self.introduction());
        }
        if self.closed_is_due() {
            let reason = self.closed_due.take()?;
            if self.role == Role::Opener && !self.introduced && self.connected_at.is_none() {
                return None; // The other side never heard of it.
            }
            return Some(self.closed_msg(reason));
        }
        if !self.introduced || self.ended().is_some() || self.dialect == Dialect::Base {
            return None;
        }
        if self.replay.eof_due() {
            self.replay.eof_sent();
            self.await_ack(now);
            return Some(StreamMsg {
                offset: self.replay.end(),
                ..self.message(Kind::Eof)
            });
        }
        if self.receive.wants_window(now) {
            return Some(self.with_credit(Kind::Window));
        }
        None
    }

    pub(crate) fn has_content(&self) -> bool {
        self.introduced
            && self.replay.has_content()
            && (self.phase != Phase::Opening || self.dialect == Dialect::V1)
    }

    /// The next content, at most `bytes_max` of payload.
    pub(crate) fn next_content(&mut self, bytes_max: usize, now: Instant) -> Option<StreamMsg> {
        if !self.has_content() {
            return None;
        }
        let (offset, data) = self.replay.next(bytes_max)?;
        self.await_ack(now);
        Some(match self.dialect {
            Dialect::V1 => StreamMsg {
                offset,
                data,
                want_ack: self.replay.wants_ack(),
                ..self.with_credit(Kind::Content)
            },
            Dialect::Base => StreamMsg {
                data,
                ..self.message(Kind::TcpForward)
            },
        })
    }

    fn introduction(&mut self) -> StreamMsg {
        match (self.role, self.phase) {
            (Role::Opener, _) if self.connected_at.is_some() => StreamMsg {
                addr: self.identity.addr.clone(),
                user: self.identity.user.clone(),
                data: self.instance().as_bytes().to_vec().into(),
                key: self.proof(Kind::Resume),
                ..self.with_credit_anew(Kind::Resume)
            },
            (Role::Opener, _) => {
                self.introduced = true;
                let connecting = StreamMsg {
                    addr: self.identity.addr.clone(),
                    ..self.message(Kind::Connecting)
                };
                match self.dialect {
                    Dialect::V1 => StreamMsg {
                        key: self.key.to_wire(),
                        limit: self.receive.limit(),
                        user: self.identity.user.clone(),
                        ..connecting
                    },
                    Dialect::Base => StreamMsg {
                        data: base_connect_data(&self.identity.addr).into(),
                        ..connecting
                    },
                }
            }
            (Role::Acceptor, Phase::Ended(reason)) if reason != Reason::Done => {
                let failed = self.message(Kind::ConnectFailed);
                match self.dialect {
                    Dialect::V1 => StreamMsg {
                        code: reason.code(),
                        ..failed
                    },
                    Dialect::Base => StreamMsg {
                        data: Bytes::from_static(reason.as_str().as_bytes()),
                        ..failed
                    },
                }
            }
            // Complete, by the grace's end, before it has answered: that is no failure.
            (Role::Acceptor, Phase::Opening | Phase::Open | Phase::Ended(_)) => {
                self.introduced = true;
                let data = self.instance().as_bytes().to_vec().into();
                match (self.dialect, self.answers()) {
                    (Dialect::Base, _) => self.message(Kind::Connected),
                    (Dialect::V1, Introduction::Connect) => StreamMsg {
                        data,
                        ..self.with_credit_anew(Kind::Connected)
                    },
                    (Dialect::V1, Introduction::Resume) => StreamMsg {
                        data,
                        key: self.proof(Kind::Resumed),
                        ..self.with_credit_anew(Kind::Resumed)
                    },
                }
            }
        }
    }

    fn proof(&self, kind: Kind) -> Bytes {
        let topic = self.identity.topic.as_str();
        Bytes::copy_from_slice(&self.key.proof(kind, topic, self.epoch))
    }

    fn closed_msg(&self, reason: Reason) -> StreamMsg {
        let closed = self.message(Kind::Closed);
        match self.dialect {
            Dialect::V1 => StreamMsg {
                code: reason.code(),
                ..closed
            },
            Dialect::Base => StreamMsg {
                data: Bytes::from_static(reason.as_str().as_bytes()),
                ..closed
            },
        }
    }

    fn with_credit_anew(&mut self, kind: Kind) -> StreamMsg {
        self.receive.promise_anew();
        self.with_credit(kind)
    }

    fn with_credit(&mut self, kind: Kind) -> StreamMsg {
        self.receive.told();
        StreamMsg {
            ack: self.receive.ack(),
            limit: self.receive.limit(),
            ..self.message(kind)
        }
    }

    fn message(&self, kind: Kind) -> StreamMsg {
        let identity = &self.identity;
        StreamMsg {
            node: identity.node.clone(),
            category: identity.category.clone(),
            r#type: kind.as_str().into(),
            topic: identity.topic.as_str().into(),
            epoch: match self.dialect {
                Dialect::V1 => self.epoch,
                Dialect::Base => 0,
            },
            ..StreamMsg::default()
        }
    }
}
