//! Why a stream, a dial or a CONNECT ended.
