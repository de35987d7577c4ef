//! Deterministic simulations of a whole fleet.
