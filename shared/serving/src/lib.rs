//! The inference servers of both daemons over one trait.
