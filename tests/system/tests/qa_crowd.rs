//! Tests that unauthenticated connections to the hub use their own quota and nothing else.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use protocol::JoinToken;
use testkit::{Fleet, story, wait};
use tokio::task::JoinSet;
use transport::{Alpn, Congestion, Connection, Dialer, DialerConfig, Limits, Trust};

/// Number of connections that the issue on threats names; each uses a socket here.
const STRANGERS: usize = 1000;

/// Maximum resident memory in bytes of a hub with one small model and all these connections.
const RESIDENT_BYTES_MAX: u64 = 512 * 1024 * 1024;

#[test]
fn a_thousand_connections_without_a_certificate_cost_the_fleet_nothing() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        let token: JoinToken = fleet.hub.token("attic")?.parse()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let crowd = runtime.block_on(crowd(&token))?;
        ensure!(!crowd.is_empty(), "not one stranger got as far as a handshake");
        for index in 0..50 {
            let reply = fleet.infer(index, "only-hub")?.ok()?;
            ensure!(reply.parameter("place") == "hub", "{}", reply.json);
        }
        let resident = fleet.hub.daemon()?.resident_bytes()?;
        ensure!(resident < RESIDENT_BYTES_MAX, "the hub holds {resident} bytes");
        // Their permits are revoked, so an honest machine can connect.
        let attic = site.agent("attic")?;
        wait::until_true("an honest machine joins", || Ok(attic.enrol_with(&token.to_string())?.code == Some(0)))?;
        drop(crowd);
        ensure!(fleet.hub.stop()?.success(), "the hub did not stop cleanly");
        Ok(())
    });
}

/// Opens all connections at once and sends nothing on them.
async fn crowd(token: &JoinToken) -> Result<Vec<Connection>> {
    let mut dialling = JoinSet::new();
    for number in 0..STRANGERS {
        let config = DialerConfig {
            identity: None,
            trust: Trust::CaFingerprint(token.ca),
            server_name: token.server_name.clone(),
            alpn: if number % 4 == 0 { Alpn::Device } else { Alpn::Enrol },
            limits: Limits { handshake: Duration::from_secs(20), ..Limits::agent() },
            congestion: Congestion::default(),
        };
        let (dialer, hub) = (Dialer::new(config).context("make a dialer")?, token.hub.clone());
        dialling.spawn(async move { dialer.dial(&hub).await });
    }
    let dialled = dialling.join_all().await;
    Ok(dialled.into_iter().filter_map(Result::ok).collect())
}
