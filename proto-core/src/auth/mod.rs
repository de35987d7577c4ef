//! Who it is and what they may reach.
