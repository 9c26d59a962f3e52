//! Tests of a hub that is killed and starts again on the same port: every device detects it from its next packet.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::v1::HubResponse;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::pair::{Site, at, connect};
use crate::{CloseReason, Connection, EndpointKeys, ListenError, Listener, ListenerConfig, Priority};

/// Number of devices that are connected at once: enough to exceed a limit on resets (quinn's own would allow 50 per
/// second).
const DEVICES: usize = 300;

/// Maximum time for the detection: far less than the 30 s after which a silent connection ends, far more than a loaded
/// machine needs.
const LEARNED_WITHIN: Duration = Duration::from_secs(15);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Starts a hub in a runtime of its own: shutting the runtime down ends its sockets and tasks as a kill would, without
/// a close.
fn hub_process(config: &ListenerConfig) -> (Runtime, SocketAddr) {
    start(config).unwrap()
}

/// Starts the hub again on the same port, as soon as the port is free.
fn hub_process_again(config: &ListenerConfig) -> Runtime {
    loop {
        match start(config) {
            Ok((runtime, _addr)) => return runtime,
            Err(ListenError::Bind { .. }) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => panic!("{error}"),
        }
    }
}

fn start(config: &ListenerConfig) -> Result<(Runtime, SocketAddr), ListenError> {
    let runtime = runtime();
    let mut listener = runtime.block_on(async { Listener::bind(config) })?;
    let addr = listener.local_addr().unwrap();
    drop(runtime.spawn(async move {
        let mut kept = Vec::new();
        while let Some(connection) = listener.accept().await {
            kept.push(connection);
        }
    }));
    Ok((runtime, addr))
}

async fn connected(site: &Site, addr: SocketAddr, count: usize) -> Vec<Connection> {
    let dialer = site.dialer(Some(site.device("camera-1")));
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push(dialer.dial(&at(addr)).await.unwrap());
    }
    connections
}

/// Sends a packet on each connection and counts those that end as forgotten in time.
async fn learned(connections: Vec<Connection>) -> usize {
    let mut waiting = JoinSet::new();
    for connection in connections {
        waiting.spawn(async move {
            let question = super::pair::request(0);
            let asking = connection.request::<_, HubResponse>(Priority::Inference, &question, &[]);
            drop(tokio::time::timeout(LEARNED_WITHIN, asking).await);
            connection.close_reason() == Some(CloseReason::Forgotten)
        });
    }
    waiting.join_all().await.into_iter().filter(|learned| *learned).count()
}

#[test]
fn every_device_of_a_killed_hub_learns_of_the_restart_from_its_next_packet() {
    let (site, devices) = (Site::new(), runtime());
    let config = site.listener_config();
    let (first, addr) = hub_process(&config);
    let connections = devices.block_on(connected(&site, addr, DEVICES));
    first.shutdown_background();
    let again = hub_process_again(&ListenerConfig { addr, ..config });
    let knowing = devices.block_on(learned(connections));
    again.shutdown_background();
    assert_eq!(knowing, DEVICES);
}

#[test]
fn a_hub_with_other_keys_ends_no_connection_of_before() {
    let (site, devices) = (Site::new(), runtime());
    let config = site.listener_config();
    let (first, addr) = hub_process(&config);
    let connection = devices.block_on(connected(&site, addr, 1)).remove(0);
    first.shutdown_background();
    let keys = EndpointKeys::generate().unwrap();
    let again = hub_process_again(&ListenerConfig { addr, keys, ..config });
    let asking = async { tokio::time::timeout(Duration::from_secs(1), super::pair::ask(&connection, 10)).await };
    assert!(devices.block_on(asking).is_err(), "an answer came");
    assert_eq!(connection.close_reason(), None, "nobody could end it");
    again.shutdown_background();
}

#[tokio::test]
async fn a_renewed_ca_and_its_old_certificates_go_together() {
    let site = Site::new();
    let old_identity = site.device("camera-1");
    let renewed = site.ca.renewed(std::time::SystemTime::now()).unwrap();
    let config = ListenerConfig {
        identity: renewed
            .issue_server(&[super::pair::NAME.to_owned()], crate::Validity::from_now(super::pair::DAY))
            .unwrap(),
        ca_der: renewed.cert_der(),
        ..site.listener_config()
    };
    // The device keeps the CA's old certificate; the hub presents the new one.
    connect(&site.dialer(Some(old_identity)), &mut Listener::bind(&config).unwrap()).await;
}
