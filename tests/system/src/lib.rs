//! Tests with real daemons; see the folder `tests`.
