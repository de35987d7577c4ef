//! The cloud's names: where no name server answers, what it said last is used.
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::runtime::{Runtime, Task, within};

/// What each `host:port` was found to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    known: Arc<Mutex<HashMap<String, Known>>>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    /// A look-up is under way. Without an answer it lasts long, and a second one beside it would last as long.
    is_asked: bool,
}

impl Names {
    /// The addresses of `name`. A look-up that takes longer than `patience` goes on for those who ask later.
    pub(super) async fn find<R: Runtime>(
        &self,
        name: &str,
        patience: Option<Duration>,
    ) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let known = {
            let mut all = self.lock();
            let known = all.entry(name.to_owned()).or_default();
            if known.is_asked && !known.addresses.is_empty() {
                return Ok(known.addresses.clone());
            }
            known.is_asked = true;
            known.addresses.clone()
        };
        let (names, owned) = (self.clone(), name.to_owned());
        let (tell, asked) = oneshot::channel();
        let asking = R::spawn(async move {
            let found = R::look_up(owned.clone()).await;
            let mut all = names.lock();
            let known = all.entry(owned).or_default();
            known.is_asked = false;
            if let Ok(addresses) = &found {
                known.addresses.clone_from(addresses);
            }
            drop(all);
            let _ = tell.send(found);
        });
        asking.detach();
        let found = match patience.filter(|_| !known.is_empty()) {
            None => asked.await,
            Some(patience) => match within::<R, _>(patience, asked).await {
                Some(found) => found,
                None => return Ok(known),
            },
        };
        match found.map_err(io::Error::other)? {
            Err(_) if !known.is_empty() => Ok(known),
            found => found,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Testing;

    #[tokio::test]
    async fn an_address_is_its_own_answer_and_a_name_is_looked_up() {
        let names = Names::default();
        let found = names
            .find::<Testing>("192.0.2.1:9", None)
            .await
            .expect("an address");
        assert_eq!(found, ["192.0.2.1:9".parse().expect("an address")]);
        let found = names
            .find::<Testing>("localhost:9", None)
            .await
            .expect("a name");
        assert!(found.iter().all(|address| address.ip().is_loopback()));
    }

    #[tokio::test]
    async fn what_was_known_serves_while_nobody_answers() {
        let names = Names::default();
        let address: SocketAddr = "192.0.2.7:9".parse().expect("an address");
        let known = Known {
            addresses: vec![address],
            is_asked: true,
        };
        names.lock().insert("no-such-name.invalid:9".into(), known);
        let found = names.find::<Testing>("no-such-name.invalid:9", None).await;
        assert_eq!(found.expect("from memory"), [address]);
    }
}
