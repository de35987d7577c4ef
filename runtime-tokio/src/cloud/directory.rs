//! Who is who: what the listeners ask of those who know.
use std::time::Duration;

use proto_core::auth::{EdgeBearer, Rights, UserName};
use proto_core::cloud::{Asker, LinkRefusal};
use proto_core::connect::ProxyCredentials;
use proto_core::hub::Standing;
use proto_core::name::NodeName;
use proto_core::output::GrpcCode;
use proto_core::reason::ConnectRefusal;
use rustls::pki_types::CertificateDer;

use crate::admin::Answer;

/// A user whose credentials were right.
#[derive(Clone, Debug)]
pub struct User {
    /// The name.
    pub name: UserName,
    /// What may be reached.
    pub rights: Rights,
    /// Whether this user's streams may outlive their links.
    pub resume: bool,
    /// Whether the API is open to this user.
    pub is_admin: bool,
}

impl User {
    pub(super) fn asker(&self) -> Asker<'_> {
        Asker {
            name: &self.name,
            rights: &self.rights,
        }
    }
}

/// Whom a certificate names.
#[derive(Clone, Debug)]
pub enum Identity {
    /// An edge node.
    Node(NodeName),
    /// A user.
    User(UserName),
    /// Another replica of the cluster.
    Replica,
}

/// Why a credential isn't taken. The texts are for its bearer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// It is nobody's, or doesn't prove what it is shown for.
    Wrong(&'static str),
    /// Who could tell can't be asked now: worth another try.
    Unavailable(&'static str),
}

impl Denial {
    /// The same answer for an unknown name and a wrong token.
    pub const WRONG: Denial = Denial::Wrong("the credential is missing or wrong");
    /// It proves another node than the one that is claimed.
    pub const ANOTHERS: Denial =
        Denial::Wrong("the credential is of another node than the one that is claimed");
    /// After so long it is worth another try.
    const PUSHBACK: Duration = Duration::from_secs(1);
}

impl From<Denial> for LinkRefusal {
    fn from(denial: Denial) -> LinkRefusal {
        match denial {
            Denial::Wrong(text) => LinkRefusal {
                code: GrpcCode::Unauthenticated,
                text,
                pushback: None,
            },
            Denial::Unavailable(text) => LinkRefusal {
                code: GrpcCode::Unavailable,
                text,
                pushback: Some(Denial::PUSHBACK),
            },
        }
    }
}

impl From<Denial> for ConnectRefusal {
    fn from(denial: Denial) -> ConnectRefusal {
        match denial {
            Denial::Wrong(_) => ConnectRefusal::AuthFailed,
            Denial::Unavailable(_) => ConnectRefusal::AuthUnavailable,
        }
    }
}

/// Who is who. Its answers may change at any time; each is for the moment.
pub trait Directory: Send + Sync + 'static {
    /// The user whose credentials these are, with the rights to a node, or whatever there are without one. May take a while:
    /// passwords are hashed slowly on purpose, and others may have to be asked.
    fn verify(
        &self,
        credentials: ProxyCredentials,
        node: Option<NodeName>,
    ) -> Answer<Result<User, Denial>>;
    /// The node of an edge whose token is in no file, as it is spelled where that is known. `None`: nobody else knows tokens.
    fn edge(&self, _bearer: EdgeBearer) -> Option<Answer<Result<NodeName, Denial>>> {
        None
    }
    /// A user whose name a certificate proved.
    fn user(&self, name: &UserName) -> Option<User>;
    /// Whom a verified certificate names.
    fn identify(&self, certificate: &CertificateDer<'_>) -> Option<Identity>;
    /// What a user may reach by now, as far as that is known without asking anybody.
    fn standing(&self, name: &UserName) -> Standing {
        match self.user(name) {
            Some(user) => Standing::May(user.rights),
            None => Standing::Gone,
        }
    }
    /// How often others are asked what their users still may, if there are such others.
    fn asks_every(&self) -> Option<Duration> {
        None
    }
    /// What one of those others' users may do with a node by now. Whoever can't be asked changes nothing.
    fn ask_standing(&self, _name: &UserName, _node: &NodeName) -> Answer<Standing> {
        Box::pin(std::future::ready(Standing::Unknown))
    }
}
