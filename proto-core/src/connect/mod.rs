//! The CONNECT front.
