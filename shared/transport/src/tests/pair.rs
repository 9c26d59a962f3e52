//! A hub and a device on loopback, with the operations that tests need.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use protocol::v1::{DeviceRequest, HubResponse, InferRequest, InferResponse, TensorHeader};
use types::{DType, Digest, EngineName, Reason};

use crate::{
    Alpn, Ca, Congestion, Connection, DeviceKey, Dialer, DialerConfig, EndpointKeys, Identity, Limits, Listener,
    ListenerConfig, Trust, Validity,
};

/// Name in the hub's certificate.
pub(super) const NAME: &str = "hub.sanderling";

/// Lifetime of certificates, longer than every test.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Time for which a device's expired certificate is accepted.
pub(super) const GRACE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A CA and the configurations that use it.
pub(super) struct Site {
    pub(super) ca: Ca,
}

impl Site {
    pub(super) fn new() -> Self {
        Self { ca: Ca::create("Sanderling test").unwrap() }
    }

    pub(super) fn device(&self, id: &str) -> Identity {
        self.device_with(id, Validity::from_now(DAY))
    }

    pub(super) fn device_with(&self, id: &str, validity: Validity) -> Identity {
        let key = DeviceKey::generate().unwrap();
        let issued = self.ca.issue_device(&key.csr_der().unwrap(), &id.parse().unwrap(), validity).unwrap();
        key.identity(&issued.chain_der).unwrap()
    }

    pub(super) fn hub(&self) -> Identity {
        self.ca.issue_server(&[NAME.to_owned()], Validity::from_now(DAY)).unwrap()
    }

    pub(super) fn listener_config(&self) -> ListenerConfig {
        ListenerConfig {
            addr: "127.0.0.1:0".parse().unwrap(),
            identity: self.hub(),
            ca_der: self.ca.cert_der(),
            grace: GRACE,
            keys: EndpointKeys::generate().unwrap(),
            limits: Limits::hub(),
            congestion: Congestion::Cubic,
            intake: None,
        }
    }

    pub(super) fn listener(&self) -> Listener {
        Listener::bind(&self.listener_config()).unwrap()
    }

    pub(super) fn dialer_config(&self, identity: Option<Identity>) -> DialerConfig {
        let alpn = if identity.is_some() { Alpn::Device } else { Alpn::Enrol };
        DialerConfig {
            identity,
            trust: Trust::CaDer(self.ca.cert_der()),
            server_name: NAME.to_owned(),
            alpn,
            limits: Limits::agent(),
            congestion: Congestion::Cubic,
        }
    }

    pub(super) fn dialer(&self, identity: Option<Identity>) -> Dialer {
        Dialer::new(self.dialer_config(identity)).unwrap()
    }
}

pub(super) fn at(addr: SocketAddr) -> Vec<String> {
    vec![addr.to_string()]
}

/// Dials and accepts; both must succeed. Returns the device's side, then the hub's.
pub(super) async fn connect(dialer: &Dialer, listener: &mut Listener) -> (Connection, Connection) {
    let addr = listener.local_addr().unwrap();
    connect_via(dialer, listener, addr).await
}

/// Connects as [`connect`] does, through a proxy in front of the listener.
pub(super) async fn connect_via(dialer: &Dialer, listener: &mut Listener, via: SocketAddr) -> (Connection, Connection) {
    let target = at(via);
    let (device, hub) = tokio::join!(dialer.dial(&target), listener.accept());
    (device.unwrap(), hub.unwrap())
}

/// A site with one connected device.
pub(super) struct Pair {
    pub(super) device: Connection,
    pub(super) hub: Connection,
    pub(super) _listener: Listener,
}

impl Pair {
    pub(super) async fn new() -> Self {
        Self::with(Limits::agent(), Limits::hub()).await
    }

    pub(super) async fn with(device: Limits, hub: Limits) -> Self {
        let site = Site::new();
        let mut listener = Listener::bind(&ListenerConfig { limits: hub, ..site.listener_config() }).unwrap();
        let config = DialerConfig { limits: device, ..site.dialer_config(Some(site.device("camera-1"))) };
        let (device, hub) = connect(&Dialer::new(config).unwrap(), &mut listener).await;
        Self { device, hub, _listener: listener }
    }
}

/// Returns bytes in which every mix-up is visible.
pub(super) fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| u8::try_from(at.wrapping_mul(31) % 251).unwrap()).collect()
}

fn header(bytes: usize) -> TensorHeader {
    let bytes = u64::try_from(bytes).unwrap();
    TensorHeader { name: "x".to_owned(), dtype: DType::U8, shape: vec![bytes], bytes }
}

/// Returns a request with a body of this many bytes.
pub(super) fn request(bytes: usize) -> DeviceRequest {
    DeviceRequest::Infer(InferRequest {
        request_id: "r-1".parse().unwrap(),
        model: "digits".parse().unwrap(),
        version: None,
        reason: Reason::LowConfidence,
        deadline_left_ms: None,
        traceparent: None,
        outputs: vec![],
        tensors: vec![header(bytes)],
    })
}

/// Returns a response with a body of this many bytes.
pub(super) fn response(bytes: usize) -> HubResponse {
    HubResponse::Infer(InferResponse {
        version: types::Version::new(1).unwrap(),
        variant: "fp32".parse().unwrap(),
        digest: Digest::of(b"model"),
        engine: EngineName::Fake,
        provider: "none".to_owned(),
        queue_us: 0,
        compute_us: 0,
        tensors: vec![header(bytes)],
    })
}

/// Serves one exchange of a connection: returns the request's body as the response's.
pub(super) async fn echo(hub: &Connection) {
    let mut exchange = hub.accept().await.unwrap();
    let asked: DeviceRequest = exchange.receive().await.unwrap();
    assert!(matches!(asked, DeviceRequest::Infer(_)));
    let body = exchange.read_body(u64::MAX).await.unwrap();
    exchange.send_last(&response(body.len()), &[body]).await.unwrap();
}

/// Sends a request with a body of this many bytes, and compares the response with it.
pub(super) async fn ask(device: &Connection, bytes: usize) {
    let body = pattern(bytes);
    let asked = device.request(crate::Priority::Inference, &request(bytes), std::slice::from_ref(&body)).await;
    let (answer, mut exchange): (HubResponse, _) = asked.unwrap();
    assert!(matches!(answer, HubResponse::Infer(_)));
    assert_eq!(exchange.read_body(u64::MAX).await.unwrap(), body);
}
