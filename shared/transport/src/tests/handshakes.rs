//! Tests of accepted and refused peers, and of the errors that refused peers see.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustls::NamedGroup;
use rustls::crypto::{ActiveKeyExchange, CompletedKeyExchange, CryptoProvider, SharedSecret, SupportedKxGroup};
use tokio::task::JoinSet;

use super::pair::{DAY, NAME, Site, at, connect};
use crate::{
    Alpn, Ca, CloseCode, DialError, DialErrorKind, Dialer, DialerConfig, Identity, Limits, Listener, ListenerConfig,
    Peer, Trust, Validity, crypto_provider,
};

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

fn last_year() -> Validity {
    Validity { now: SystemTime::now() - YEAR, lifetime: DAY }
}

fn next_year() -> Validity {
    Validity { now: SystemTime::now() + YEAR, lifetime: DAY }
}

/// Dials a listener that accepts in the background, and expects to fail.
async fn refused(listener: Listener, dialer: Dialer) -> DialError {
    let addr = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    let mut listener = listener;
    tasks.spawn(async move { while listener.accept().await.is_some() {} });
    dialer.dial(&at(addr)).await.unwrap_err()
}

fn listener_as(site: &Site, identity: Identity) -> Listener {
    Listener::bind(&ListenerConfig { identity, ..site.listener_config() }).unwrap()
}

#[tokio::test]
async fn a_device_and_its_hub_know_each_other() {
    let site = Site::new();
    let identity = site.device("camera-1");
    let (key, not_after_unix_s) = (identity.key_digest(), identity.not_after_unix_s());
    let mut listener = site.listener();
    let (device, hub) = connect(&site.dialer(Some(identity)), &mut listener).await;
    assert_eq!(*hub.peer(), Peer::Device { id: "camera-1".parse().unwrap(), key, not_after_unix_s });
    assert_eq!(*device.peer(), Peer::Hub);
    assert_eq!((device.alpn(), hub.alpn()), (Alpn::Device, Alpn::Device));
}

/// A key exchange group that records its use by a server.
#[derive(Debug)]
struct Watched {
    group: &'static dyn SupportedKxGroup,
    used: Arc<Mutex<Vec<NamedGroup>>>,
}

impl SupportedKxGroup for Watched {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, rustls::Error> {
        self.group.start()
    }

    fn start_and_complete(&self, peer: &[u8]) -> Result<CompletedKeyExchange, rustls::Error> {
        self.used.lock().unwrap().push(self.group.name());
        let done = self.group.start_and_complete(peer)?;
        let secret = SharedSecret::from(done.secret.secret_bytes());
        Ok(CompletedKeyExchange { group: done.group, pub_key: done.pub_key, secret })
    }

    fn name(&self) -> NamedGroup {
        self.group.name()
    }
}

#[tokio::test]
async fn the_key_exchange_is_post_quantum() {
    let offered: Vec<_> = crypto_provider().kx_groups.iter().map(|group| group.name()).collect();
    assert_eq!(offered[0], NamedGroup::X25519MLKEM768, "{offered:?}");
    let used = Arc::default();
    let watch = |group: &&'static dyn SupportedKxGroup| -> &'static dyn SupportedKxGroup {
        Box::leak(Box::new(Watched { group: *group, used: Arc::clone(&used) }))
    };
    let standard = crypto_provider();
    let watched = CryptoProvider { kx_groups: standard.kx_groups.iter().map(watch).collect(), ..(*standard).clone() };
    let site = Site::new();
    let mut listener = Listener::bind_with(&site.listener_config(), Arc::new(watched)).unwrap();
    connect(&site.dialer(Some(site.device("camera-1"))), &mut listener).await;
    assert_eq!(*used.lock().unwrap(), [NamedGroup::X25519MLKEM768]);
}

#[tokio::test]
async fn a_machine_without_a_certificate_may_enrol_and_nothing_else() {
    let site = Site::new();
    let mut listener = site.listener();
    let (_device, hub) = connect(&site.dialer(None), &mut listener).await;
    assert_eq!((hub.peer(), hub.alpn()), (&Peer::Anonymous, Alpn::Enrol));

    let bold = Dialer::new(DialerConfig { alpn: Alpn::Device, ..site.dialer_config(None) }).unwrap();
    let target = at(listener.local_addr().unwrap());
    let turned_away = async {
        match bold.dial(&target).await {
            // The hub confirms the handshake first and refuses at once: either may be seen first.
            Ok(connection) => assert_eq!(connection.closed().await.code(), Some(CloseCode::NotAuthorised)),
            Err(error) => assert_eq!(error.kind(), DialErrorKind::NotAuthorised),
        }
    };
    tokio::select! {
        () = turned_away => {}
        connection = listener.accept() => panic!("it was let in: {connection:?}"),
    }
}

#[tokio::test]
async fn a_hub_of_another_ca_is_not_ours() {
    let (ours, theirs) = (Site::new(), Site::new());
    let error = refused(theirs.listener(), ours.dialer(Some(ours.device("camera-1")))).await;
    assert_eq!(error.kind(), DialErrorKind::WrongCa, "the same name, another key: {error}");
    let other = Site { ca: Ca::create("Somebody else").unwrap() };
    let error = refused(other.listener(), ours.dialer(Some(ours.device("camera-1")))).await;
    assert_eq!(error.kind(), DialErrorKind::WrongCa, "another name: {error}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_hub_of_another_name_is_not_ours() {
    let site = Site::new();
    let elsewhere = site.ca.issue_server(&["hub.elsewhere".to_owned()], Validity::from_now(DAY)).unwrap();
    let error = refused(listener_as(&site, elsewhere), site.dialer(None)).await;
    assert!(matches!(&error, DialError::WrongName { name, .. } if name == NAME), "{error}");
}

#[tokio::test]
async fn an_expired_hub_is_refused_and_a_clock_that_is_behind_does_not_matter() {
    let site = Site::new();
    let expired = site.ca.issue_server(&[NAME.to_owned()], last_year()).unwrap();
    let error = refused(listener_as(&site, expired), site.dialer(None)).await;
    assert!(matches!(error, DialError::HubCertificateExpired { .. }), "{error}");
    let future = site.ca.issue_server(&[NAME.to_owned()], next_year()).unwrap();
    // For this device the hub's certificate starts in a year: its own clock must be wrong.
    connect(&site.dialer(None), &mut listener_as(&site, future)).await;
}

#[tokio::test]
async fn a_device_whose_certificate_is_over_for_longer_than_the_grace_is_told_so() {
    let site = Site::new();
    let stale = site.device_with("camera-1", last_year());
    let error = refused(site.listener(), site.dialer(Some(stale))).await;
    assert!(matches!(error, DialError::OwnCertificateExpired { .. }), "{error}");
    assert_eq!(error.kind(), DialErrorKind::CertificateTime);
}

#[tokio::test]
async fn a_certificate_outside_its_time_is_let_through_within_the_grace_with_its_dates() {
    let site = Site::new();
    // Expired for a month, and not yet valid by the clock of a hub whose clock went back.
    let month_ago = Validity { now: SystemTime::now() - DAY * 31, lifetime: DAY };
    let tomorrow = Validity { now: SystemTime::now() + DAY, lifetime: DAY };
    for validity in [month_ago, tomorrow, next_year()] {
        let mut listener = site.listener();
        let identity = site.device_with("camera-1", validity);
        let until = identity.not_after_unix_s();
        let (_device, hub) = connect(&site.dialer(Some(identity)), &mut listener).await;
        assert!(matches!(hub.peer(), Peer::Device { not_after_unix_s, .. } if *not_after_unix_s == until));
    }
}

#[tokio::test]
async fn the_grace_lets_no_certificate_of_another_ca_or_use_through() {
    let (site, other) = (Site::new(), Site { ca: Ca::create("Somebody else").unwrap() });
    let month_ago = Validity { now: SystemTime::now() - DAY * 31, lifetime: DAY };
    let foreign = other.device_with("camera-1", month_ago);
    let server = site.ca.issue_server(&[NAME.to_owned()], month_ago).unwrap();
    for identity in [foreign, server] {
        let error = refused(site.listener(), site.dialer(Some(identity))).await;
        // The other CA of this test is younger than the certificate, so the error may report its time.
        let told = error.kind();
        assert!(matches!(told, DialErrorKind::NotAuthorised | DialErrorKind::CertificateTime), "{error:?}");
    }
}

#[tokio::test]
async fn without_a_grace_an_expired_certificate_is_refused_in_the_handshake() {
    let site = Site::new();
    let config = ListenerConfig { grace: Duration::ZERO, ..site.listener_config() };
    let yesterday = site.device_with("camera-1", Validity { now: SystemTime::now() - DAY * 2, lifetime: DAY });
    let error = refused(Listener::bind(&config).unwrap(), site.dialer(Some(yesterday))).await;
    assert!(matches!(error, DialError::OwnCertificateExpired { .. }), "{error}");
}

#[tokio::test]
async fn a_device_of_another_ca_is_not_let_in() {
    let (ours, theirs) = (Site::new(), Site { ca: Ca::create("Somebody else").unwrap() });
    let error = refused(ours.listener(), ours.dialer(Some(theirs.device("camera-1")))).await;
    assert_eq!(error.kind(), DialErrorKind::NotAuthorised, "{error}");
}

#[tokio::test]
async fn a_device_cannot_pass_for_a_hub_nor_a_hub_for_a_device() {
    let site = Site::new();
    let error = refused(listener_as(&site, site.device("camera-1")), site.dialer(None)).await;
    assert!(matches!(error, DialError::UnfitCertificate { .. } | DialError::WrongName { .. }), "{error}");
    let error = refused(site.listener(), site.dialer(Some(site.hub()))).await;
    assert_eq!(error.kind(), DialErrorKind::NotAuthorised, "{error}");
}

fn pinned(site: &Site, pin: types::Digest) -> Dialer {
    Dialer::new(DialerConfig { trust: Trust::CaFingerprint(pin), ..site.dialer_config(None) }).unwrap()
}

#[tokio::test]
async fn a_hub_is_known_by_the_fingerprint_of_its_ca() {
    let site = Site::new();
    let mut listener = site.listener();
    connect(&pinned(&site, site.ca.fingerprint()), &mut listener).await;
    let error = refused(site.listener(), pinned(&site, Site::new().ca.fingerprint())).await;
    assert_eq!(error.kind(), DialErrorKind::WrongCa, "{error}");
}

#[tokio::test]
async fn an_impostor_that_shows_the_right_ca_behind_its_own_leaf_is_refused() {
    let (site, impostor) = (Site::new(), Site::new());
    let mask = impostor.hub().with_issuers(&[site.ca.cert_der(), impostor.ca.cert_der()]);
    let error = refused(listener_as(&impostor, mask), pinned(&site, site.ca.fingerprint())).await;
    assert_eq!(error.kind(), DialErrorKind::WrongCa, "{error}");
}

#[tokio::test]
async fn the_pinned_ca_cannot_be_shown_as_the_hubs_own_certificate() {
    let (site, impostor) = (Site::new(), Site::new());
    let bare = impostor.hub().with_issuers(&[]);
    let error = refused(listener_as(&impostor, bare), pinned(&site, site.ca.fingerprint())).await;
    assert_eq!(error.kind(), DialErrorKind::WrongCa, "{error}");
}

#[tokio::test]
async fn a_hub_of_another_major_version_is_called_that() {
    let site = Site::new();
    let identity = site.hub();
    let mut tls = rustls::ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain(), identity.key())
        .unwrap();
    tls.alpn_protocols = vec![b"sanderling/9".to_vec()];
    let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let endpoint = quinn::Endpoint::server(server, "127.0.0.1:0".parse().unwrap()).unwrap();
    let target = at(endpoint.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            assert!(incoming.await.is_err());
        }
    });
    let error = site.dialer(Some(site.device("camera-1"))).dial(&target).await.unwrap_err();
    assert_eq!(error.kind(), DialErrorKind::Version, "{error}");
}

#[tokio::test]
async fn a_hub_that_is_away_is_called_unreachable() {
    let site = Site::new();
    // Bound and silent: no other process can respond there.
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let limits = Limits { handshake: Duration::from_millis(200), ..Limits::agent() };
    let config = DialerConfig { limits, ..site.dialer_config(None) };
    let dialer = Dialer::new(config).unwrap();
    let error = dialer.dial(&at(silent.local_addr().unwrap())).await.unwrap_err();
    assert!(matches!(error, DialError::NoAnswer { .. }), "{error}");
    assert_eq!((error.kind(), error.is_retryable()), (DialErrorKind::Unreachable, true));
    assert!(matches!(dialer.dial(&[]).await.unwrap_err(), DialError::NoAddress));
    let error = dialer.dial(&["no-such-host.invalid:1".to_owned()]).await.unwrap_err();
    assert!(matches!(error, DialError::Lookup { .. }), "{error}");
}

#[tokio::test]
async fn a_dead_address_does_not_hide_a_live_one() {
    let site = Site::new();
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut listener = site.listener();
    let dialer = site.dialer(None);
    let targets = [silent.local_addr().unwrap().to_string(), listener.local_addr().unwrap().to_string()];
    let (device, hub) = tokio::join!(dialer.dial(&targets), listener.accept());
    assert_eq!(device.unwrap().remote_addr(), listener.local_addr().unwrap());
    assert!(hub.is_some());
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let site = Site::new();
    let first = site.listener();
    let config = ListenerConfig { addr: first.local_addr().unwrap(), ..site.listener_config() };
    let error = Listener::bind(&config).unwrap_err();
    assert_eq!(error.to_string(), format!("listen on UDP {}", config.addr));
}

#[tokio::test]
async fn a_full_hub_says_so() {
    let site = Site::new();
    let limits = Limits { connections: 1, ..Limits::hub() };
    let mut listener = Listener::bind(&ListenerConfig { limits, ..site.listener_config() }).unwrap();
    let dialer = site.dialer(None);
    let _first = connect(&dialer, &mut listener).await;
    let error = refused(listener, site.dialer(None)).await;
    assert_eq!((error.kind(), error.is_retryable()), (DialErrorKind::Busy, true), "{error}");
}

#[tokio::test]
async fn a_busy_hub_lets_newcomers_prove_their_address_first() {
    let site = Site::new();
    let limits = Limits { handshakes_before_retry: 0, ..Limits::hub() };
    let mut listener = Listener::bind(&ListenerConfig { limits, ..site.listener_config() }).unwrap();
    connect(&site.dialer(Some(site.device("camera-1"))), &mut listener).await;
}

#[tokio::test]
async fn a_silent_newcomer_does_not_hold_up_the_next_one() {
    let site = Site::new();
    let mut listener = site.listener();
    let addr = listener.local_addr().unwrap();
    // The first flight of a real handshake, from a socket that never responds.
    let stuck = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let half = stuck.connect_with(site.dialer(None).quic(), addr, NAME).unwrap();
    drop(half);
    connect(&site.dialer(Some(site.device("camera-1"))), &mut listener).await;
}

#[tokio::test]
async fn a_closed_listener_tells_its_peers_and_ends() {
    let site = Site::new();
    let mut listener = site.listener();
    let (device, _hub) = connect(&site.dialer(None), &mut listener).await;
    assert!(listener.close(CloseCode::ShuttingDown, "going down", Duration::from_secs(10)).await);
    let reason = device.closed().await;
    assert_eq!(reason.code(), Some(CloseCode::ShuttingDown));
    assert!(reason.is_retryable());
}

#[tokio::test]
async fn a_hub_renews_its_certificate_without_losing_anyone() {
    let site = Site::new();
    let config = site.listener_config();
    let mut listener = Listener::bind(&config).unwrap();
    let (device, hub) = connect(&site.dialer(None), &mut listener).await;
    let renamed = site.ca.issue_server(&["hub.renewed".to_owned()], Validity::from_now(DAY)).unwrap();
    listener.renew(&ListenerConfig { identity: renamed, ..config }).unwrap();
    let server_name = "hub.renewed".to_owned();
    let newcomer = Dialer::new(DialerConfig { server_name, ..site.dialer_config(None) }).unwrap();
    connect(&newcomer, &mut listener).await;
    assert_eq!((device.close_reason(), hub.close_reason()), (None, None));
}
