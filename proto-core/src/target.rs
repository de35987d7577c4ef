//! What may be dialed at the edge.
