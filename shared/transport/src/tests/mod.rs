//! Tests of the transport on real sockets over loopback.

mod admin;
mod certificates;
mod enrolment;
mod exchanges;
mod faults;
mod handshakes;
mod hostile;
mod pair;
mod restarts;
mod resumption;
mod sharing;
mod slow;
