//! Tests of the HTTPS admin API: a server by `admin_server_config`, a client as the CLI builds it with ureq.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use rustls::{ServerConnection, Stream};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::pair::{DAY, Site};
use crate::{Validity, admin_client_roots, admin_server_config, crypto_provider};

/// Returns a client that trusts one CA and no other.
fn client(ca_pem: &str) -> ureq::Agent {
    let roots = admin_client_roots(ca_pem).unwrap();
    let roots: Vec<_> = roots.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(crypto_provider())
        .build();
    ureq::Agent::config_builder().tls_config(tls).build().new_agent()
}

/// Serves one request; returns its address and the TLS version and key exchange, or the error.
fn serve_once(site: &Site) -> (String, std::thread::JoinHandle<Result<String, std::io::Error>>) {
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let identity = site.ca.issue_server(&names, Validity::from_now(DAY)).unwrap();
    let config = admin_server_config(&identity).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/api/v1/status", socket.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut tcp, _) = socket.accept()?;
        let mut tls = ServerConnection::new(config).unwrap();
        let mut stream = Stream::new(&mut tls, &mut tcp);
        let mut request = [0; 4096];
        let read = stream.read(&mut request)?;
        assert!(request[..read].starts_with(b"GET /api/v1/status"));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")?;
        tls.send_close_notify();
        tls.complete_io(&mut tcp)?;
        let group = tls.negotiated_key_exchange_group().map(|group| group.name());
        Ok(format!("{:?} {:?}", tls.protocol_version().unwrap(), group.unwrap()))
    });
    (url, server)
}

#[test]
fn an_operator_reaches_the_hub_over_https_with_its_own_ca() {
    let site = Site::new();
    let (url, server) = serve_once(&site);
    let body = client(&site.ca.cert_pem()).get(&url).call().unwrap().body_mut().read_to_string().unwrap();
    assert_eq!(body, "{}");
    assert_eq!(server.join().unwrap().unwrap(), "TLSv1_3 X25519MLKEM768");
}

#[test]
fn an_operator_is_not_fooled_by_another_ca() {
    let (site, other) = (Site::new(), Site::new());
    let (url, server) = serve_once(&site);
    assert!(client(&other.ca.cert_pem()).get(&url).call().is_err());
    assert!(server.join().unwrap().is_err());
}

#[test]
fn the_admin_api_asks_for_no_client_certificate_and_offers_http() {
    let site = Site::new();
    let config = admin_server_config(&site.hub()).unwrap();
    assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert_eq!(Arc::strong_count(&config), 1);
    assert!(admin_client_roots("no certificate here").is_err());
}
