//! Who is who, from the users file and from certificates.
use std::sync::Arc;
use std::time::Instant;

use proto_core::auth::UserName;
use proto_core::connect::ProxyCredentials;
use runtime_tokio::admin::Answer;
use runtime_tokio::cloud::{Directory, Identity, User};
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
    fn verify(&self, credentials: ProxyCredentials) -> Answer<Option<User>> {
        let (logins, slots) = (self.logins.clone(), self.slots.clone());
        Box::pin(async move {
            if let Login::Known(user) = logins.quick(&credentials, Instant::now()) {
                return user.as_deref().map(user_of);
            }
            let _slot = slots.acquire_owned().await.ok()?;
            let verified =
                tokio::task::spawn_blocking(move || logins.verify(&credentials, Instant::now()))
                    .await;
            verified.ok().flatten().as_deref().map(user_of)
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
