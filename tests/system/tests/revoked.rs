//! Tests that a revoked device is disconnected at once and permanently, also with a resumed connection; it continues to
//! serve locally.

use anyhow::{Context, Result, bail, ensure};
use protocol::v1::{DeviceRequest, Hello, HubResponse, RefusalCode};
use testkit::{Agent, Fleet, story};
use transport::{
    Alpn, CloseCode, CloseReason, Congestion, DialError, Dialer, DialerConfig, Identity, Limits, Priority, Trust,
};

#[test]
fn a_revoked_device_is_cut_off_now_and_answers_alone() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        fleet.infer(0, "only-hub")?.ok()?;
        fleet.hub.run(["device", "revoke", "kitchen"])?.ok()?;
        fleet.agent.wait_hub(false)?;
        fleet.agent.wait_trouble(&["revoked"])?;
        let refused = fleet.infer(0, "only-hub")?;
        ensure!(refused.status == 503, "only-hub answered {}: {}", refused.status, refused.json);
        fleet.expect_local(1)?;
        let device = fleet.hub.device("kitchen")?;
        ensure!(device["state"] == "revoked" && device["connected"] == false, "{device}");
        // Neither a restart of the device nor of the hub readmits it.
        fleet.agent.stop()?;
        fleet.agent.start()?;
        fleet.hub.stop()?;
        fleet.hub.start()?;
        fleet.agent.wait_trouble(&["revoked"])?;
        ensure!(fleet.hub.device("kitchen")?["connected"] == false, "a revoked device is connected");
        fleet.expect_local(1)
    });
}

#[test]
fn its_name_cannot_be_taken_by_a_new_token() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        fleet.hub.run(["device", "revoke", "kitchen"])?.ok()?;
        let token = fleet.hub.run(["token", "create", "--name", "kitchen", "--json"])?;
        if token.code == Some(0) {
            let text = token.json()?["token"].as_str().unwrap_or_default().to_owned();
            let again = site.agent("kitchen-again")?.enrol_with(&text)?;
            ensure!(again.code != Some(0), "a revoked name was enrolled again");
        }
        ensure!(fleet.hub.device("kitchen")?["state"] == "revoked", "the record changed");
        Ok(())
    });
}

#[test]
fn a_resumed_connection_of_a_revoked_device_gets_nothing() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        let agent = site.agent("kitchen")?;
        agent.enrol(&hub)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let hub_address = vec![hub.address("quic")?];
        let dialer = dialer(&agent)?;
        // The first connection receives a session ticket, the second shows that it is accepted.
        for _connection in 0..2 {
            let answer = runtime.block_on(greet(&dialer, &hub_address))?;
            ensure!(matches!(answer, Greeting::Welcome), "before the revocation: {answer:?}");
        }
        hub.run(["device", "revoke", "kitchen"])?.ok()?;
        for _connection in 0..2 {
            let answer = runtime.block_on(greet(&dialer, &hub_address))?;
            ensure!(matches!(answer, Greeting::Revoked), "after the revocation: {answer:?}");
        }
        // All connections after the first were resumed: no certificate was presented and verified again.
        ensure!(dialer.full_handshakes() == 1, "{} full handshakes", dialer.full_handshakes());
        Ok(())
    });
}

/// Returns a dialer with the agent's identity, which keeps TLS sessions between dials.
fn dialer(agent: &Agent) -> Result<Dialer> {
    let folder = agent.state_dir().join("identity");
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).with_context(|| format!("read {file}"));
    let identity = Identity::from_pem(&read("device.crt")?, &read("device.key")?)?;
    let trust = Trust::CaDer(transport::certificate_der(&read("ca.crt")?)?);
    let config = DialerConfig {
        identity: Some(identity),
        trust,
        server_name: "localhost".to_owned(),
        alpn: Alpn::Device,
        limits: Limits::agent(),
        congestion: Congestion::Cubic,
    };
    Ok(Dialer::new(config)?)
}

/// Result of a connection attempt.
#[derive(Debug)]
enum Greeting {
    Welcome,
    Revoked,
}

/// Connects and sends `Hello`, as every connection of a device begins.
async fn greet(dialer: &Dialer, hub: &[String]) -> Result<Greeting> {
    let connection = match dialer.dial(hub).await {
        Ok(connection) => connection,
        Err(DialError::NotAuthorised { source, .. }) if source.code() == Some(CloseCode::Revoked) => {
            return Ok(Greeting::Revoked);
        }
        Err(error) => return Err(error.into()),
    };
    let hello = Hello {
        agent_version: "0.1.0".to_owned(),
        features: Vec::new(),
        device_now_unix_ms: 0,
        models: Vec::new(),
        engines: Vec::new(),
    };
    let asked = connection.request(Priority::Control, &DeviceRequest::Hello(hello), &[]).await;
    let answer = match asked {
        Ok((HubResponse::Welcome(_), _exchange)) => Greeting::Welcome,
        Ok((HubResponse::Refused(refusal), _exchange)) if refusal.code == RefusalCode::Revoked => Greeting::Revoked,
        Ok((answer, _exchange)) => bail!("the hub answered {answer:?}"),
        Err(error) => match connection.closed().await {
            CloseReason::ByPeer { code: CloseCode::Revoked, .. } => Greeting::Revoked,
            reason => bail!("{error}; the connection ended: {reason}"),
        },
    };
    connection.close(CloseCode::Done, "seen");
    Ok(answer)
}
