//! Tests of resumed connections, which never reach rustls's verifier: the hub must check them nevertheless.

use super::pair::{GRACE, NAME, Site, connect};
use crate::server::admit;
use crate::{CloseCode, Connection, Listener, Peer};

/// Checks a connection as a hub does before it serves anything on it.
fn authorise(connection: &Connection, revoked: &str) -> bool {
    match connection.peer() {
        Peer::Device { id, .. } if id.as_str() == revoked => {
            connection.close(CloseCode::Revoked, "revoked by the operator");
            false
        }
        Peer::Device { .. } => true,
        Peer::Anonymous | Peer::Hub => false,
    }
}

/// Connects once with a full handshake and lets the device receive its tickets.
async fn first_visit(dialer: &crate::Dialer, listener: &mut Listener) {
    let (device, hub) = connect(dialer, listener).await;
    // Tickets follow the handshake; a completed exchange proves that they have arrived.
    tokio::join!(super::pair::ask(&device, 10), super::pair::echo(&hub));
    device.close(CloseCode::Done, "");
    hub.closed().await;
}

#[tokio::test]
async fn a_resumed_connection_carries_the_devices_identity() {
    let site = Site::new();
    let identity = site.device("camera-1");
    let key = identity.key_digest();
    let dialer = site.dialer(Some(identity));
    let mut listener = site.listener();
    first_visit(&dialer, &mut listener).await;
    assert_eq!(dialer.full_handshakes(), 1);
    let (_device, hub) = connect(&dialer, &mut listener).await;
    assert_eq!(dialer.full_handshakes(), 1, "the second connection was resumed");
    assert!(matches!(hub.peer(), Peer::Device { id, key: shown, .. } if id.as_str() == "camera-1" && *shown == key));
}

#[tokio::test]
async fn a_revoked_device_is_refused_also_when_it_resumes() {
    let site = Site::new();
    let dialer = site.dialer(Some(site.device("camera-1")));
    let mut listener = site.listener();
    first_visit(&dialer, &mut listener).await;
    let (device, hub) = connect(&dialer, &mut listener).await;
    assert_eq!(dialer.full_handshakes(), 1, "the second connection was resumed");
    assert!(!authorise(&hub, "camera-1"));
    let reason = device.closed().await;
    assert_eq!(reason.code(), Some(CloseCode::Revoked));
    assert!(!reason.is_retryable());
    let (_device, hub) = connect(&site.dialer(Some(site.device("camera-2"))), &mut listener).await;
    assert!(authorise(&hub, "camera-1"), "another device is still welcome");
}

#[tokio::test]
async fn a_certificate_that_is_over_for_longer_than_the_grace_is_refused_also_when_it_resumes() {
    let site = Site::new();
    let identity = site.device("camera-1");
    let not_after = identity.not_after_unix_s();
    let dialer = site.dialer(Some(identity));
    let mut listener = site.listener();
    first_visit(&dialer, &mut listener).await;
    let (_device, hub) = connect(&dialer, &mut listener).await;
    assert_eq!(dialer.full_handshakes(), 1, "the second connection was resumed");
    let grace_s = i64::try_from(GRACE.as_secs()).unwrap();
    assert!(admit(hub.clone(), not_after + grace_s, GRACE).is_ok());
    let (code, _why) = admit(hub, not_after + grace_s + 1, GRACE).unwrap_err();
    assert_eq!(code, CloseCode::CertificateExpired);
}

#[tokio::test]
async fn nothing_is_ever_sent_before_the_handshake() {
    let site = Site::new();
    let dialer = site.dialer(Some(site.device("camera-1")));
    let mut listener = site.listener();
    first_visit(&dialer, &mut listener).await;
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let again = endpoint.connect_with(dialer.quic(), listener.local_addr().unwrap(), NAME).unwrap();
    let Err(again) = again.into_0rtt() else { panic!("early data was possible") };
    let (again, hub) = tokio::join!(again, listener.accept());
    assert!(again.is_ok() && hub.is_some());
    assert_eq!(dialer.full_handshakes(), 1, "it was resumed all the same");
}
