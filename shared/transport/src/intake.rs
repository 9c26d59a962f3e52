//! The decision about newcomers, before any cryptography is spent on them.
//!
//! A listener asks its [`Intake`] about every new connection and obeys. The hub's own lives in its daemon and shares the
//! places by address; [`FirstCome`] is used where a listener is given none.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A peer that sent its first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newcomer {
    /// Source address of the packet.
    pub address: SocketAddr,
    /// Whether the peer proved that the address is its own (QUIC Retry, or a token of an earlier connection).
    pub is_proven: bool,
}

/// The decision about a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Begin the handshake. The place is given back with [`Intake::left`] when it ends.
    Admit {
        /// Names the place.
        place: u64,
    },
    /// End another handshake, whose place is free already, then begin this one.
    Replace {
        /// Names the newcomer's place.
        place: u64,
        /// Names the place of the handshake to end.
        evicted: u64,
    },
    /// Ask for a proof of the address (QUIC Retry), which costs no memory here.
    Prove,
    /// Refuse the connection.
    Refuse,
}

/// Decides about newcomers. Called for every first packet, so it must be quick and must not block.
pub trait Intake: Send + Sync + Debug {
    /// Decides about one newcomer.
    fn arrived(&self, newcomer: Newcomer) -> Judgement;

    /// Frees a place: its handshake has ended, whichever way.
    fn left(&self, place: u64);
}

/// Takes whoever comes first, up to a number of handshakes.
#[derive(Debug)]
pub(crate) struct FirstCome {
    handshakes: usize,
    before_retry: usize,
    busy: AtomicUsize,
}

impl FirstCome {
    pub(crate) fn new(handshakes: usize, before_retry: usize) -> Self {
        Self { handshakes, before_retry, busy: AtomicUsize::new(0) }
    }
}

impl Intake for FirstCome {
    fn arrived(&self, newcomer: Newcomer) -> Judgement {
        let busy = self.busy.load(Ordering::Relaxed);
        if busy >= self.handshakes {
            Judgement::Refuse
        } else if busy >= self.before_retry && !newcomer.is_proven {
            Judgement::Prove
        } else {
            self.busy.fetch_add(1, Ordering::Relaxed);
            Judgement::Admit { place: 0 }
        }
    }

    fn left(&self, _place: u64) {
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
