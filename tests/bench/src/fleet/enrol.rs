//! Join tokens from the operator's API, and the enrolment of devices with them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::{StreamExt as _, TryStreamExt as _};
use hub_api::TokenRequest;
use hub_api::endpoints::CreateToken;
use hub_cli::{Client, Context};
use protocol::JoinToken;
use protocol::v1::{EnrolRequest, EnrolResponse};
use testkit::Hub;
use transport::{
    Alpn, ClientEndpoint, CloseCode, Congestion, DeviceKey, Dialer, DialerConfig, Identity, Limits, Priority, Trust,
};

use super::device::{Device, Shared};

/// Threads that create tokens.
const TOKEN_THREADS: usize = 8;

/// Number of devices that enrol at the same time.
const ENROLLED_AT_ONCE: usize = 64;

/// Number of devices that share a socket. The hub shares handshakes among addresses, so each socket has its own.
const DEVICES_PER_SOCKET: usize = 160;

/// Creates a token for each device.
pub(super) fn tokens(hub: &Hub, devices: usize) -> Result<Vec<JoinToken>> {
    let file = hub.folder().join("operator.toml");
    let mut context = Context::read(&file).map_err(|error| anyhow!("read {}: {error:?}", file.display()))?;
    context.url = format!("https://localhost:{}", port(&hub.address("admin")?)?);
    let next = AtomicUsize::new(0);
    let create = || -> Result<Vec<JoinToken>> {
        let client = Client::new(context.clone()).map_err(|error| anyhow!("use the operator's context: {error:?}"))?;
        let mut tokens = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < devices {
            let created = client.send::<CreateToken>(&(), &TokenRequest::default());
            let created = created.map_err(|error| anyhow!("create a token: {error:?}"))?;
            tokens.push(created.token.parse().context("read a token")?);
        }
        Ok(tokens)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..TOKEN_THREADS).map(|_| scope.spawn(create)).collect();
        let mut tokens = Vec::with_capacity(devices);
        for thread in threads {
            tokens.extend(thread.join().map_err(|_panic| anyhow!("a thread that creates tokens panicked"))??);
        }
        Ok(tokens)
    })
}

fn port(address: &str) -> Result<u16> {
    let address: SocketAddr = address.parse().with_context(|| format!("read the address {address}"))?;
    Ok(address.port())
}

/// Enrols a device with each token. The first `followers` of them follow the model that is pushed.
pub(super) async fn enrol(tokens: Vec<JoinToken>, followers: usize, shared: &Arc<Shared>) -> Result<Vec<Device>> {
    let sockets = tokens.len().div_ceil(DEVICES_PER_SOCKET);
    let sockets = (0..sockets).map(socket).collect::<Result<Vec<_>>>()?;
    let enrolling = tokens.into_iter().enumerate().map(|(number, token)| {
        let (socket, shared) = (sockets.get(number / DEVICES_PER_SOCKET).cloned(), Arc::clone(shared));
        async move {
            let socket = socket.context("a socket for each device")?;
            let dialer = one(&token, socket).await.with_context(|| format!("enrol device {number}"))?;
            Device::new(shared, dialer, number < followers)
        }
    });
    futures_util::stream::iter(enrolling).buffer_unordered(ENROLLED_AT_ONCE).try_collect().await
}

/// Opens a socket on an address of its own in 127.0.0.0/8.
fn socket(number: usize) -> Result<ClientEndpoint> {
    let [.., high, low] = u32::try_from(number).context("a number of a socket")?.to_be_bytes();
    let address = Ipv4Addr::new(127, 1, high, low);
    ClientEndpoint::bind((address, 0).into()).with_context(|| format!("open a socket on {address}"))
}

/// Enrols one device as `edge-agent enroll` does; returns the dialer with its certificate.
async fn one(token: &JoinToken, socket: ClientEndpoint) -> Result<Dialer> {
    let key = DeviceKey::generate()?;
    let config = DialerConfig {
        identity: None,
        trust: Trust::CaFingerprint(token.ca),
        server_name: token.server_name.clone(),
        alpn: Alpn::Enrol,
        limits: Limits::agent(),
        congestion: Congestion::default(),
    };
    let connection = Dialer::new(config)?.on(socket.clone()).dial(&token.hub).await?;
    let request = EnrolRequest {
        secret: token.secret.clone(),
        csr_der: key.csr_der()?,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let (response, _exchange) = connection.request(Priority::Control, &request, &[]).await?;
    connection.close(CloseCode::Done, "enrolled");
    let enrolled = match response {
        EnrolResponse::Enrolled(enrolled) => enrolled,
        EnrolResponse::Refused(refusal) => bail!("the hub refused: {refusal}"),
    };
    dialer(token, key.identity(&enrolled.chain_der)?, enrolled.ca_der, socket)
}

fn dialer(token: &JoinToken, identity: Identity, ca_der: bytes::Bytes, socket: ClientEndpoint) -> Result<Dialer> {
    let config = DialerConfig {
        identity: Some(identity),
        trust: Trust::CaDer(ca_der),
        server_name: token.server_name.clone(),
        alpn: Alpn::Device,
        limits: Limits::agent(),
        congestion: Congestion::default(),
    };
    Ok(Dialer::new(config)?.on(socket))
}
