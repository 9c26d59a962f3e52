//! Judges the addresses that join tokens tell devices to dial: which of them no device can reach, and what to change.
//!
//! Asked at the start, for each join token, by `cloud-hub init` and by `cloud-hub doctor`. A hub whose gateway listens on
//! loopback only is meant for this machine alone, so its loopback names are right.

use std::net::IpAddr;
use std::time::Duration;

use crate::config::HubConfig;

/// Longest wait for the resolver. A hub must start, and a token must be made, also where no resolver answers.
const RESOLVE_WITHIN: Duration = Duration::from_secs(2);

/// Reason that no device can reach an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It is the loopback interface, where each machine finds itself.
    Loopback,
    /// It is `0.0.0.0` or `::`, which can be listened on and not dialled.
    Unspecified,
}

/// Returns the addresses that join tokens carry, `host:port`; `port` is the one that the gateway is bound to.
#[must_use]
pub fn public_addresses(config: &HubConfig, port: u16) -> Vec<String> {
    let with_port = |address: &String| match address.strip_suffix(":0") {
        Some(host) => format!("{host}:{port}"),
        None => address.clone(),
    };
    if config.gateway.public.is_empty() {
        let name = config.server_name();
        let is_v6 = name.parse::<std::net::Ipv6Addr>().is_ok();
        vec![if is_v6 { format!("[{name}]:{port}") } else { format!("{name}:{port}") }]
    } else {
        config.gateway.public.iter().map(with_port).collect()
    }
}

/// Returns a sentence for each address that no device can reach, without asking a resolver.
#[must_use]
pub fn unreachable(config: &HubConfig, port: u16) -> Vec<String> {
    let file = file_of(config);
    let listens_on_loopback = config.gateway.listen.ip().is_loopback();
    let addresses = public_addresses(config, port);
    let mut warnings = Vec::new();
    for address in &addresses {
        match fault(host_of(address)) {
            Some(Fault::Loopback) if listens_on_loopback => {}
            Some(Fault::Loopback) => warnings.push(format!(
                "join tokens tell devices to dial {address}, which each machine takes for itself: set hub.names = \
                 [\"NAME\"] in {file} to a name or address of this machine that devices reach, and restart the hub; for a \
                 hub that serves this machine alone set gateway.listen = \"127.0.0.1:{port}\""
            )),
            Some(Fault::Unspecified) => warnings.push(format!(
                "join tokens tell devices to dial {address}, which is no address of a machine: set hub.names or \
                 gateway.public in {file} to a name or address that devices reach, and restart the hub"
            )),
            None => {}
        }
    }
    let is_dialled_from_outside = addresses.iter().any(|address| fault(host_of(address)).is_none());
    if listens_on_loopback && config.gateway.public.is_empty() && is_dialled_from_outside {
        warnings.push(format!(
            "join tokens tell devices to dial {}, but the hub listens on {} only, which other machines do not reach: set \
             gateway.listen = \"0.0.0.0:{port}\" in {file} and restart the hub; behind a proxy on this machine set \
             gateway.public",
            addresses.join(", "),
            config.gateway.listen
        ));
    }
    warnings
}

/// Returns a sentence for each address whose name this machine cannot resolve.
pub async fn unresolved(config: &HubConfig, port: u16) -> Vec<String> {
    let mut warnings = Vec::new();
    for address in public_addresses(config, port) {
        let host = host_of(&address);
        if host.parse::<IpAddr>().is_ok() || fault(host).is_some() {
            continue;
        }
        let resolved = tokio::time::timeout(RESOLVE_WITHIN, tokio::net::lookup_host(&*address)).await;
        let problem = match resolved.map(|resolved| resolved.map(Iterator::count)) {
            Ok(Ok(0)) => "it has no address".to_owned(),
            Ok(Ok(_some)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => format!("no resolver answered within {} s", RESOLVE_WITHIN.as_secs()),
        };
        warnings.push(format!(
            "join tokens tell devices to dial {address}, and this machine cannot resolve {host} ({problem}): enter it into \
             the DNS that devices use, or correct hub.names or gateway.public in {}",
            file_of(config)
        ));
    }
    warnings
}

/// Returns the config file to name in a message.
#[must_use]
pub fn file_of(config: &HubConfig) -> String {
    config.origin.as_ref().map_or_else(|| "hub.toml".to_owned(), |file| file.display().to_string())
}

fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _port)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn fault(host: &str) -> Option<Fault> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        let ip = ip.to_canonical();
        return match () {
            () if ip.is_loopback() => Some(Fault::Loopback),
            () if ip.is_unspecified() => Some(Fault::Unspecified),
            () => None,
        };
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let is_local = ["localhost", "localhost.localdomain", "ip6-localhost"].contains(&name.as_str());
    (is_local || name.ends_with(".localhost")).then_some(Fault::Loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(names: &[&str], public: &[&str], listen: &str) -> HubConfig {
        let mut config = HubConfig::default();
        config.hub.names = names.iter().map(|&name| name.to_owned()).collect();
        config.gateway.public = public.iter().map(|&address| address.to_owned()).collect();
        config.gateway.listen = listen.parse().unwrap();
        config.origin = Some("/etc/sanderling/hub.toml".into());
        config
    }

    #[test]
    fn a_hub_that_devices_cannot_reach_is_told_with_the_line_to_write_and_the_file() {
        let all = "0.0.0.0:4433";
        for (names, public, listen) in [
            (&[][..], &[][..], all),
            (&["localhost"], &[], all),
            (&["LocalHost."], &[], all),
            (&["hub.localhost"], &[], all),
            (&["127.0.0.1"], &[], all),
            (&["127.8.8.8"], &[], all),
            (&["::1"], &[], "[::]:4433"),
            (&["0.0.0.0"], &[], all),
            (&["hub.example"], &["0.0.0.0:4433"], all),
            (&["hub.example"], &["[::]:0"], all),
            (&["hub.example"], &["localhost:4433"], all),
            (&["hub.example"], &["[::ffff:127.0.0.1]:4433"], all),
            (&["hub.example"], &[], "127.0.0.1:4433"),
            // One of two is worth a word too: devices try it in turn and lose time.
            (&["hub.example"], &["hub.example:4433", "127.0.0.1:4433"], all),
        ] {
            let warned = unreachable(&hub(names, public, listen), 4433);
            assert_eq!(warned.len(), 1, "{names:?} {public:?} {listen}: {warned:?}");
            assert!(warned[0].contains("/etc/sanderling/hub.toml") && warned[0].contains("set "), "{warned:?}");
        }
    }

    #[test]
    fn a_hub_that_is_reached_or_is_meant_for_this_machine_alone_is_not_warned_of() {
        for (names, public, listen) in [
            (&["hub.example"][..], &[][..], "0.0.0.0:4433"),
            (&["192.0.2.7"], &[], "0.0.0.0:4433"),
            (&["2001:db8::7"], &[], "[::]:4433"),
            (&["localhost"], &[], "127.0.0.1:4433"),
            (&[], &["127.0.0.1:0"], "127.0.0.1:0"),
            (&[], &["hub.example:4433"], "0.0.0.0:4433"),
            // A proxy on this machine.
            (&["hub.example"], &["hub.example:443"], "127.0.0.1:4433"),
        ] {
            let warned = unreachable(&hub(names, public, listen), 4433);
            assert!(warned.is_empty(), "{names:?} {public:?} {listen}: {warned:?}");
        }
    }

    #[test]
    fn tokens_carry_the_bound_port_and_brackets_around_ipv6() {
        assert_eq!(public_addresses(&hub(&["2001:db8::7"], &[], "[::]:0"), 7), ["[2001:db8::7]:7"]);
        assert_eq!(public_addresses(&hub(&["h"], &["a.example:0", "b:1"], "[::]:0"), 7), ["a.example:7", "b:1"]);
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_is_told_and_an_address_is_not_asked_for() {
        // RFC 6761: names under `invalid` never resolve.
        let warned = unresolved(&hub(&["no-such-hub.invalid"], &[], "0.0.0.0:4433"), 4433).await;
        assert!(warned.len() == 1 && warned[0].contains("no-such-hub.invalid"), "{warned:?}");
        assert!(unresolved(&hub(&["192.0.2.7"], &[], "0.0.0.0:4433"), 4433).await.is_empty());
        assert!(unresolved(&hub(&["localhost"], &[], "127.0.0.1:4433"), 4433).await.is_empty());
    }
}
