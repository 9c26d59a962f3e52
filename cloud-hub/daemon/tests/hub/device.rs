//! A device for a test: what an agent does with a hub, without the agent.

use bytes::Bytes;
use protocol::JoinToken;
use protocol::v1::{
    ActiveVariant, BlobRange, DeviceRequest, DeviceResponse, EnrolRequest, EnrolResponse, Enrolled, Hello, HubRequest,
    HubResponse, InferRequest, ModelState, Offer, RefusalCode, UpdateOutcome, UpdateReport, join_body,
};
use transport::{
    Alpn, CloseCode, Congestion, Connection, DeviceKey, Dialer, DialerConfig, Exchange, ExchangeError, Identity,
    Limits, Priority, Trust,
};
use types::update::Stage;
use types::{Digest, NamedTensor, Reason, Version};

use super::site::PATIENCE;

/// A device: what it keeps, and its connection.
pub(super) struct Device {
    pub(super) token: JoinToken,
    pub(super) dialer: Dialer,
    pub(super) connection: Connection,
}

impl Device {
    pub(super) async fn new(token: &JoinToken, enrolled: &Enrolled, key: &DeviceKey) -> Self {
        let identity = key.identity(&enrolled.chain_der).unwrap();
        let dialer = dialer(token, Some(identity), Trust::CaDer(enrolled.ca_der.clone()));
        let connection = dialer.dial(&token.hub).await.unwrap();
        Self { token: token.clone(), dialer, connection }
    }

    pub(super) async fn ask(
        &self,
        request: &DeviceRequest,
        body: &[Bytes],
    ) -> Result<(HubResponse, Exchange), ExchangeError> {
        let asking = self.connection.request(Priority::Control, request, body);
        tokio::time::timeout(PATIENCE, asking).await.unwrap()
    }

    pub(super) async fn hello(&self, active: Option<u64>) -> Vec<Offer> {
        let active = active.map(|version| ActiveVariant {
            version: Version::new(version).unwrap(),
            variant: "int8-qdq".parse().unwrap(),
            digest: Digest::of(b"model"),
        });
        let models = vec![ModelState { model: "digits".parse().unwrap(), active, previous: None }];
        let hello = Hello {
            agent_version: "0.1.0".to_owned(),
            features: Vec::new(),
            device_now_unix_ms: 0,
            models,
            engines: Vec::new(),
        };
        match self.ask(&DeviceRequest::Hello(hello), &[]).await.unwrap().0 {
            HubResponse::Welcome(welcome) => welcome.offers,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn infer(
        &self,
        inputs: &[NamedTensor],
        left_ms: Option<u32>,
    ) -> Result<Vec<NamedTensor>, RefusalCode> {
        let (tensors, body) = join_body(inputs);
        let request = InferRequest {
            request_id: "r1".parse().unwrap(),
            model: "digits".parse().unwrap(),
            version: None,
            reason: Reason::Policy,
            deadline_left_ms: left_ms,
            traceparent: None,
            outputs: Vec::new(),
            tensors,
        };
        let (response, mut exchange) = self.ask(&DeviceRequest::Infer(request), &body).await.unwrap();
        match response {
            HubResponse::Infer(response) => {
                assert_eq!(response.variant.as_str(), "full");
                assert_eq!(response.provider, "CPUExecutionProvider");
                let body = exchange.read_body(1 << 20).await.unwrap();
                Ok(response.split_body(&body).unwrap())
            }
            HubResponse::Refused(refusal) => Err(refusal.code),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn metadata(&self, name: &str) -> Option<Bytes> {
        let request = DeviceRequest::Metadata { name: name.to_owned(), bytes_max: 1 << 20 };
        let (response, mut exchange) = self.ask(&request, &[]).await.unwrap();
        let HubResponse::Metadata { length } = response else { panic!("{response:?}") };
        let body = exchange.read_body(1 << 20).await.unwrap();
        length.map(|length| {
            assert_eq!(length, body.len() as u64);
            body
        })
    }

    pub(super) async fn blob(&self, digest: Digest, offset: u64, length: u64) -> Result<(Bytes, u64), RefusalCode> {
        let request = DeviceRequest::Blob(BlobRange { digest, offset, length });
        let (response, mut exchange) = self.ask(&request, &[]).await.unwrap();
        match response {
            HubResponse::Blob(slice) => Ok((exchange.read_body(1 << 24).await.unwrap(), slice.total)),
            HubResponse::Refused(refusal) => Err(refusal.code),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn report(&self, version: u64, stage: Stage, outcome: UpdateOutcome) {
        let report = UpdateReport {
            model: "digits".parse().unwrap(),
            version: Version::new(version).unwrap(),
            variant: Some("int8-qdq".parse().unwrap()),
            stage,
            outcome,
        };
        let (response, _exchange) = self.ask(&DeviceRequest::Report(report), &[]).await.unwrap();
        assert_eq!(response, HubResponse::Accepted);
    }

    pub(super) async fn closed(&self) -> CloseCode {
        let reason = tokio::time::timeout(PATIENCE, self.connection.closed()).await.unwrap();
        reason.code().unwrap_or_else(|| panic!("{reason}"))
    }

    /// Takes what the hub says unasked.
    pub(super) async fn notice(&self) -> HubRequest {
        let mut exchange = tokio::time::timeout(PATIENCE, self.connection.accept()).await.unwrap().unwrap();
        let request = exchange.receive::<HubRequest>().await.unwrap();
        exchange.send_last(&DeviceResponse::Accepted, &[]).await.unwrap();
        request
    }
}

pub(super) fn dialer(token: &JoinToken, identity: Option<Identity>, trust: Trust) -> Dialer {
    dialer_with(token, identity, trust, Limits::agent())
}

/// A dialer with limits of its own, for devices that misbehave.
pub(super) fn dialer_with(token: &JoinToken, identity: Option<Identity>, trust: Trust, limits: Limits) -> Dialer {
    let alpn = if identity.is_some() { Alpn::Device } else { Alpn::Enrol };
    let config = DialerConfig {
        identity,
        trust,
        server_name: token.server_name.clone(),
        alpn,
        limits,
        congestion: Congestion::default(),
    };
    Dialer::new(config).unwrap()
}

pub(super) async fn enrol(token: &JoinToken, key: &DeviceKey) -> Result<Enrolled, RefusalCode> {
    let connection = dialer(token, None, Trust::CaFingerprint(token.ca)).dial(&token.hub).await.unwrap();
    let request = EnrolRequest {
        secret: token.secret.clone(),
        csr_der: key.csr_der().unwrap(),
        agent_version: "0.1.0".to_owned(),
    };
    let asked = connection.request::<_, EnrolResponse>(Priority::Control, &request, &[]);
    match tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap().0 {
        EnrolResponse::Enrolled(enrolled) => Ok(enrolled),
        EnrolResponse::Refused(refusal) => Err(refusal.code),
    }
}
