//! Who is who, from the users file and from certificates, and what Kubernetes says of whom these don't know.
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto_core::auth::{EdgeBearer, Secret, UserName};
use proto_core::connect::ProxyCredentials;
use proto_core::hub::Standing;
use proto_core::name::NodeName;
use runtime_tokio::admin::Answer;
use runtime_tokio::cloud::{Denial, Directory, Identity, User};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tunnel_common::tls::CertIdentity;
use tunnel_common::users::{self, Login, Logins};

use crate::judge::Judge;

/// Slow verifications at once: each takes a core and tens of megabytes.
const VERIFICATIONS_MAX: usize = 2;

pub(crate) struct Users {
    logins: Arc<Logins>,
    slots: Arc<Semaphore>,
    judge: Option<Arc<Judge>>,
}

impl Users {
    pub(crate) fn new(logins: Arc<Logins>, judge: Option<Judge>) -> Users {
        Users {
            logins,
            slots: Arc::new(Semaphore::new(VERIFICATIONS_MAX)),
            judge: judge.map(Arc::new),
        }
    }

    /// Who may know these credentials if the users file doesn't, and the token among them.
    fn judge_of(&self, credentials: &ProxyCredentials) -> Option<(Arc<Judge>, Secret)> {
        let judge = self.judge.as_ref()?;
        if let ProxyCredentials::Basic { user, .. } = credentials
            && self.logins.by_name(user).is_some()
        {
            return None;
        }
        Some((judge.clone(), judge.token_of(credentials)?))
    }
}

/// A user of the file.
async fn of_file(
    logins: Arc<Logins>,
    slots: Arc<Semaphore>,
    credentials: ProxyCredentials,
) -> Result<User, Denial> {
    let user = match logins.quick(&credentials, Instant::now()) {
        Login::Known(user) => user,
        Login::Slow => {
            let slot = slots.acquire_owned().await;
            let verified = tokio::task::spawn_blocking(move || {
                // Held by the work itself: who asked may leave.
                let _slot = slot;
                logins.verify(&credentials, Instant::now())
            });
            verified.await.ok().flatten()
        }
    };
    user.as_deref().map(user_of).ok_or(Denial::WRONG)
}

impl Directory for Users {
    fn verify(
        &self,
        credentials: ProxyCredentials,
        node: Option<NodeName>,
    ) -> Answer<Result<User, Denial>> {
        let (logins, slots) = (self.logins.clone(), self.slots.clone());
        let Some((judge, token)) = self.judge_of(&credentials) else {
            return Box::pin(of_file(logins, slots, credentials));
        };
        Box::pin(async move {
            // The file comes first. A password that isn't there needs no hash to be known as wrong.
            if let ProxyCredentials::Bearer(_) = credentials
                && let Ok(user) = of_file(logins, slots, credentials).await
            {
                return Ok(user);
            }
            judge.operator(&token, node.as_ref()).await
        })
    }

    fn edge(&self, bearer: EdgeBearer) -> Option<Answer<Result<NodeName, Denial>>> {
        let judge = self.judge.clone().filter(|judge| judge.takes_edges())?;
        Some(Box::pin(async move { judge.edge(&bearer).await }))
    }

    fn user(&self, name: &UserName) -> Option<User> {
        self.logins.by_name(name).as_deref().map(user_of)
    }

    fn standing(&self, name: &UserName) -> Standing {
        match self.user(name) {
            Some(user) => Standing::May(user.rights),
            // The file has never known them; this replica, or another one, asks.
            None if Judge::knows(name) => Standing::Unknown,
            None => Standing::Gone,
        }
    }

    fn asks_every(&self) -> Option<Duration> {
        self.judge.as_ref()?.asks_every()
    }

    fn ask_standing(&self, name: &UserName, node: &NodeName) -> Answer<Standing> {
        let judge = self.judge.clone().filter(|_| Judge::knows(name));
        let (name, node) = (name.clone(), node.clone());
        Box::pin(async move {
            match judge {
                Some(judge) => judge.standing(&name, &node).await,
                None => Standing::Unknown,
            }
        })
    }

    fn identify(&self, certificate: &CertificateDer<'_>) -> Option<Identity> {
        match CertIdentity::of(certificate).ok()? {
            CertIdentity::Node(name) => Some(Identity::Node(name)),
            CertIdentity::User(name) => Some(Identity::User(name)),
            CertIdentity::Replica => Some(Identity::Replica),
        }
    }
}

fn user_of(user: &users::User) -> User {
    User {
        name: user.name.clone(),
        rights: user.rights.clone(),
        resume: user.resume,
        is_admin: user.is_admin,
    }
}
