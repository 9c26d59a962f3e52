//! One bad client against all others: what it can take is bounded, and everybody else is served.

use std::time::Duration;

use bytes::Bytes;
use protocol::v1::{BlobRange, DeviceRequest, HubResponse, InferRequest, TensorHeader};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use transport::{DeviceKey, Exchange, ExchangeError, Limits, Priority, Trust};
use types::{DType, Digest, Reason};

use super::device::{Device, dialer, dialer_with, enrol};
use super::flood::Flood;
use super::site::{PATIENCE, Site, golden, until};

/// Time after which a place may be taken by a newcomer of the same address, and some.
const SETTLED: Duration = Duration::from_millis(1200);

/// Bytes that a hostile request announces: near the most that is lawful.
const ANNOUNCED: u64 = 48 * 1024 * 1024;

fn announcing(bytes: u64) -> DeviceRequest {
    DeviceRequest::Infer(InferRequest {
        request_id: "r1".parse().unwrap(),
        model: "digits".parse().unwrap(),
        version: None,
        reason: Reason::Policy,
        deadline_left_ms: None,
        traceparent: None,
        outputs: Vec::new(),
        tensors: vec![TensorHeader { name: "image".to_owned(), dtype: DType::U8, shape: vec![bytes], bytes }],
    })
}

/// Begins a request with a large body and sends eight bytes of it, unless the hub refuses it before that.
async fn begin_body(device: &Device) -> Exchange {
    let mut exchange = device.connection.open(Priority::Inference).await.unwrap();
    exchange.send_head(&announcing(ANNOUNCED)).await.unwrap();
    match exchange.send_piece(Bytes::from_static(b"8 bytes.")).await {
        Ok(()) | Err(ExchangeError::Cancelled(_)) => exchange,
        Err(error) => panic!("the piece was not sent: {error}"),
    }
}

async fn expect_answers(device: &Device) {
    let inputs = golden().inputs;
    for _ in 0..3 {
        device.infer(&inputs, None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_announced_and_not_sent_take_nothing_from_others() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let (slow, other) = (site.device("slow").await, site.device("other").await);
    let all = site.hub.services.limits.request_memory.free();
    let mut held = Vec::new();
    for _ in 0..32 {
        held.push(begin_body(&slow).await);
    }
    // All of them are being read: the hub holds what came, not what was announced.
    until("the bodies begin", async || all - site.hub.services.limits.request_memory.free() >= 32 * 8).await;
    assert!(all - site.hub.services.limits.request_memory.free() < ANNOUNCED);
    expect_answers(&other).await;
    // Nor do resets, over and over, leave anything behind. The hub may refuse a request before it has noticed the reset of another.
    for exchange in &mut held {
        *exchange = begin_body(&slow).await;
    }
    drop(held);
    until("everything is given back", async || site.hub.services.limits.request_memory.free() == all).await;
    expect_answers(&slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_sends_all_it_announces_gets_a_quarter_of_the_memory_and_is_then_told_busy() {
    let site = Site::start_with(|config| config.gateway.request_bytes_max = 256 * 1024 * 1024).await;
    site.push("v1", &[]).await;
    let (greedy, other) = (site.device("greedy").await, site.device("other").await);
    let all = site.hub.services.limits.request_memory.free();
    let piece = Bytes::from(vec![0; 1024 * 1024]);
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..3 {
        let mut exchange = greedy.connection.open(Priority::Inference).await.unwrap();
        exchange.send_head(&announcing(ANNOUNCED)).await.unwrap();
        let mut sent = Ok(());
        // All but the last piece, so that the hub goes on waiting.
        for _ in 1..ANNOUNCED / (1024 * 1024) {
            sent = exchange.send_piece(piece.clone()).await;
            if sent.is_err() {
                break;
            }
        }
        refused += usize::from(sent.is_err());
        held.push(exchange);
        assert!(all - site.hub.services.limits.request_memory.free() <= all / 4);
    }
    assert_eq!(refused, 2, "48 of 256 MiB fit into a quarter once");
    expect_answers(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_opens_every_stream_and_sends_no_body_keeps_nobody_off() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let (mute, other) = (site.device("mute").await, site.device("other").await);
    let mut held = Vec::new();
    for _ in 0..Limits::hub().streams {
        let mut exchange = mute.connection.open(Priority::Control).await.unwrap();
        exchange.send_head(&announcing(ANNOUNCED)).await.unwrap();
        held.push(exchange);
    }
    expect_answers(&other).await;
}

/// A digest that devices may fetch, of the version that was pushed.
fn fetchable(site: &Site) -> Digest {
    let model = "digits".parse().unwrap();
    let current = site.hub.services.registry.current(&model).unwrap();
    let manifest = site.hub.services.registry.manifest(&model, current).unwrap();
    manifest.variants_for(types::Place::Device).next().unwrap().file.digest
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_read_slowly_stop_no_other_devices_updates() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let digest = fetchable(&site);
    let mut held = Vec::new();
    // More devices than there were turns, each with as many streams as it may have and windows of 64 bytes.
    for number in 0..20 {
        let token = site.token(&format!("slow-{number}")).await;
        let key = DeviceKey::generate().unwrap();
        let enrolled = enrol(&token, &key).await.unwrap();
        let identity = key.identity(&enrolled.chain_der).unwrap();
        let limits = Limits { stream_window_bytes: 64, connection_window_bytes: 64 * 64, ..Limits::agent() };
        let dialer = dialer_with(&token, Some(identity), Trust::CaDer(enrolled.ca_der.clone()), limits);
        let connection = dialer.dial(&token.hub).await.unwrap();
        for _ in 0..8 {
            let mut exchange = connection.open(Priority::Artifact).await.unwrap();
            let range = BlobRange { digest, offset: 0, length: 1 << 20 };
            exchange.send_last(&DeviceRequest::Blob(range), &[]).await.unwrap();
            held.push(exchange);
        }
        held.reserve(1);
        drop(connection);
    }
    let other = site.device("other").await;
    for _ in 0..5 {
        let (bytes, total) = other.blob(digest, 0, 1 << 20).await.unwrap();
        assert_eq!(bytes.len() as u64, total.min(1 << 20));
    }
    expect_answers(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_not_taken_counts_as_the_memory_of_its_device() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let (lazy, other) = (site.device("lazy").await, site.device("other").await);
    let all = site.hub.services.limits.request_memory.free();
    let inputs = golden().inputs;
    for _ in 0..8 {
        lazy.infer(&inputs, None).await.unwrap();
    }
    expect_answers(&other).await;
    until("responses that arrived are given back", async || site.hub.services.limits.request_memory.free() == all)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_half_handshakes_does_not_keep_a_device_off() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let device = site.device("camera").await;
    let token = device.token.clone();
    let flood = Flood::start(&token, 200).await;
    // More than 64: the flood has proven its address, as every attacker can that has one.
    until("the flood holds places", async || site.hub.services.limits.handshakes.held() >= 80).await;
    for _ in 0..5 {
        let connection = tokio::time::timeout(PATIENCE, device.dialer.dial(&token.hub)).await.unwrap().unwrap();
        connection.close(transport::CloseCode::Done, "");
    }
    // A machine that the hub has never seen may enrol meanwhile.
    let again = site.device("newcomer").await;
    expect_answers(&again).await;
    drop(flood);
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolments_that_are_never_begun_do_not_keep_a_device_from_joining() {
    let site = Site::start().await;
    let token = site.token("camera").await;
    let mut idle = Vec::new();
    for _ in 0..140 {
        let dialer = dialer(&token, None, Trust::CaFingerprint(token.ca));
        // Beyond its share the address is turned away until its oldest place has settled.
        idle.extend(dialer.dial(&token.hub).await);
    }
    assert!(idle.len() > 100, "{} idle enrolments hold places", idle.len());
    tokio::time::sleep(SETTLED).await;
    let key = DeviceKey::generate().unwrap();
    assert!(enrol(&token, &key).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_of_the_admin_api_do_not_keep_operators_off() {
    let site = Site::start().await;
    let status = site.operate(&["status"]).await;
    let address = status["listening"]["admin"].as_str().unwrap().to_owned();
    let mut slow = Vec::new();
    for number in 0..300_usize {
        let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
        // Some say nothing, some begin a TLS record that never ends.
        if number % 2 == 0 {
            stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.ok();
        }
        slow.push(stream);
    }
    tokio::time::sleep(SETTLED).await;
    for _ in 0..3 {
        assert_eq!(site.operate(&["status"]).await["devices"], 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_keep_a_scraper_off() {
    let site = Site::start().await;
    let status = site.operate(&["status"]).await;
    let address = status["listening"]["metrics"].as_str().unwrap().to_owned();
    let mut idle = Vec::new();
    for _ in 0..60 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /metr").await.ok();
        idle.push(stream);
    }
    tokio::time::sleep(SETTLED).await;
    let mut scrapes = JoinSet::new();
    scrapes.spawn(async move {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut text).await.unwrap();
        assert!(String::from_utf8_lossy(&text).starts_with("HTTP/1.1 200"));
    });
    tokio::time::timeout(PATIENCE, scrapes.join_next()).await.unwrap().unwrap().unwrap();
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_refused_says_so_before_its_body_came() {
    let site = Site::start_with(|config| config.gateway.requests_per_device_max = 1).await;
    site.push("v1", &[]).await;
    let device = site.device("camera").await;
    let all = site.hub.services.limits.request_memory.free();
    let _held = begin_body(&device).await;
    until("the first is being read", async || site.hub.services.limits.request_memory.free() < all).await;
    let mut second = begin_body(&device).await;
    let answer: HubResponse = tokio::time::timeout(PATIENCE, second.receive()).await.unwrap().unwrap();
    let HubResponse::Refused(refusal) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, protocol::v1::RefusalCode::Busy);
}
