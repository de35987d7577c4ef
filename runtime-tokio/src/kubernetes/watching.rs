//! The changes of objects, as they come: a JSON object a line.
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kube::core::WatchEvent;

use super::error::with_causes;
use super::{Error, Kind, Objects, Why};

/// The longest line. An EndpointSlice of 1,000 nodes has about 200 KB.
const LINE_BYTES_MAX: usize = 8 << 20;

/// What became of an object.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// It is new, or another than before.
    Applied(K),
    /// It is gone; this is what it was.
    Deleted(K),
    /// Nothing; but the past up to this version need not be told again.
    Bookmark(String),
}

/// Changes that come. Dropped, it takes the connection with it.
#[derive(Debug)]
pub struct Watching<K> {
    objects: Objects<K>,
    body: Incoming,
    buffer: BytesMut,
    /// So much of the buffer has no end of a line in it.
    searched: usize,
}

impl<K: Kind> Watching<K> {
    pub(super) fn new(objects: Objects<K>, body: Incoming) -> Watching<K> {
        Watching {
            objects,
            body,
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    /// The next one; `None` when the server has ended it, as it does every few minutes. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Result<Change<K>, Error>> {
        loop {
            if let Some(line) = self.line() {
                return Some(self.read(&line));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Some(Err(
                    self.error(Why::Unintelligible("an endless line".into()))
                ));
            }
            match self.body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Err(error) => {
                    return Some(Err(self.error(Why::Unreachable(with_causes(&error)))));
                }
            }
        }
    }

    fn line(&mut self) -> Option<Bytes> {
        let found = self.buffer[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n');
        let Some(at) = found else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + at + 1);
        self.searched = 0;
        Some(line.freeze())
    }

    fn read(&self, line: &[u8]) -> Result<Change<K>, Error> {
        match serde_json::from_slice(line) {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                Ok(Change::Applied(object))
            }
            Ok(WatchEvent::Deleted(object)) => Ok(Change::Deleted(object)),
            Ok(WatchEvent::Bookmark(mark)) => Ok(Change::Bookmark(mark.metadata.resource_version)),
            Ok(WatchEvent::Error(status)) => Err(self.error(Why::Refused(status))),
            Err(error) => Err(self.error(Why::Unintelligible(error.to_string()))),
        }
    }

    fn error(&self, why: Why) -> Error {
        self.objects.error("watch", why)
    }
}
