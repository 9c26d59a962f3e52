//! Tests of devices that share a socket.

use std::net::Ipv4Addr;

use super::pair::{Site, ask, at, echo};
use crate::{ClientEndpoint, CloseCode, CloseReason, Peer};

#[tokio::test]
async fn devices_on_one_socket_have_their_own_identities_and_ends() {
    let site = Site::new();
    let mut listener = site.listener();
    let address = at(listener.local_addr().unwrap());
    let socket = ClientEndpoint::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut pairs = Vec::new();
    for name in ["camera-1", "camera-2", "camera-3"] {
        let dialer = site.dialer(Some(site.device(name))).on(socket.clone());
        let (device, hub) = tokio::join!(dialer.dial(&address), listener.accept());
        let (device, hub) = (device.unwrap(), hub.unwrap());
        assert!(matches!(hub.peer(), Peer::Device { id, .. } if id.as_str() == name), "{:?}", hub.peer());
        assert_eq!(hub.remote_addr(), socket.local_addr().unwrap());
        pairs.push((device, hub));
    }
    assert_eq!(socket.connections(), 3);
    let (first, at_hub) = pairs.remove(0);
    first.close(CloseCode::Done, "over");
    // Waits for nothing: the other connections on the socket live on.
    first.drain().await;
    assert!(matches!(at_hub.closed().await, CloseReason::ByPeer { code: CloseCode::Done, .. }));
    for (device, hub) in &pairs {
        tokio::join!(ask(device, 100), echo(hub));
    }
    // A dialer keeps the socket open, and connects on it again.
    let again = site.dialer(Some(site.device("camera-1"))).on(socket.clone());
    drop(pairs);
    let (device, hub) = tokio::join!(again.dial(&address), listener.accept());
    assert_eq!(hub.unwrap().remote_addr(), socket.local_addr().unwrap());
    drop(device);
}
