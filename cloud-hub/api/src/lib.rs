//! Typed endpoints of the hub.
