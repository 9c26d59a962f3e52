//! Tests on bad networks: lost, late, duplicated and reordered packets cost time and nothing else.

use std::time::Duration;

use testkit::udp_proxy::{Faults, UdpProxy};

use super::pair::{Site, ask, connect_via, echo};
use crate::{CloseReason, Congestion, Connection, Dialer, DialerConfig, Limits, Listener, ListenerConfig};

/// A device that reaches its hub through a proxy.
struct Link {
    device: Connection,
    hub: Connection,
    proxy: UdpProxy,
    dialer: Dialer,
    listener: Listener,
}

impl Link {
    async fn new(faults: Faults, seed: u64, limits: Limits, congestion: Congestion) -> Self {
        let site = Site::new();
        let mut listener = Listener::bind(&ListenerConfig { congestion, ..site.listener_config() }).unwrap();
        let proxy = UdpProxy::start(listener.local_addr().unwrap(), faults, seed).await.unwrap();
        let config = DialerConfig { limits, congestion, ..site.dialer_config(Some(site.device("camera-1"))) };
        let dialer = Dialer::new(config).unwrap();
        let (device, hub) = connect_via(&dialer, &mut listener, proxy.addr()).await;
        Self { device, hub, proxy, dialer, listener }
    }

    /// Runs `count` exchanges with bodies of `bytes` bytes in each direction, eight at a time.
    async fn exchange(&self, count: usize, bytes: usize) {
        let asking = futures_util::future::join_all((0..count).map(|_| ask(&self.device, bytes)));
        let serving = futures_util::future::join_all((0..count).map(|_| echo(&self.hub)));
        tokio::join!(asking, serving);
    }
}

const MOBILE: Faults = Faults {
    loss: 0.01,
    duplicate: 0.01,
    reorder: 0.05,
    reorder_by: Duration::from_millis(5),
    delay: Duration::from_millis(5),
    jitter: Duration::from_millis(2),
    paused: false,
};

#[tokio::test]
async fn one_percent_loss_with_reordering_costs_time_and_nothing_else() {
    for congestion in [Congestion::Cubic, Congestion::Bbr] {
        let link = Link::new(MOBILE, 11, Limits::agent(), congestion).await;
        link.exchange(8, 150_000).await;
        let counts = link.proxy.counts();
        assert!(counts.lost > 0 && counts.reordered > 0 && counts.duplicated > 0, "{counts:?}");
    }
}

#[tokio::test]
async fn one_packet_in_five_lost_still_gets_through() {
    let faults = Faults { loss: 0.2, delay: Duration::from_millis(1), ..Faults::NONE };
    let link = Link::new(faults, 5, Limits::agent(), Congestion::Cubic).await;
    link.exchange(4, 2_000).await;
    assert!(link.proxy.counts().lost > 0);
}

#[tokio::test]
async fn a_device_that_moves_keeps_its_connection() {
    let link = Link::new(Faults::NONE, 1, Limits::agent(), Congestion::Cubic).await;
    link.exchange(1, 1000).await;
    let before = link.hub.remote_addr();
    link.proxy.rebind();
    link.exchange(4, 50_000).await;
    assert_ne!(link.hub.remote_addr(), before, "the hub sees the new address");
    assert_eq!(link.device.close_reason(), None);
}

#[tokio::test]
async fn a_short_silence_is_bridged() {
    let link = Link::new(Faults::NONE, 1, Limits::agent(), Congestion::Cubic).await;
    link.proxy.pause();
    let resume = async {
        // Until the first packets are lost in the pause.
        while link.proxy.counts().lost < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        link.proxy.resume();
    };
    tokio::join!(link.exchange(1, 100_000), resume);
}

#[tokio::test]
async fn a_long_silence_ends_the_connection_and_a_new_one_can_be_had() {
    let limits =
        Limits { idle: Duration::from_millis(600), keep_alive: Some(Duration::from_millis(150)), ..Limits::agent() };
    let mut link = Link::new(Faults::NONE, 1, limits, Congestion::Cubic).await;
    link.exchange(1, 10).await;
    link.proxy.pause();
    assert_eq!(link.device.closed().await, CloseReason::Silent);
    link.proxy.resume();
    let (device, hub) = connect_via(&link.dialer, &mut link.listener, link.proxy.addr()).await;
    (link.device, link.hub) = (device, hub);
    link.exchange(1, 10).await;
    assert_eq!(link.dialer.full_handshakes(), 1, "coming back was a resumption");
}
