//! Tests of identities over time and accidents: expired certificates, wrong clocks, crashed hubs, interrupted
//! enrolments, copied state folders.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use protocol::v1::{DeviceRequest, Hello, HubResponse, RefusalCode, feature};
use serde_json::Value;
use testkit::digits::catalog;
use testkit::{Agent, Fleet, Hub, Site, skip, story, tools, wait};
use transport::{
    Alpn, CloseCode, CloseReason, Congestion, Connection, Dialer, DialerConfig, Identity, Limits, Priority, Trust,
};

/// Lifetime of certificates that expire during a test.
const SHORT: &str = "6s";

fn unix_ms() -> Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_millis())?)
}

/// Returns a fleet whose agent is stopped and whose certificate has expired.
fn expired_fleet(site: &Site, settings: &[(&str, &str)]) -> Result<Fleet> {
    let mut hub = site.hub()?;
    for (field, value) in [("gateway.certificate_lifetime", SHORT)].iter().chain(settings) {
        hub.config().set(field, *value)?;
    }
    hub.start()?;
    let mut fleet = Fleet::with_hub(site, hub)?;
    fleet.agent.stop()?;
    let until = fleet.hub.device("kitchen")?["certificate_until_unix_ms"].as_u64().context("the certificate's end")?;
    wait::until_true("the certificate expired", || Ok(unix_ms()? > until + 1100))?;
    Ok(fleet)
}

fn key_of(agent: &Agent) -> Result<Vec<u8>> {
    Ok(std::fs::read(agent.state_dir().join("identity/device.key"))?)
}

#[test]
fn a_device_that_slept_past_its_certificate_renews_it_when_it_is_back() {
    story(|site| {
        let mut fleet = expired_fleet(site, &[])?;
        let shown = fleet.hub.device("kitchen")?;
        ensure!(shown["renewable_until_unix_ms"].as_u64() > shown["certificate_until_unix_ms"].as_u64(), "{shown}");
        let list = fleet.hub.run(["device", "list"])?.ok()?.stdout;
        ensure!(list.contains("certificate expired, may renew until"), "{list}");
        let key = key_of(&fleet.agent)?;
        fleet.agent.start()?;
        fleet.agent.wait_hub(true)?;
        ensure!(key_of(&fleet.agent)? != key, "the key is still the old one");
        fleet.infer(0, "only-hub")?.ok()?;
        // Also after the hub's restart, which knows only the new key.
        fleet.hub.stop()?;
        fleet.hub.start()?;
        fleet.agent.wait_hub(true)?;
        ensure!(fleet.hub.device("kitchen")?["connected"] == true, "the device is away");
        Ok(())
    });
}

#[test]
fn a_device_whose_hub_was_away_for_longer_than_its_certificate_renews_it_when_the_hub_is_back() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.config().set("gateway.certificate_lifetime", SHORT)?;
        hub.start()?;
        let mut fleet = Fleet::with_hub(site, hub)?;
        let until = fleet.hub.device("kitchen")?["certificate_until_unix_ms"].as_u64().context("an end")?;
        fleet.hub.kill()?;
        wait::until_true("the certificate expired", || Ok(unix_ms()? > until + 7000))?;
        fleet.hub.start()?;
        answered_within(&fleet, BACK_WITHIN)
    });
}

#[test]
fn without_a_grace_a_device_that_slept_past_its_certificate_is_told_to_enrol_again() {
    story(|site| {
        let mut fleet = expired_fleet(site, &[("gateway.renewal_grace", "0s")])?;
        fleet.agent.start()?;
        fleet.expect_local(1)?;
        fleet.agent.wait_trouble(&["enrol"])?;
        let refused = fleet.infer(0, "only-hub")?;
        ensure!(refused.status == 503, "only-hub answered {}: {}", refused.status, refused.json);
        let list = fleet.hub.run(["device", "list"])?.ok()?.stdout;
        ensure!(list.contains("enrol it again"), "{list}");
        Ok(())
    });
}

#[test]
fn a_revoked_device_does_not_come_back_by_a_renewal() {
    story(|site| {
        let mut fleet = expired_fleet(site, &[])?;
        fleet.hub.run(["device", "revoke", "kitchen"])?.ok()?;
        let key = key_of(&fleet.agent)?;
        fleet.agent.start()?;
        fleet.agent.wait_trouble(&["revoked"])?;
        ensure!(key_of(&fleet.agent)? == key, "a new key was certified");
        ensure!(fleet.hub.device("kitchen")?["connected"] == false, "a revoked device is connected");
        Ok(())
    });
}

#[test]
fn an_expired_certificate_is_good_for_nothing_but_its_renewal() {
    story(|site| {
        let fleet = expired_fleet(site, &[])?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let address = vec![fleet.hub.address("quic")?];
        runtime.block_on(async {
            let connection = dialer(&fleet.agent)?.dial(&address).await?;
            let HubResponse::Welcome(welcome) = ask(&connection, hello()).await? else { bail!("no welcome") };
            ensure!(feature::is_renewal_only(&welcome.features) && welcome.offers.is_empty(), "{welcome:?}");
            for request in [
                DeviceRequest::Metadata { name: "timestamp.json".to_owned(), bytes_max: 1 << 20 },
                DeviceRequest::Metadata { name: "root.json".to_owned(), bytes_max: 1 << 20 },
            ] {
                let HubResponse::Refused(refusal) = ask(&connection, request).await? else { bail!("it was served") };
                ensure!(refusal.code == RefusalCode::Busy && refusal.message.contains("expired"), "{refusal}");
            }
            let key = transport::DeviceKey::generate()?;
            let renewal = DeviceRequest::Renew { csr_der: key.csr_der()? };
            ensure!(matches!(ask(&connection, renewal).await?, HubResponse::Renewed { .. }), "no certificate");
            Ok(())
        })?;
        ensure!(fleet.hub.device("kitchen")?["connected"] == false, "it counts as connected");
        Ok(())
    });
}

fn hello() -> DeviceRequest {
    DeviceRequest::Hello(Hello {
        agent_version: "0.1.0".to_owned(),
        features: Vec::new(),
        device_now_unix_ms: 0,
        models: Vec::new(),
        engines: Vec::new(),
    })
}

async fn ask(connection: &Connection, request: DeviceRequest) -> Result<HubResponse> {
    let (answer, _exchange) = connection.request(Priority::Control, &request, &[]).await?;
    Ok(answer)
}

/// Returns a dialer with the agent's identity.
fn dialer(agent: &Agent) -> Result<Dialer> {
    let folder = agent.state_dir().join("identity");
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).with_context(|| format!("read {file}"));
    Ok(Dialer::new(DialerConfig {
        identity: Some(Identity::from_pem(&read("device.crt")?, &read("device.key")?)?),
        trust: Trust::CaDer(transport::certificate_der(&read("ca.crt")?)?),
        server_name: "localhost".to_owned(),
        alpn: Alpn::Device,
        limits: Limits::agent(),
        congestion: Congestion::Cubic,
    })?)
}

/// Names of the steps at which an enrolment can be interrupted (`edge-agent/daemon/src/crash.rs`), in their order.
const ENROLMENT_STEPS: [&str; 5] =
    ["enrol-key-stored", "enrol-answered", "enrol-trust-stored", "renewal-stored", "enrol-identity-stored"];

#[test]
fn an_enrolment_that_is_cut_off_anywhere_is_finished_with_the_same_token() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        for step in ENROLMENT_STEPS {
            let token = hub.token(step)?;
            let mut agent = site.agent(step)?;
            agent.env("SANDERLING_CRASH_AT", step);
            let cut = agent.enrol_with(&token)?;
            ensure!(cut.code.is_none(), "{step}: it ended by itself: {:?} {}", cut.code, cut.stderr);
            agent.env("SANDERLING_CRASH_AT", "");
            agent.enrol_with(&token)?.ok().with_context(|| format!("after a cut at {step}"))?;
            let pending = agent.state_dir().join("identity/enrolling.json");
            ensure!(!pending.exists(), "{step}: the pending key is still there");
            agent.start()?;
            agent.wait_hub(true).with_context(|| format!("after a cut at {step}"))?;
            agent.stop()?;
            // The token is bound to this machine's key.
            let thief = site.agent(&format!("thief-{step}"))?.enrol_with(&token)?;
            ensure!(thief.code != Some(0) && thief.stderr.contains("used"), "{step}: {}", thief.stderr);
        }
        Ok(())
    });
}

/// Maximum time to reconnect: far less than the idle timeout of 30 s, far more than a loaded machine needs for a dial.
const BACK_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn the_hub_answers_again_soon_after_it_was_killed_and_started() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        for _round in 0..2 {
            fleet.infer(0, "only-hub")?.ok()?;
            fleet.hub.kill()?;
            fleet.hub.start()?;
            answered_within(&fleet, BACK_WITHIN)?;
        }
        let mode = {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::metadata(fleet.hub.folder().join("quic.keys"))?.permissions().mode() & 0o777
        };
        ensure!(mode == 0o600, "the QUIC keys are open to others: {mode:o}");
        Ok(())
    });
}

#[test]
fn a_hub_that_lost_its_keys_is_found_again_by_a_dial_beside_the_silent_connection() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        fleet.hub.kill()?;
        // As after a move to another machine: no process there can end the earlier connections.
        std::fs::remove_file(fleet.hub.folder().join("quic.keys"))?;
        fleet.hub.start()?;
        answered_within(&fleet, BACK_WITHIN)
    });
}

fn answered_within(fleet: &Fleet, limit: Duration) -> Result<()> {
    wait::until_within("the hub answers again", limit, || {
        let reply = fleet.infer(0, "only-hub")?;
        Ok((reply.status == 200).then_some(()))
    })
}

/// Copies a folder with all its content, as a disk image does.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[test]
fn a_copied_identity_is_told_to_the_operator_and_to_both_machines() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        let mut copy = site.agent("kitchen-copy")?;
        copy_folder(&fleet.agent.state_dir(), &copy.state_dir())?;
        // One machine that restarts and reconnects does not count as two.
        for _restart in 0..3 {
            fleet.agent.start()?;
            fleet.agent.wait_hub(true)?;
            fleet.agent.kill()?;
        }
        ensure!(fleet.hub.device("kitchen")?["cloned"].is_null(), "a restart was taken for a clone");
        fleet.agent.start()?;
        copy.start()?;
        let patient = Duration::from_secs(180);
        let cloned = wait::until_within("the hub notices the clone", patient, || {
            let cloned = fleet.hub.device("kitchen")?["cloned"].clone();
            Ok((!cloned.is_null()).then_some(cloned))
        })?;
        let addresses = cloned["addresses"].as_array().context("addresses")?;
        ensure!(addresses.len() == 2 && addresses[0] != addresses[1], "{cloned}");
        let list = fleet.hub.run(["device", "list"])?.ok()?.stdout;
        let page = fleet.hub.run(["device", "show", "kitchen"])?.ok()?.stdout;
        for text in [&list, &page] {
            ensure!(text.contains("warning: two machines use the identity of device kitchen: 127.0.0.1:"), "{text}");
        }
        for agent in [&fleet.agent, &copy] {
            wait::until_within("the device hears of its clone", patient, || {
                let told = agent.status()?["hub"]["identity_also_at"].clone();
                Ok(told.as_str().map(str::to_owned))
            })?;
            let status = agent.run(["status"])?.ok()?.stdout;
            ensure!(status.contains("another machine uses the identity"), "{status}");
            let doctor = agent.run(["doctor", "--json"])?;
            let checks: Value = serde_json::from_str(&doctor.stdout)?;
            let clone = checks.as_array().and_then(|checks| checks.iter().find(|check| check["check"] == "clone"));
            ensure!(clone.is_some_and(|check| check["result"] == "warning"), "{checks}");
        }
        Ok(())
    });
}

/// Returns the environment that shifts a daemon's clock, like `-1d` or `+60d`; empty for the right time.
fn shifted(shift: &str) -> Option<[(&'static str, String); 3]> {
    let library = tools::faketime(Path::new("/"))?;
    let (library, real) = if shift.is_empty() { (String::new(), "") } else { (library.display().to_string(), "1") };
    let names = ["LD_PRELOAD", "FAKETIME", "FAKETIME_DONT_FAKE_MONOTONIC"];
    Some([(names[0], library), (names[1], shift.to_owned()), (names[2], real.to_owned())])
}

fn shift_agent(agent: &mut Agent, shift: &str) -> bool {
    let Some(variables) = shifted(shift) else {
        skip("libfaketime is not installed (apt install faketime)");
        return false;
    };
    variables.iter().for_each(|(name, value)| agent.env(name, value));
    true
}

fn shift_hub(hub: &mut Hub, shift: &str) -> bool {
    let Some(variables) = shifted(shift) else {
        skip("libfaketime is not installed (apt install faketime)");
        return false;
    };
    variables.iter().for_each(|(name, value)| hub.env(name, value));
    true
}

#[test]
fn a_device_whose_clock_is_behind_connects_after_a_restart_of_the_hub() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        for shift in ["-10m", "-1d", "-400d", "-20000d"] {
            fleet.agent.stop()?;
            fleet.hub.stop()?;
            if !shift_agent(&mut fleet.agent, shift) {
                return Ok(());
            }
            fleet.hub.start()?;
            fleet.agent.start()?;
            fleet.agent.wait_hub(true).with_context(|| format!("a device at {shift}"))?;
            fleet.infer(0, "only-hub")?.ok()?;
        }
        Ok(())
    });
}

#[test]
fn a_new_device_whose_clock_is_behind_enrols() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        for (at, shift) in ["-1d", "-20000d"].into_iter().enumerate() {
            let mut agent = site.agent(&format!("behind-{at}"))?;
            if !shift_agent(&mut agent, shift) {
                return Ok(());
            }
            agent.enrol(&hub)?;
            agent.start()?;
            agent.wait_hub(true).with_context(|| format!("a device at {shift}"))?;
        }
        Ok(())
    });
}

#[test]
fn a_hub_whose_clock_went_back_a_day_serves_enrols_and_renews() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.hub.stop()?;
        if !shift_hub(&mut fleet.hub, "-1d") {
            return Ok(());
        }
        fleet.hub.start()?;
        fleet.agent.wait_hub(true)?;
        fleet.infer(0, "only-hub")?.ok()?;
        let attic = site.agent("attic")?;
        attic.enrol(&fleet.hub)?;
        // With the right clock again, its earlier certificates are valid.
        fleet.hub.stop()?;
        shift_hub(&mut fleet.hub, "");
        fleet.hub.start()?;
        fleet.agent.wait_hub(true)?;
        let mut attic = attic;
        attic.start()?;
        attic.wait_hub(true)
    });
}

/// Gives the operator a new token, as on a hub whose last one has expired.
fn new_operator(hub: &Hub) -> Result<()> {
    let (config, context) = (hub.folder().join("hub.toml"), hub.folder().join("operator.toml"));
    std::fs::remove_file(&context)?;
    let (config, context) = (config.display().to_string(), context.display().to_string());
    hub.run(["operator", "create", "me", "--config", &config, "--out", &context])?.ok().map(drop)
}

/// Restarts both machines `later` after the device was last connected.
fn woken_up(site: &Site, later: &str, grace: &str) -> Result<Option<Fleet>> {
    let mut hub = site.hub()?;
    hub.config().set("gateway.renewal_grace", grace)?;
    hub.start()?;
    let mut fleet = Fleet::with_hub(site, hub)?;
    fleet.agent.stop()?;
    fleet.hub.stop()?;
    if !shift_hub(&mut fleet.hub, later) || !shift_agent(&mut fleet.agent, later) {
        return Ok(None);
    }
    new_operator(&fleet.hub)?;
    fleet.hub.start()?;
    fleet.agent.start()?;
    Ok(Some(fleet))
}

#[test]
fn two_months_later_a_device_renews_and_the_hub_enrols() {
    story(|site| {
        let Some(fleet) = woken_up(site, "+60d", "90d")? else { return Ok(()) };
        fleet.agent.wait_hub(true)?;
        fleet.infer(0, "only-hub")?.ok()?;
        let mut attic = site.agent("attic")?;
        shift_agent(&mut attic, "+60d");
        attic.enrol(&fleet.hub)?;
        attic.start()?;
        attic.wait_hub(true)
    });
}

#[test]
fn after_the_grace_a_device_is_refused_with_advice_and_answers_alone() {
    story(|site| {
        let Some(fleet) = woken_up(site, "+120d", "90d")? else { return Ok(()) };
        fleet.agent.wait_trouble(&["enrol"])?;
        fleet.expect_local(1)?;
        // With a new token it can enrol again.
        let token = fleet.hub.json(&["token", "create", "--name", "kitchen", "--replace"])?;
        let mut agent = fleet.agent;
        agent.stop()?;
        agent.enrol_with(token["token"].as_str().context("a token")?)?.ok()?;
        agent.start()?;
        agent.wait_hub(true)
    });
}

#[test]
fn a_year_later_a_hub_enrols_and_a_device_in_grace_comes_back() {
    story(|site| years_later(site, "+370d"));
}

#[test]
fn two_years_later_a_hub_enrols_and_a_device_in_grace_comes_back() {
    if !tools::runs_long("two_years_later_a_hub_enrols_and_a_device_in_grace_comes_back") {
        return;
    }
    story(|site| years_later(site, "+740d"));
}

fn years_later(site: &Site, later: &str) -> Result<()> {
    let Some(fleet) = woken_up(site, later, "800d")? else { return Ok(()) };
    fleet.agent.wait_hub(true)?;
    fleet.infer(0, "only-hub")?.ok()?;
    let mut attic = site.agent("attic")?;
    shift_agent(&mut attic, later);
    attic.enrol(&fleet.hub)
}

#[test]
fn a_hub_that_is_asked_by_a_device_of_before_the_restart_ends_the_connection() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let address = vec![fleet.hub.address("quic")?];
        let dialer = dialer(&fleet.agent)?;
        let connection = runtime.block_on(async { dialer.dial(&address).await })?;
        fleet.hub.kill()?;
        fleet.hub.start()?;
        let reason = runtime.block_on(async {
            drop(tokio::time::timeout(BACK_WITHIN, ask(&connection, hello())).await);
            connection.close_reason()
        });
        ensure!(reason == Some(CloseReason::Forgotten), "the connection ended with {reason:?}");
        connection.close(CloseCode::Done, "seen");
        fleet.hub.push(&catalog().join("v2"), &[])?.ok().map(drop)
    });
}
