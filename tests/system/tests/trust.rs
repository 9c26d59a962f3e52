//! Tests that no expiry ends the product: expired signatures, stolen online keys, shared and protected offline keys.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use model_tools::sign::{KeyPair, Role, Signed};
use serde_json::{Map, Value, json};
use testkit::agent::files_below;
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::{Agent, Finished, Fleet, Hub, skip, story, tools, wait};

/// Exit code of `console::ExitKind::Refused`.
const REFUSED: i32 = 5;

/// Version that a thief of the online keys signs, far above the versions of honest signers.
const RUN_AWAY: u64 = 1 << 62;

/// Finds libfaketime, or prints the reason for which the test cannot run.
fn faketime() -> Option<PathBuf> {
    let library = tools::faketime(Path::new("/"));
    if library.is_none() {
        skip("libfaketime is not installed (apt install faketime)");
    }
    library
}

/// Returns the environment in which a process sees another time, like `+366d`.
fn shifted(library: &Path, shift: &str) -> [(&'static str, String); 4] {
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", shift.to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

fn move_hub(hub: &mut Hub, library: &Path, shift: &str) {
    shifted(library, shift).iter().for_each(|(name, value)| hub.env(name, value));
}

fn move_agent(agent: &mut Agent, library: &Path, shift: &str) {
    shifted(library, shift).iter().for_each(|(name, value)| agent.env(name, value));
}

/// Runs a verb of trust with the hub's offline keys.
fn trust(hub: &Hub, args: &[&str]) -> Result<Finished> {
    let mut command = hub.command();
    command.arg("trust").args(args).arg("--keys").arg(hub.keys());
    Finished::run(&mut command)
}

/// Runs a verb of trust on the folder of the stopped hub.
fn trust_offline(hub: &mut Hub, args: &[&str]) -> Result<Finished> {
    let config = hub.config().path().display().to_string();
    trust(hub, &[args, &["--config", &config]].concat())
}

/// Creates an operator token of the stopped hub and uses it from now on: the first one is valid for a year.
fn new_operator(hub: &mut Hub) -> Result<()> {
    let out = hub.folder().join("again.toml").display().to_string();
    let config = hub.config().path().display().to_string();
    hub.run(["operator", "create", "again", "--config", &config, "--out", &out])?.ok()?;
    hub.env("SANDERLING_OPERATOR", &out);
    Ok(())
}

fn role<'v>(view: &'v Value, name: &str) -> Result<&'v Value> {
    let roles = view["roles"].as_array().context("roles in the trust status")?;
    roles.iter().find(|role| role["role"] == name).with_context(|| format!("role {name}"))
}

/// Checks that a push is refused with the date and the command.
fn expect_stopped(pushed: &Finished) -> Result<()> {
    ensure!(pushed.code == Some(REFUSED), "the push ended with {:?}: {}", pushed.code, pushed.stderr);
    for word in ["expired", "cloud-hub trust renew"] {
        ensure!(pushed.stderr.contains(word), "{word:?} is not told: {}", pushed.stderr);
    }
    Ok(())
}

fn answers_from_the_hub(fleet: &Fleet) -> Result<()> {
    fleet.agent.wait_hub(true)?;
    let reply = fleet.infer(0, "only-hub")?.ok()?;
    ensure!(reply.parameter("place") == "hub", "the answer came from {:?}", reply.parameter("place"));
    Ok(())
}

/// Tests that a hub with expired signatures serves; publishing waits for the operator, who renews with one verb.
#[test]
fn an_expired_hub_answers_and_is_renewed_and_its_devices_follow() {
    let Some(library) = faketime() else { return };
    story(|site| {
        let mut hub = site.hub()?;
        // Device and operator are added while the signatures are valid; a certificate is valid for seven days.
        move_hub(&mut hub, &library, "+360d");
        new_operator(&mut hub)?;
        hub.start()?;
        hub.push(&catalog().join("v1"), &[])?.ok()?;
        let warned = hub.run(["status"])?.ok()?.stdout;
        ensure!(warned.contains("trust root") && warned.contains("trust renew --keys DIR --root"), "{warned}");
        let mut agent = site.agent("kitchen")?;
        move_agent(&mut agent, &library, "+360d");
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_version("digits", 1)?;
        let doctor = agent.run(["doctor"])?.stdout;
        ensure!(doctor.contains("the root expires at"), "the device does not warn: {doctor}");
        agent.stop()?;
        hub.stop()?;

        move_hub(&mut hub, &library, "+366d");
        hub.start()?;
        move_agent(&mut agent, &library, "+366d");
        agent.start()?;
        let fleet = Fleet { hub, agent, digits: testkit::Digits::load()?.into() };
        answers_from_the_hub(&fleet)?;
        fleet.expect_local(1)?;
        let v2 = catalog().join("v2");
        expect_stopped(&fleet.hub.push(&v2, &[])?)?;
        expect_stopped(&fleet.hub.offer("digits", 1)?)?;
        let view = fleet.hub.json(&["trust", "status"])?;
        let left = role(&view, "root")?["days_left"].as_i64();
        ensure!(view["publishing_stopped"] == true && left.is_some_and(|left| left < 0), "{view}");
        let status = fleet.hub.run(["status"])?.ok()?.stdout;
        ensure!(status.contains("expired") && status.contains("trust renew"), "{status}");
        let gauge = fleet.hub.metrics()?.sum("sanderling_trust_expires_timestamp_seconds", &[("role", "root")]);
        ensure!(gauge > 1e9, "the metric says {gauge}");

        trust(&fleet.hub, &["renew"])?.ok()?;
        let view = fleet.hub.json(&["trust", "status"])?;
        ensure!(view["publishing_stopped"] == false && role(&view, "root")?["version"] == 2, "{view}");
        fleet.hub.push(&v2, &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)
    });
}

/// Tests two years after `init` without a renewal: the hub starts and serves, and the verb also works on the stopped
/// hub.
#[test]
fn a_hub_that_slept_for_two_years_answers_and_is_renewed_while_it_is_stopped() {
    let Some(library) = faketime() else { return };
    story(|site| {
        let mut hub = site.hub()?;
        move_hub(&mut hub, &library, "+730d");
        new_operator(&mut hub)?;
        hub.start()?;
        expect_stopped(&hub.push(&catalog().join("v1"), &[])?)?;
        let mut agent = site.agent("kitchen")?;
        move_agent(&mut agent, &library, "+730d");
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_hub(true)?;
        let running = trust_offline(&mut hub, &["renew"])?;
        ensure!(running.code != Some(0) && running.stderr.contains("leave out --config"), "{}", running.stderr);
        hub.stop()?;
        trust_offline(&mut hub, &["renew"])?.ok()?;
        hub.start()?;
        hub.push(&catalog().join("v1"), &[])?.ok()?;
        agent.wait_version("digits", 1)?;
        let fleet = Fleet { hub, agent, digits: testkit::Digits::load()?.into() };
        answers_from_the_hub(&fleet)
    });
}

/// Tests that a hub whose clock is a day before `init` neither crashes nor locks devices out.
#[test]
fn a_hub_whose_clock_is_a_day_behind_goes_on() {
    let Some(library) = faketime() else { return };
    story(|site| {
        let mut hub = site.hub()?;
        move_hub(&mut hub, &library, "-1d");
        hub.start()?;
        // The device has the right time.
        let mut fleet = Fleet::with_hub(site, hub)?;
        answers_from_the_hub(&fleet)?;
        trust(&fleet.hub, &["renew"])?.ok()?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        // The clock is set right: everything continues from there.
        fleet.hub.stop()?;
        ["LD_PRELOAD", "FAKETIME"].iter().for_each(|name| fleet.hub.env(name, ""));
        fleet.hub.start()?;
        fleet.hub.push(ModelFolder::copy(site, "v1", 3)?.path(), &[])?.ok()?;
        fleet.agent.wait_version("digits", 3)
    });
}

/// Tests that a device that was offline during renewals and rotations of the root follows them all.
#[test]
fn a_device_that_slept_through_renewals_and_rotations_follows() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        for args in [
            ["renew", "--root"].as_slice(),
            &["rotate", "root"],
            &["rotate", "targets"],
            &["renew"],
            &["rotate", "online"],
        ] {
            trust(&fleet.hub, args)?.ok()?;
        }
        let view = fleet.hub.json(&["trust", "status"])?;
        ensure!(role(&view, "root")?["version"] == 6, "{view}");
        // The keys in their folder are the new ones; the old ones are kept under other names.
        let names: Vec<String> = files_below(fleet.hub.keys())?.iter().map(|path| path.display().to_string()).collect();
        ensure!(names.iter().any(|name| name.ends_with("root.key.retired-3")), "{names:?}");
        ensure!(!names.iter().any(|name| name.contains("next")), "{names:?}");
        fleet.hub.stop()?;
        fleet.hub.start()?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 2)
    });
}

/// Signs a file by hand, as a thief with the key does: any version, any time.
fn forge(role: Role, version: u64, meta: Value, expires: &str, key: &KeyPair) -> Result<Vec<u8>> {
    let signed = json!({
        "_type": role.as_str(), "spec_version": "1.0.31", "version": version, "expires": expires, "meta": meta,
    });
    // Canonical JSON: keys in order, no white space.
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let mut names: Vec<&String> = fields.keys().collect();
                names.sort();
                Value::Object(
                    names.into_iter().map(|name| (name.clone(), sorted(&fields[name]))).collect::<Map<_, _>>(),
                )
            }
            other => other.clone(),
        }
    }
    let signed = sorted(&signed);
    let signature = key.sign(serde_json::to_string(&signed)?.as_bytes())?;
    let hex: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    let envelope = json!({"signatures": [{"keyid": key.public().key_id()?, "sig": hex}], "signed": signed});
    Ok(serde_json::to_vec(&envelope)?)
}

fn reference(version: u64, bytes: &[u8]) -> Value {
    json!({"version": version, "length": bytes.len(), "hashes": {"sha256": types::Digest::of(bytes).to_hex()}})
}

/// Signs snapshot and timestamp with a run-away version, as anyone with the hub's keys can.
fn run_away(hub: &Hub) -> Result<()> {
    let folder = hub.folder().join("trust/metadata");
    let key = |name: &str| KeyPair::load(&hub.folder().join("trust/online").join(name));
    let newest =
        files_below(&folder)?.into_iter().filter(|path| path.display().to_string().ends_with(".targets.json")).max();
    let targets = fs::read(newest.context("a list of versions")?)?;
    let targets = Signed::read(Role::Targets, &targets)?;
    let expires = "2999-01-01T00:00:00Z";
    let meta = json!({"targets.json": reference(targets.version, &targets.bytes)});
    let snapshot = forge(Role::Snapshot, RUN_AWAY, meta, expires, &key("snapshot.key")?)?;
    let meta = json!({"snapshot.json": reference(RUN_AWAY, &snapshot)});
    let timestamp = forge(Role::Timestamp, RUN_AWAY, meta, expires, &key("timestamp.key")?)?;
    fs::write(folder.join(format!("{RUN_AWAY}.snapshot.json")), snapshot)?;
    fs::write(folder.join("timestamp.json"), timestamp)?;
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for path in files_below(from)? {
        fs::copy(&path, to.join(path.file_name().context("a name")?))?;
    }
    Ok(())
}

/// Returns the version of the timestamp that a device stored last.
fn stored_timestamp(agent: &Agent) -> Result<u64> {
    let sets = files_below(&agent.state_dir().join("trust/sets"))?;
    let newest = sets.into_iter().filter(|path| path.ends_with("timestamp.json")).max().context("a stored set")?;
    let value: Value = serde_json::from_slice(&fs::read(newest)?)?;
    value["signed"]["version"].as_u64().context("a version")
}

/// Tests that devices which received run-away versions with the hub's stolen online keys follow again after `rotate
/// online`.
#[test]
fn devices_follow_again_after_stolen_online_keys_ran_the_versions_away() {
    story(|site| {
        let hub = site.hub()?;
        let mut agent = site.agent("kitchen")?;
        agent.config().set("updates.trust_refresh", "1s")?;
        let mut hub = hub;
        hub.start()?;
        hub.push(&catalog().join("v1"), &[])?.ok()?;
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_version("digits", 1)?;
        let mut fleet = Fleet { hub, agent, digits: testkit::Digits::load()?.into() };
        fleet.hub.stop()?;
        let (metadata, honest) = (fleet.hub.folder().join("trust/metadata"), site.folder().join("honest"));
        copy_folder(&metadata, &honest)?;
        run_away(&fleet.hub)?;
        fleet.hub.start()?;
        wait::until_true("the device trusts the run-away version", || Ok(stored_timestamp(&fleet.agent)? == RUN_AWAY))?;
        let warned = fleet.hub.run(["status"])?.ok()?.stdout;
        ensure!(warned.contains("trust rotate online"), "the operator is not warned: {warned}");

        // The hub is restored from a backup; the devices have seen newer versions.
        fleet.hub.stop()?;
        fs::remove_dir_all(&metadata)?;
        copy_folder(&honest, &metadata)?;
        fleet.hub.start()?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        wait::until_true("the device refuses to go back", || {
            let error = fleet.agent.status()?["trust"]["last_error"].clone();
            Ok(error.as_str().is_some_and(|error| error.contains("went back")))
        })?;
        fleet.expect_local(1)?;
        answers_from_the_hub(&fleet)?;

        let before = fs::read(fleet.hub.folder().join("trust/online/timestamp.key"))?;
        trust(&fleet.hub, &["rotate", "online"])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        ensure!(stored_timestamp(&fleet.agent)? < RUN_AWAY, "the old number is still there");
        ensure!(fs::read(fleet.hub.folder().join("trust/online/timestamp.key"))? != before, "the key is the old one");
        // The stolen keys are useless now, also after a restart of the device.
        fleet.agent.stop()?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 2)
    });
}

/// Tests a threshold of two: a version waits in a file until two holders have signed it.
#[test]
fn two_holders_sign_a_version_each_on_an_own_machine() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let alice = site.folder().join("alice");
        let path = |ending: &str| format!("{}.{ending}", alice.display());
        fleet.hub.run(["trust", "keygen", &alice.display().to_string()])?.ok()?;
        let alone = trust(&fleet.hub, &["add-signer", "targets", &path("pub"), "--threshold", "2"])?;
        ensure!(alone.code == Some(REFUSED), "one of two signed: {}", alone.stdout);
        // Under the new root, both must sign the list.
        let key = path("key");
        trust(&fleet.hub, &["add-signer", "targets", &path("pub"), "--threshold", "2", "--key", &key])?.ok()?;
        let v2 = catalog().join("v2");
        let alone = fleet.hub.push(&v2, &[])?;
        ensure!(alone.code == Some(REFUSED) && alone.stderr.contains("--prepare"), "{}", alone.stderr);
        let file = site.folder().join("v2.json").display().to_string();
        fleet.hub.push(&v2, &["--prepare", &file])?.ok()?;
        let early = fleet.hub.run(["trust", "publish", &file])?;
        ensure!(early.code == Some(REFUSED), "published with one signature: {}", early.stdout);
        let shown = fleet.hub.run(["trust", "sign", &file, "--key", &key])?.ok()?.stdout;
        ensure!(shown.contains("adds digits/2/manifest.json"), "the holder is not told what is signed: {shown}");
        let published = fleet.hub.run(["trust", "publish", &file])?.ok()?.stdout;
        ensure!(published.contains("rollout create digits 2"), "the operator is not told what comes next: {published}");
        fleet.hub.run(["rollout", "create", "digits", "2", "--to", "all", "--waves", "100%"])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        fleet.hub.wait_offered("digits", 2)?;
        // A lost key: one holder is removed, and the threshold with it.
        let public = fs::read_to_string(path("pub"))?;
        let args = ["remove-signer", "targets", public.trim(), "--threshold", "1", "--key", &key];
        trust(&fleet.hub, &args)?.ok()?;
        fleet.hub.push(ModelFolder::copy(site, "v1", 3)?.path(), &[])?.ok()?;
        fleet.agent.wait_version("digits", 3)?;
        fleet.agent.stop().map(drop)
    });
}

/// Tests that a key with a passphrase signs only with it.
#[test]
fn keys_under_a_passphrase_sign_with_it_alone() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let (secret, wrong) = (site.folder().join("secret"), site.folder().join("wrong"));
        fs::write(&secret, "correct horse battery\n")?;
        fs::write(&wrong, "staple staple staple\n")?;
        let text = |path: &Path| path.display().to_string();
        for name in ["root.key", "targets.key"] {
            let key = text(&fleet.hub.keys().join(name));
            fleet.hub.run(["trust", "passphrase", &key, "--new-passphrase-file", &text(&secret)])?.ok()?;
            ensure!(fs::read_to_string(&key)?.contains("ENCRYPTED PRIVATE KEY"), "{name} is in the clear");
        }
        let v2 = catalog().join("v2");
        let without = fleet.hub.push(&v2, &[])?;
        ensure!(without.code == Some(REFUSED) && without.stderr.contains("--passphrase-file"), "{}", without.stderr);
        let refused = fleet.hub.push(&v2, &["--passphrase-file", &text(&wrong)])?;
        ensure!(refused.code == Some(REFUSED) && refused.stderr.contains("does not open"), "{}", refused.stderr);
        fleet.hub.push(&v2, &["--passphrase-file", &text(&secret)])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        fleet.hub.env("SANDERLING_KEY_PASSPHRASE", "correct horse battery");
        trust(&fleet.hub, &["rotate", "root"])?.ok()?;
        let key = fs::read_to_string(fleet.hub.keys().join("root.key"))?;
        ensure!(key.contains("ENCRYPTED PRIVATE KEY"), "the new key lost the passphrase");
        trust(&fleet.hub, &["renew"])?.ok()?;
        fleet.agent.stop().map(drop)
    });
}

/// Tests that a device whose hub sends no updates reports the expiry of its trust, and continues to serve.
#[test]
fn an_expired_trust_is_shown_on_the_device_and_stops_no_answer() {
    let Some(library) = faketime() else { return };
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let trust = fleet.agent.status()?["trust"].clone();
        ensure!(trust["state"] == "valid" && trust["expires_unix_s"]["root"].is_i64(), "{trust}");
        let shown = fleet.agent.run(["status"])?.ok()?.stdout;
        ensure!(shown.contains("trust: valid until"), "{shown}");
        fleet.hub.stop()?;
        fleet.agent.stop()?;
        move_agent(&mut fleet.agent, &library, "+320d");
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 1)?;
        fleet.expect_local(1)?;
        let trust = fleet.agent.status()?["trust"].clone();
        ensure!(trust["state"] == "expired", "{trust}");
        let shown = fleet.agent.run(["status"])?.ok()?.stdout;
        ensure!(shown.contains("trust: expired since") && shown.contains("(timestamp)"), "{shown}");
        let doctor = fleet.agent.run(["doctor"])?;
        ensure!(doctor.code != Some(0) && doctor.stdout.contains("expired since"), "{}", doctor.stdout);
        let gauge = fleet.agent.metrics()?.sum("sanderling_trust_expires_timestamp_seconds", &[("role", "timestamp")]);
        ensure!(gauge > 1e9, "the metric says {gauge}");
        Ok(())
    });
}
