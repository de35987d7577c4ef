//! Who somebody is and what they may reach: parsing and comparing, without files, hashes of passwords, or clocks.
mod bearer;
mod rights;
mod secret;
mod tokens;

pub use bearer::{BearerError, EdgeBearer, TOKEN_BYTES_MAX};
pub use rights::{Glob, GlobError, Ports, Rights, USER_NAME_BYTES_MAX, UserName};
pub use secret::Secret;
pub use tokens::{LineError, Tokens};
