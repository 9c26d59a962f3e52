//! A token lets one key in, whatever the racers' interleaving.

use hub_core::tokens::{Claim, Redeemed, TokenRecord, mint, redeem};
use proptest::prelude::*;
use types::Digest;

/// One racer, between two steps of its enrolment.
#[derive(Debug, Clone)]
enum Racer {
    Begins,
    HasRead(TokenRecord),
    Over { certificate: bool },
}

/// The store's compare-and-set, which the shell uses (`Batch::expect`).
fn put_if(stored: &mut TokenRecord, expected: &TokenRecord, new: TokenRecord) -> bool {
    let same = stored == expected;
    if same {
        *stored = new;
    }
    same
}

/// One step of one racer: read, or judge and write.
fn step(racer: &Racer, stored: &mut TokenRecord, claim: &Claim, now: u64) -> Racer {
    match racer {
        Racer::Begins => Racer::HasRead(stored.clone()),
        Racer::HasRead(read) => match redeem(Some(read), claim, now) {
            Ok(Redeemed::First(used)) if put_if(stored, read, used.clone()) => Racer::Over { certificate: true },
            // Someone else wrote in between: read again.
            Ok(Redeemed::First(_)) => Racer::Begins,
            Ok(Redeemed::Again(_)) => Racer::Over { certificate: true },
            Err(_) => Racer::Over { certificate: false },
        },
        Racer::Over { certificate } => Racer::Over { certificate: *certificate },
    }
}

proptest! {
    #[test]
    fn of_any_racers_in_any_order_exactly_one_key_gets_a_certificate(
        keys in proptest::collection::vec(0..6_u8, 2..8),
        mut schedule in proptest::collection::vec(any::<usize>(), 0..40),
    ) {
        let mut stored = mint(Digest::of(b"secret"), None, 600, 0).unwrap();
        let claims: Vec<Claim> = keys.iter().enumerate().map(|(at, key)| Claim {
            device: format!("device-{at}").parse().unwrap(),
            key: Digest::of(&[*key]),
        }).collect();
        let mut racers = vec![Racer::Begins; claims.len()];
        // Whatever the schedule left undone is brought to its end.
        schedule.extend((0..racers.len()).flat_map(|racer| [racer; 6]));
        for pick in schedule {
            let at = pick % racers.len();
            racers[at] = step(&racers[at], &mut stored, &claims[at], 1);
        }
        let mut winners: Vec<Digest> = racers.iter().zip(&claims)
            .filter(|(racer, _)| matches!(racer, Racer::Over { certificate: true }))
            .map(|(_, claim)| claim.key)
            .collect();
        let over = racers.iter().all(|racer| matches!(racer, Racer::Over { .. }));
        prop_assert!(over);
        winners.sort_unstable();
        winners.dedup();
        prop_assert_eq!(winners.len(), 1);
    }
}
