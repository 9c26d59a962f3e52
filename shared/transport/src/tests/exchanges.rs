//! Tests of typed messages and bodies, cancellation, and the end of connections.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use protocol::v1::{DeviceRequest, DeviceResponse, HubRequest, HubResponse, Offer, Refusal, RefusalCode};

use super::pair::{Pair, ask, echo, pattern, request, response};
use crate::exchange::ResetCode;
use crate::{Cancelled, CloseCode, CloseReason, ExchangeError, Limits, Priority};

#[tokio::test]
async fn a_question_and_its_answer_carry_their_bodies() {
    let pair = Pair::new().await;
    for bytes in [0, 1, 1000, 3_000_000] {
        tokio::join!(ask(&pair.device, bytes), echo(&pair.hub));
    }
    let traffic = pair.device.traffic();
    assert!(traffic.bytes_sent > 3_000_000 && traffic.bytes_received > 3_000_000, "{traffic:?}");
}

#[tokio::test]
async fn the_hub_asks_its_device_on_the_same_connection() {
    let pair = Pair::new().await;
    let offer = HubRequest::Offer(Offer { model: "digits".parse().unwrap(), version: types::Version::new(2).unwrap() });
    let hub = async {
        let (answer, _): (DeviceResponse, _) = pair.hub.request(Priority::Control, &offer, &[]).await.unwrap();
        assert_eq!(answer, DeviceResponse::Accepted);
    };
    let device = async {
        let mut exchange = pair.device.accept().await.unwrap();
        assert_eq!(exchange.receive::<HubRequest>().await.unwrap(), offer);
        exchange.send_last(&DeviceResponse::Accepted, &[]).await.unwrap();
        exchange.delivered().await.unwrap();
    };
    tokio::join!(hub, device);
}

#[tokio::test]
async fn a_body_is_read_in_pieces_of_any_size() {
    let pair = Pair::new().await;
    let hub = async {
        let mut exchange = pair.hub.accept().await.unwrap();
        exchange.receive::<DeviceRequest>().await.unwrap();
        let mut body = Vec::new();
        while let Some(chunk) = exchange.body_chunk(777).await.unwrap() {
            assert!(chunk.len() <= 777);
            body.extend_from_slice(&chunk);
        }
        assert_eq!((Bytes::from(body), exchange.body_left()), (pattern(10_000), 0));
        exchange.send_last(&HubResponse::Accepted, &[]).await.unwrap();
    };
    let parts = [pattern(10_000).slice(..1), Bytes::new(), pattern(10_000).slice(1..)];
    let question = request(10_000);
    let (asked, ()) = tokio::join!(pair.device.request::<_, HubResponse>(Priority::Inference, &question, &parts), hub);
    assert_eq!(asked.unwrap().0, HubResponse::Accepted);
}

#[tokio::test]
async fn a_body_that_is_not_what_its_message_says_is_not_sent() {
    let pair = Pair::new().await;
    let mut exchange = pair.device.open(Priority::Inference).await.unwrap();
    let wrong = exchange.send(&request(10), &[pattern(9)]).await;
    assert!(matches!(wrong, Err(ExchangeError::BodyLength { announced: 10, given: 9 })));
}

#[tokio::test]
async fn dropping_a_question_cancels_the_work_for_it() {
    let pair = Pair::new().await;
    let mut asking = pair.device.open(Priority::Inference).await.unwrap();
    asking.send_last(&request(3), &[pattern(3)]).await.unwrap();
    let mut asked = pair.hub.accept().await.unwrap();
    asked.receive::<DeviceRequest>().await.unwrap();
    asked.read_body(3).await.unwrap();
    let cancelled = asked.cancelled();
    assert!(asked.cancelled().now_or_never().is_none(), "nobody has cancelled yet");
    drop(asking);
    assert_eq!(cancelled.await, Cancelled::ByPeer(ResetCode::Withdrawn));
    let late = asked.send(&response(0), &[]).await;
    assert!(matches!(late, Err(ExchangeError::Cancelled(ResetCode::Withdrawn))), "{late:?}");
}

#[tokio::test]
async fn dropping_half_a_question_cancels_it_too() {
    let pair = Pair::new().await;
    let mut asking = pair.device.open(Priority::Inference).await.unwrap();
    asking.send(&request(3), &[pattern(3)]).await.unwrap();
    let mut asked = pair.hub.accept().await.unwrap();
    asked.receive::<DeviceRequest>().await.unwrap();
    drop(asking);
    assert!(matches!(asked.cancelled().await, Cancelled::ByPeer(ResetCode::Withdrawn)));
}

#[tokio::test]
async fn dropping_what_was_asked_tells_the_asker() {
    let pair = Pair::new().await;
    let question = request(0);
    let asking = pair.device.request::<_, HubResponse>(Priority::Inference, &question, &[]);
    let dropping = async { drop(pair.hub.accept().await.unwrap()) };
    let (asked, ()) = tokio::join!(asking, dropping);
    assert!(matches!(asked, Err(ExchangeError::Cancelled(_))), "{asked:?}");
}

#[tokio::test]
async fn losing_the_connection_cancels_what_was_going_on() {
    let pair = Pair::new().await;
    let mut asking = pair.device.open(Priority::Inference).await.unwrap();
    asking.send_last(&request(0), &[]).await.unwrap();
    let asked = pair.hub.accept().await.unwrap();
    pair.device.close(CloseCode::Done, "enough");
    let expected = CloseReason::ByPeer { code: CloseCode::Done, reason: "enough".to_owned() };
    assert_eq!(asked.cancelled().await, Cancelled::ConnectionLost(expected.clone()));
    assert_eq!(pair.hub.closed().await, expected);
    let lost = asking.receive::<HubResponse>().await.unwrap_err();
    assert!(lost.is_connection_lost());
}

#[tokio::test]
async fn an_answered_exchange_is_cancelled_by_nobody() {
    let pair = Pair::new().await;
    let mut asking = pair.device.open(Priority::Inference).await.unwrap();
    asking.send_last(&request(0), &[]).await.unwrap();
    let mut asked = pair.hub.accept().await.unwrap();
    asked.receive::<DeviceRequest>().await.unwrap();
    asked.send_last(&response(0), &[]).await.unwrap();
    asking.receive::<HubResponse>().await.unwrap();
    asked.delivered().await.unwrap();
    drop(asking);
    tokio::join!(ask(&pair.device, 1), echo(&pair.hub));
    assert!(asked.cancelled().now_or_never().is_none());
}

#[tokio::test]
async fn a_refusal_is_heard_before_the_whole_question_is_sent() {
    let pair = Pair::new().await;
    let hub = async {
        let mut exchange = pair.hub.accept().await.unwrap();
        exchange.receive::<DeviceRequest>().await.unwrap();
        let refusal = Refusal::new(RefusalCode::Busy, "the queue is full");
        exchange.send_last(&HubResponse::Refused(refusal), &[]).await.unwrap();
    };
    // Far more than the hub's window: the request cannot be sent completely while it is not read.
    let (question, body) = (request(32 << 20), [pattern(32 << 20)]);
    let (asked, ()) = tokio::join!(pair.device.request::<_, HubResponse>(Priority::Inference, &question, &body), hub);
    let (answer, _) = asked.unwrap();
    assert!(matches!(answer, HubResponse::Refused(refusal) if refusal.code == RefusalCode::Busy));
    tokio::join!(ask(&pair.device, 2_000_000), echo(&pair.hub));
}

#[tokio::test]
async fn a_body_over_the_callers_limit_is_refused_and_can_still_be_answered() {
    let pair = Pair::new().await;
    let hub = async {
        let mut exchange = pair.hub.accept().await.unwrap();
        exchange.receive::<DeviceRequest>().await.unwrap();
        let refused = exchange.read_body(1000).await;
        assert!(matches!(refused, Err(ExchangeError::BodyTooLarge { length: 1001, max: 1000 })), "{refused:?}");
        let refusal = Refusal::new(RefusalCode::TooLarge, "at most 1000 bytes");
        exchange.send_last(&HubResponse::Refused(refusal), &[]).await.unwrap();
    };
    let (question, body) = (request(1001), [pattern(1001)]);
    let (asked, ()) = tokio::join!(pair.device.request::<_, HubResponse>(Priority::Inference, &question, &body), hub);
    assert!(matches!(asked.unwrap().0, HubResponse::Refused(_)));
}

#[tokio::test]
async fn who_opens_too_many_exchanges_waits() {
    let pair = Pair::with(Limits::agent(), Limits { streams: 2, ..Limits::hub() }).await;
    let mut first = pair.device.open(Priority::Inference).await.unwrap();
    let _second = pair.device.open(Priority::Inference).await.unwrap();
    first.send_last(&request(0), &[]).await.unwrap();
    assert!(pair.device.open(Priority::Inference).now_or_never().is_none(), "a third must wait");
    let finishing = async {
        echo(&pair.hub).await;
        first.receive::<HubResponse>().await.unwrap();
    };
    let (third, ()) = tokio::join!(pair.device.open(Priority::Inference), finishing);
    assert!(third.is_ok());
}

#[tokio::test]
async fn a_busy_device_gets_all_its_streams_and_an_idle_one_few() {
    let limits = Limits { streams: 6, streams_at_first: 2, ..Limits::hub() };
    let pair = Pair::with(Limits::agent(), limits).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(pair.device.open(Priority::Inference).await.unwrap());
    }
    assert!(pair.device.open(Priority::Inference).now_or_never().is_none(), "a third must wait");
    assert!(!pair.hub.is_short_of_streams(0) && pair.hub.is_short_of_streams(1));
    pair.hub.allow_all_streams();
    for _ in 2..6 {
        open.push(pair.device.open(Priority::Inference).await.unwrap());
    }
    assert!(pair.device.open(Priority::Inference).now_or_never().is_none(), "a seventh must wait");
    // A side whose limits are the same from the begin never runs short.
    assert!(!pair.device.is_short_of_streams(usize::MAX));
}

#[tokio::test]
async fn a_request_that_someone_waits_for_overtakes_files() {
    const MIB: usize = 1 << 20;
    // Everything fits into the sender's buffer, and a quarter of a file is in flight when the request begins.
    let device = Limits { send_window_bytes: 16 << 20, ..Limits::agent() };
    let hub = Limits { connection_window_bytes: 256 << 10, streams_at_first: 64, ..Limits::hub() };
    let pair = Pair::with(device, hub).await;
    let mut files = Vec::new();
    for _ in 0..8 {
        files.push(pair.device.open(Priority::Artifact).await.unwrap());
    }
    let mut waited_for = pair.device.open(Priority::Inference).await.unwrap();
    let sending = async {
        let (question, body) = (request(MIB), [pattern(MIB)]);
        let files = files.iter_mut().map(|file| file.send(&question, &body));
        // The request begins last, when the files already occupy the connection.
        let (sent, last) = tokio::join!(futures_util::future::join_all(files), waited_for.send(&question, &body));
        sent.into_iter().chain([last]).for_each(|sent| sent.unwrap());
    };
    let receiving = async {
        let mut readers = tokio::task::JoinSet::new();
        let mut order = Vec::new();
        for number in 0..9 {
            let mut exchange = pair.hub.accept().await.unwrap();
            readers.spawn(async move {
                exchange.receive::<DeviceRequest>().await.unwrap();
                exchange.read_body(u64::MAX).await.unwrap();
                (number, exchange)
            });
        }
        // Kept until all are read, so that none is reset while others are in flight.
        let mut read = Vec::new();
        while let Some(done) = readers.join_next().await {
            let (number, exchange) = done.unwrap();
            order.push(number);
            read.push(exchange);
        }
        order
    };
    let ((), order) = tokio::join!(sending, receiving);
    // It began last and is as large as a file. Without priorities it ends in the middle (observed: fourth).
    let place = order.iter().position(|&number| number == 8).unwrap();
    assert!(place <= 1, "files finished before the request: {order:?}");
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_given_up() {
    let limits = Limits { idle: Duration::from_millis(300), keep_alive: None, ..Limits::agent() };
    let pair = Pair::with(limits, Limits::hub()).await;
    // Neither side sends keep-alives, so both see it end.
    assert_eq!(pair.device.closed().await, CloseReason::Silent);
    assert_eq!(pair.hub.closed().await, CloseReason::Silent);
    assert_eq!(pair.device.open(Priority::Control).await.unwrap_err(), CloseReason::Silent);
}

#[tokio::test]
async fn a_keep_alive_holds_a_quiet_connection() {
    let idle = Duration::from_millis(400);
    let limits = Limits { idle, keep_alive: Some(idle / 8), ..Limits::agent() };
    let pair = Pair::with(limits, Limits::hub()).await;
    let outlived = tokio::time::timeout(idle * 4, pair.device.closed()).await;
    assert!(outlived.is_err(), "it ended: {outlived:?}");
}

#[tokio::test]
async fn a_close_reaches_the_peer_with_its_reason() {
    let pair = Pair::new().await;
    let long = "x".repeat(1000);
    pair.hub.close(CloseCode::Replaced, &long);
    let CloseReason::ByPeer { code, reason } = pair.device.closed().await else { panic!("not closed by the peer") };
    assert_eq!(code, CloseCode::Replaced);
    assert!(long.starts_with(&reason) && !reason.is_empty());
    assert_eq!(pair.hub.close_reason(), Some(CloseReason::Here));
    pair.device.drain().await;
}

#[test]
fn every_close_code_reads_back_as_it_was_written() {
    for number in 0..20 {
        assert_eq!(CloseCode::from_number(number).number(), u32::try_from(number).unwrap());
    }
    assert_eq!(CloseCode::Revoked.number(), 3, "the numbers are the wire's");
    assert_eq!(CloseCode::from_number(u64::MAX), CloseCode::Other(u32::MAX));
}
