//! Who is who, from the users file and from certificates.
use std::sync::Arc;
use std::time::Instant;

use proto_core::auth::UserName;
use proto_core::connect::ProxyCredentials;
use proto_core::name::NodeName;
use runtime_tokio::admin::Answer;
use runtime_tokio::cloud::{Denial, Directory, Identity, User};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tunnel_common::tls::CertIdentity;
use tunnel_common::users::{self, Login, Logins};

/// Slow verifications at once: each takes a core and tens of megabytes.
const VERIFICATIONS_MAX: usize = 2;

pub(crate) struct Users {
    logins: Arc<Logins>,
    slots: Arc<Semaphore>,
}

impl Users {
    pub(crate) fn new(logins: Arc<Logins>) -> Users {
        Users {
            logins,
            slots: Arc::new(Semaphore::new(VERIFICATIONS_MAX)),
        }
    }
}

impl Directory for Users {
    fn verify(
        &self,
        credentials: ProxyCredentials,
        _: Option<NodeName>,
    ) -> Answer<Result<User, Denial>> {
        let (logins, slots) = (self.logins.clone(), self.slots.clone());
        Box::pin(async move {
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
        })
    }

    fn user(&self, name: &UserName) -> Option<User> {
        self.logins.by_name(name).as_deref().map(user_of)
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
