//! Tests with a peer that violates the protocol on raw streams: it is refused, and uses no more than its limits.

use std::time::Duration;

use protocol::v1::{DeviceRequest, HubRequest};
use protocol::{DecodeError, FrameHeader, Message, encode};

use super::pair::{NAME, Site, pattern, request, response};
use crate::{Connection, ExchangeError, Limits, Listener, ListenerConfig};

/// Returns a raw QUIC connection of an honest device, and the hub's side of it.
async fn raw() -> (quinn::Connection, Connection, Listener, quinn::Endpoint) {
    let site = Site::new();
    let limits = Limits { frame: Duration::from_millis(200), body_pause: Duration::from_millis(200), ..Limits::hub() };
    let mut listener = Listener::bind(&ListenerConfig { limits, ..site.listener_config() }).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let quic = site.dialer(Some(site.device("camera-1"))).quic();
    let connecting = endpoint.connect_with(quic, listener.local_addr().unwrap(), NAME).unwrap();
    let (device, hub) = tokio::join!(connecting, listener.accept());
    (device.unwrap(), hub.unwrap(), listener, endpoint)
}

/// Sends these bytes on a new stream; returns the hub's error and the code by which the stream was stopped.
async fn refused(bytes: &[u8], finish: bool) -> (ExchangeError, Option<u64>) {
    let (device, hub, _listener, _endpoint) = raw().await;
    let (mut send, _receive) = device.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    if finish {
        send.finish().unwrap();
    }
    let mut exchange = hub.accept().await.unwrap();
    let error = match exchange.receive::<DeviceRequest>().await {
        Err(error) => error,
        Ok(_message) => exchange.read_body(u64::MAX).await.unwrap_err(),
    };
    drop(exchange);
    let code = send.stopped().await.unwrap().map(quinn::VarInt::into_inner);
    (error, code)
}

fn header(length: u32, kind: u16) -> Vec<u8> {
    FrameHeader { length, kind }.to_bytes().to_vec()
}

#[tokio::test]
async fn a_frame_over_its_limit_is_refused_unread() {
    let (error, code) = refused(&header(u32::MAX, DeviceRequest::KIND), false).await;
    assert!(matches!(error, ExchangeError::Decode(DecodeError::TooLarge { .. })), "{error:?}");
    assert_eq!(code, Some(2));
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_message_of_another_kind_is_refused() {
    let frame = encode(&HubRequest::Goodbye { reason: String::new(), retry_after_ms: None }).unwrap();
    let (error, code) = refused(&frame, false).await;
    assert!(matches!(error, ExchangeError::Decode(DecodeError::WrongKind { .. })), "{error:?}");
    assert_eq!(code, Some(3));
}

#[tokio::test]
async fn nonsense_in_a_lawful_frame_is_refused() {
    let mut frame = header(4, DeviceRequest::KIND);
    frame.extend_from_slice(&[0xff; 4]);
    let (error, code) = refused(&frame, false).await;
    assert!(matches!(error, ExchangeError::Decode(DecodeError::Malformed { .. })), "{error:?}");
    assert_eq!(code, Some(3));
}

#[tokio::test]
async fn a_message_that_never_ends_is_given_up() {
    let frame = encode(&request(0)).unwrap();
    for length in [1, 5, frame.len() - 1] {
        let (error, code) = refused(&frame[..length], false).await;
        assert!(matches!(error, ExchangeError::Stalled { what: "a message", .. }), "{error:?}");
        assert_eq!(code, Some(4));
        assert!(error.is_retryable());
    }
}

#[tokio::test]
async fn a_body_that_stops_is_given_up() {
    let mut bytes = encode(&request(100)).unwrap();
    bytes.extend_from_slice(&[7; 99]);
    let (error, code) = refused(&bytes, false).await;
    assert!(matches!(error, ExchangeError::Stalled { what: "a body", .. }), "{error:?}");
    assert_eq!(code, Some(4));
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_given_up() {
    let (device, hub, _listener, _endpoint) = raw().await;
    let (mut send, _never_read) = device.open_bi().await.unwrap();
    send.write_all(&encode(&request(0)).unwrap()).await.unwrap();
    let mut exchange = hub.accept().await.unwrap();
    let _request: DeviceRequest = exchange.receive().await.unwrap();
    // More than any peer allows before it reads.
    let (answer, body) = (response(16 * 1024 * 1024), [pattern(16 * 1024 * 1024)]);
    let sending = exchange.send_last(&answer, &body);
    let error = tokio::time::timeout(Duration::from_secs(20), sending).await.expect("sent for ever").unwrap_err();
    assert!(matches!(error, ExchangeError::Unread { .. }), "{error:?}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_message_or_body_cut_short_is_refused() {
    let frame = encode(&request(100)).unwrap();
    let (error, _) = refused(&frame[..3], true).await;
    assert!(matches!(error, ExchangeError::Truncated { .. }), "{error:?}");
    let (error, _) = refused(&frame[..frame.len() - 1], true).await;
    assert!(matches!(error, ExchangeError::Truncated { missing: 1 }), "{error:?}");
    let mut bytes = frame;
    bytes.extend_from_slice(&[7; 60]);
    let (error, _) = refused(&bytes, true).await;
    assert!(matches!(error, ExchangeError::Truncated { missing: 40 }), "{error:?}");
}

#[tokio::test]
async fn one_way_streams_and_datagrams_are_not_served() {
    let (device, _hub, _listener, _endpoint) = raw().await;
    assert_eq!(device.max_datagram_size(), None);
    use futures_util::FutureExt as _;
    assert!(device.open_uni().now_or_never().is_none(), "no one-way stream is allowed");
}
