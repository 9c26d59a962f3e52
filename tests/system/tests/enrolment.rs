//! Tests of enrolment: one token, one use, a private key that never leaves the device, a certificate that is renewed
//! automatically.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Finished, Fleet, Hub, story, wait};

/// Exit code of a refusal (`console::ExitKind::Refused`).
const REFUSED: i32 = 5;

fn started_hub(site: &testkit::Site) -> Result<Hub> {
    let mut hub = site.hub()?;
    hub.start()?;
    Ok(hub)
}

/// Checks that an enrolment was refused with advice and left no identity behind.
fn expect_refused(agent: &testkit::Agent, tried: &Finished, word: &str) -> Result<()> {
    ensure!(tried.code == Some(REFUSED), "exit code {:?}: {}", tried.code, tried.stderr);
    ensure!(tried.stderr.to_lowercase().contains(word), "the refusal does not say {word:?}: {}", tried.stderr);
    ensure!(tried.stderr.contains("try:"), "the refusal does not say what to do: {}", tried.stderr);
    ensure!(!agent.state_dir().join("identity/device.crt").exists(), "a certificate was written");
    Ok(())
}

#[test]
fn a_token_is_good_once() {
    story(|site| {
        let hub = started_hub(site)?;
        let token = hub.token("kitchen")?;
        site.agent("kitchen")?.enrol_with(&token)?.ok()?;
        let thief = site.agent("thief")?;
        expect_refused(&thief, &thief.enrol_with(&token)?, "used")?;
        ensure!(hub.device("kitchen")?["state"] == "enrolled", "the first device is out");
        Ok(())
    });
}

#[test]
fn an_expired_token_is_refused() {
    story(|site| {
        let hub = started_hub(site)?;
        let created = hub.json(&["token", "create", "--name", "late", "--ttl", "1s"])?;
        let token = created["token"].as_str().context("a token")?;
        let expires = created["expires_unix_ms"].as_u64().context("an expiry")?;
        wait::until_true("the token expired", || Ok(unix_ms()? > expires + 1100))?;
        let late = site.agent("late")?;
        expect_refused(&late, &late.enrol_with(token)?, "expired")
    });
}

fn unix_ms() -> Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_millis())?)
}

#[test]
fn a_forged_token_is_refused_and_a_mistyped_one_is_told_apart() {
    story(|site| {
        let hub = started_hub(site)?;
        let token = hub.token("kitchen")?;
        let agent = site.agent("kitchen")?;
        let mut forged: protocol::JoinToken = token.parse()?;
        let mut secret = *forged.secret.as_bytes();
        secret[0] ^= 1;
        forged.secret = protocol::JoinSecret::from_bytes(secret);
        expect_refused(&agent, &agent.enrol_with(&forged.to_string())?, "token")?;
        let mut other_ca: protocol::JoinToken = token.parse()?;
        other_ca.ca = types::Digest::of(b"another CA");
        let wrong_ca = agent.enrol_with(&other_ca.to_string())?;
        ensure!(wrong_ca.code == Some(REFUSED), "another CA: {:?} {}", wrong_ca.code, wrong_ca.stderr);
        let mut typed: Vec<char> = token.chars().collect();
        let at = typed.len() / 2;
        typed[at] = if typed[at] == 'A' { 'B' } else { 'A' };
        let mistyped = agent.enrol_with(&typed.into_iter().collect::<String>())?;
        ensure!(mistyped.code != Some(0), "a mistyped token was taken");
        ensure!(mistyped.stderr.contains("typ") || mistyped.stderr.contains("cop"), "{}", mistyped.stderr);
        // None of these attempts used the token up.
        agent.enrol_with(&token)?.ok().map(drop)
    });
}

#[test]
fn two_racers_with_one_token_get_one_certificate() {
    story(|site| {
        let hub = started_hub(site)?;
        let token = hub.token("kitchen")?;
        let agents = [site.agent("one")?, site.agent("two")?, site.agent("three")?];
        let tried: Vec<Result<Finished>> = std::thread::scope(|scope| {
            let threads: Vec<_> = agents.iter().map(|agent| scope.spawn(|| agent.enrol_with(&token))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic in a racer")).collect()
        });
        let codes: Vec<Option<i32>> = tried.into_iter().map(|tried| Ok(tried?.code)).collect::<Result<_>>()?;
        let winners = codes.iter().filter(|code| **code == Some(0)).count();
        ensure!(winners == 1, "exit codes {codes:?}");
        Ok(())
    });
}

#[test]
fn a_certificate_is_renewed_with_a_new_key_over_the_live_connection() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.config().set("gateway.certificate_lifetime", "12s")?;
        hub.start()?;
        let fleet = Fleet::with_hub(site, hub)?;
        let key_file = fleet.agent.state_dir().join("identity/device.key");
        let key = std::fs::read(&key_file)?;
        let until = certificate_until(&fleet.hub.device("kitchen")?)?;
        wait::until_true("two renewals", || Ok(certificate_until(&fleet.hub.device("kitchen")?)? > until + 12_000))?;
        ensure!(std::fs::read(&key_file)? != key, "the key is still the old one");
        // Longer than the lifetime of the first certificate, and the hub still responds.
        fleet.infer(0, "only-hub")?.ok().map(drop)
    });
}

fn certificate_until(device: &Value) -> Result<u64> {
    device["certificate_until_unix_ms"].as_u64().context("the end of the certificate")
}

#[test]
fn the_device_key_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    story(|site| {
        let hub = started_hub(site)?;
        let agent = site.agent("kitchen")?;
        agent.enrol(&hub)?;
        let mode = |path: std::path::PathBuf| -> Result<u32> {
            Ok(std::fs::metadata(&path).with_context(|| path.display().to_string())?.permissions().mode() & 0o777)
        };
        ensure!(mode(agent.state_dir().join("identity/device.key"))? == 0o600, "the device key is open to others");
        for file in ["operator.toml", "ca/ca.key"] {
            ensure!(mode(hub.folder().join(file))? == 0o600, "{file} is open to others");
        }
        for file in ["root.key", "targets.key"] {
            ensure!(mode(hub.keys().join(file))? == 0o600, "{file} is open to others");
        }
        Ok(())
    });
}
