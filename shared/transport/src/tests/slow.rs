//! Tests with peers that send or read bytes very slowly.

use std::time::Duration;

use bytes::Bytes;
use protocol::v1::{DeviceRequest, HubResponse};

use super::pair::{Pair, pattern, request, response};
use crate::{ExchangeError, Limits, Priority};

/// Returns limits under which a trickle is too slow within a second.
fn impatient() -> Limits {
    Limits { rate_window: Duration::from_millis(400), rate_bytes_min: 10_000, ..Limits::hub() }
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up_though_it_never_pauses() {
    let pair = Pair::with(Limits::agent(), impatient()).await;
    let mut asking = pair.device.open(Priority::Inference).await.unwrap();
    asking.send_head(&request(1_000_000)).await.unwrap();
    let trickle = async {
        loop {
            if asking.send_piece(Bytes::from_static(b"8 bytes.")).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let read = async {
        let mut exchange = pair.hub.accept().await.unwrap();
        let _asked: DeviceRequest = exchange.receive().await.unwrap();
        exchange.read_body(u64::MAX).await.unwrap_err()
    };
    let ((), error) = tokio::join!(trickle, read);
    assert!(matches!(error, ExchangeError::Stalled { what: "a body", .. }), "{error:?}");
}

#[tokio::test]
async fn a_response_that_is_taken_in_a_trickle_is_given_up() {
    // The device's window has 64 bytes, which it reads one by one.
    let narrow = Limits { stream_window_bytes: 64, connection_window_bytes: 64 * 1024, ..Limits::agent() };
    let pair = Pair::with(narrow, impatient()).await;
    let mut asking = pair.device.open(Priority::Inference).await.unwrap();
    asking.send_last(&request(0), &[]).await.unwrap();
    let answer = async {
        let mut exchange = pair.hub.accept().await.unwrap();
        let _asked: DeviceRequest = exchange.receive().await.unwrap();
        exchange.send_head(&response(1_000_000)).await.unwrap();
        exchange.send_piece(pattern(1_000_000)).await.unwrap_err()
    };
    let trickle = async {
        let _answer: HubResponse = asking.receive().await.unwrap();
        while asking.body_chunk(8).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (error, ()) = tokio::join!(answer, trickle);
    assert!(matches!(error, ExchangeError::Unread { .. }), "{error:?}");
}

#[tokio::test]
async fn a_piece_beyond_what_was_announced_is_refused() {
    let pair = Pair::new().await;
    let mut asking = pair.device.open(Priority::Inference).await.unwrap();
    asking.send_head(&request(10)).await.unwrap();
    asking.send_piece(pattern(6)).await.unwrap();
    let error = asking.send_piece(pattern(5)).await.unwrap_err();
    assert!(matches!(error, ExchangeError::BodyLength { announced: 4, given: 5 }), "{error:?}");
}
