//! Half handshakes by the hundred: real first packets, from an address of their own, whose senders never go on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::JoinToken;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use transport::Trust;

use super::device::dialer;

/// Source address of the flood; agents of these tests come from 127.0.0.1.
const SOURCE: &str = "127.0.0.2:0";

/// Maximum length of a datagram in bytes.
const DATAGRAM_BYTES: usize = 1500;

/// First byte of a QUIC Retry packet, without the bits that may be anything (RFC 9000, section 17.2.5).
const RETRY: u8 = 0xf0;

/// Begins handshakes at a rate until dropped.
pub(super) struct Flood {
    _tasks: JoinSet<()>,
}

impl Flood {
    pub(super) async fn start(token: &JoinToken, per_second: u32) -> Self {
        let hub: SocketAddr = token.hub[0].parse().unwrap();
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let front_address = front.local_addr().unwrap().to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(half_forward(front, hub));
        let token = token.clone();
        tasks.spawn(async move {
            let mut begin = tokio::time::interval(Duration::from_secs(1) / per_second);
            let mut dials = JoinSet::new();
            loop {
                begin.tick().await;
                let dialer = dialer(&token, None, Trust::CaFingerprint(token.ca));
                let target = vec![front_address.clone()];
                dials.spawn(async move { drop(dialer.dial(&target).await) });
                while dials.try_join_next().is_some() {}
            }
        });
        Self { _tasks: tasks }
    }
}

/// Passes what clients send on to the hub, each from a port of its own, and of what comes back only Retry packets: so
/// each address is proven, and no handshake ever goes on.
async fn half_forward(front: Arc<UdpSocket>, hub: SocketAddr) {
    let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut returning = JoinSet::new();
    let mut datagram = [0; DATAGRAM_BYTES];
    while let Ok((length, client)) = front.recv_from(&mut datagram).await {
        let back = match backs.get(&client) {
            Some(back) => Arc::clone(back),
            None => {
                let back = Arc::new(UdpSocket::bind(SOURCE).await.unwrap());
                backs.insert(client, Arc::clone(&back));
                returning.spawn(retries_only(Arc::clone(&back), Arc::clone(&front), client));
                back
            }
        };
        back.send_to(&datagram[..length], hub).await.ok();
    }
}

async fn retries_only(back: Arc<UdpSocket>, front: Arc<UdpSocket>, client: SocketAddr) {
    let mut datagram = [0; DATAGRAM_BYTES];
    while let Ok((length, _hub)) = back.recv_from(&mut datagram).await {
        if datagram[0] & RETRY == RETRY {
            front.send_to(&datagram[..length], client).await.ok();
        }
    }
}
