//! The harness of the real tests.
