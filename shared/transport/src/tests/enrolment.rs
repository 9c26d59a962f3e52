//! Tests of enrolment and renewal: from a join token to a device, and from one certificate to the next.

use std::time::Duration;

use protocol::v1::{DeviceRequest, EnrolRequest, EnrolResponse, Enrolled, HubResponse};
use protocol::{JoinSecret, JoinToken};
use types::{DeviceId, Digest};

use super::pair::{NAME, Site, at, connect};
use crate::{
    Alpn, Connection, DeviceKey, Dialer, DialerConfig, Identity, Peer, Priority, Trust, Validity, certificate_der,
};

/// Lifetime of a certificate: longer than the test, short enough that a renewal is visible in its end.
const SHORT: Duration = Duration::from_secs(60);

fn token(site: &Site, hub: &str) -> JoinToken {
    JoinToken {
        hub: vec![hub.to_owned()],
        server_name: NAME.to_owned(),
        ca: site.ca.fingerprint(),
        secret: JoinSecret::from_bytes([9; 32]),
        expires_unix_s: u64::MAX,
    }
}

/// Serves one enrolment as a hub does: the hub alone chooses the name.
async fn serve_enrolment(site: &Site, hub: &Connection, token: &JoinToken) {
    assert_eq!((hub.peer(), hub.alpn()), (&Peer::Anonymous, Alpn::Enrol));
    let mut exchange = hub.accept().await.unwrap();
    let request: EnrolRequest = exchange.receive().await.unwrap();
    assert_eq!(request.secret.digest(), token.secret.digest());
    let device: DeviceId = "camera-1".parse().unwrap();
    let issued = site.ca.issue_device(&request.csr_der, &device, Validity::from_now(SHORT)).unwrap();
    let enrolled =
        Enrolled { device, chain_der: issued.chain_der, ca_der: site.ca.cert_der(), root_json: b"{}".to_vec().into() };
    exchange.send_last(&EnrolResponse::Enrolled(enrolled), &[]).await.unwrap();
    exchange.delivered().await.unwrap();
}

/// Enrols with a token as a device does.
async fn enrol(token: &JoinToken, connection: &Connection) -> (DeviceKey, Enrolled) {
    let key = DeviceKey::generate().unwrap();
    let csr_der = key.csr_der().unwrap();
    let request = EnrolRequest { secret: token.secret.clone(), csr_der, agent_version: "0.1.0".to_owned() };
    let (answer, _): (EnrolResponse, _) = connection.request(Priority::Control, &request, &[]).await.unwrap();
    let EnrolResponse::Enrolled(enrolled) = answer else { panic!("refused") };
    assert_eq!(Digest::of(&enrolled.ca_der), token.ca, "the CA is the one of the token");
    (key, enrolled)
}

#[tokio::test]
async fn a_token_makes_a_device_whose_certificate_is_renewed_over_the_live_connection() {
    let site = Site::new();
    let mut listener = site.listener();
    // The machine receives only the token, as text.
    let token: JoinToken = token(&site, &listener.local_addr().unwrap().to_string()).to_string().parse().unwrap();
    let config = DialerConfig {
        trust: Trust::CaFingerprint(token.ca),
        server_name: token.server_name.clone(),
        ..site.dialer_config(None)
    };
    let dialer = Dialer::new(config).unwrap();
    let (device, hub) = tokio::join!(dialer.dial(&token.hub), listener.accept());
    let (device, hub) = (device.unwrap(), hub.unwrap());
    let ((key, enrolled), ()) = tokio::join!(enrol(&token, &device), serve_enrolment(&site, &hub, &token));
    let first = key.identity(&enrolled.chain_der).unwrap();
    assert_eq!(first.device(), Ok(enrolled.device));

    let config = DialerConfig { trust: Trust::CaDer(enrolled.ca_der), ..site.dialer_config(Some(first.clone())) };
    let (device, hub) = connect(&Dialer::new(config).unwrap(), &mut listener).await;
    let second = renew(&site, &device, &hub).await;
    assert_ne!(second.key_digest(), first.key_digest(), "a new key");
    assert!(second.not_after_unix_s() > first.not_after_unix_s());
    assert_eq!(device.close_reason(), None, "the live connection goes on");

    let (_device, hub) = connect(&site.dialer(Some(second.clone())), &mut listener).await;
    assert!(matches!(hub.peer(), Peer::Device { key, .. } if *key == second.key_digest()));
}

/// Renews a certificate for a new key; the hub takes the name from the certificate of the connection, not from the
/// request.
async fn renew(site: &Site, device: &Connection, hub: &Connection) -> Identity {
    let key = DeviceKey::generate().unwrap();
    let question = DeviceRequest::Renew { csr_der: key.csr_der().unwrap() };
    let asking = device.request::<_, HubResponse>(Priority::Control, &question, &[]);
    let answering = async {
        let mut exchange = hub.accept().await.unwrap();
        let DeviceRequest::Renew { csr_der } = exchange.receive().await.unwrap() else { panic!("not a renewal") };
        let Peer::Device { id, .. } = hub.peer() else { panic!("not a device") };
        let issued = site.ca.issue_device(&csr_der, id, Validity::from_now(SHORT * 2)).unwrap();
        exchange.send_last(&HubResponse::Renewed { chain_der: issued.chain_der }, &[]).await.unwrap();
    };
    let (answer, ()) = tokio::join!(asking, answering);
    let HubResponse::Renewed { chain_der } = answer.unwrap().0 else { panic!("refused") };
    key.identity(&chain_der).unwrap()
}

#[tokio::test]
async fn a_stolen_token_text_is_of_no_use_against_another_hub() {
    let (site, impostor) = (Site::new(), Site::new());
    let mut listener = impostor.listener();
    let target = at(listener.local_addr().unwrap());
    let trust = Trust::CaFingerprint(token(&site, "hub:1").ca);
    let dialer = Dialer::new(DialerConfig { trust, ..site.dialer_config(None) }).unwrap();
    // The secret is sent only after the handshake, which fails with a hub of another CA.
    tokio::select! {
        result = dialer.dial(&target) => assert!(result.is_err()),
        connection = listener.accept() => panic!("the impostor got through: {connection:?}"),
    }
}

#[test]
fn a_ca_file_reads_back() {
    let site = Site::new();
    assert_eq!(certificate_der(&site.ca.cert_pem()).unwrap(), site.ca.cert_der());
}
