//! Tests of upgrades: the present programs on the state of an older release, and beside an older release.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use protocol::JoinToken;
use serde_json::Value;
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::{Agent, Binaries, Digits, Finished, Fleet, Hub, Site, skip, story, tools, wait};

/// Time of the archive, 2026-11-30 00:00 UTC plus twenty minutes: its join token is valid for an hour.
const ARCHIVE_UNIX_S: i64 = 1_795_996_800 + 1200;

/// Commit whose programs run beside the present ones.
const OLD_COMMIT: &str = "343ea06";

/// Environment variable of a folder with `edge-agent` and `cloud-hub` of [`OLD_COMMIT`]; without it they are built into
/// the cache.
const OLD_BINARIES_ENV: &str = "SANDERLING_TEST_OLD_BINARIES";

/// State folders of an older release in a site, with the clock at their date.
struct Archive {
    clock: [(&'static str, String); 4],
}

impl Archive {
    /// Unpacks the archive. Returns `None` if no clock can be set, after printing the reason.
    fn unpack(site: &Site) -> Result<Option<Self>> {
        let Some(library) = tools::faketime(Path::new("/")) else {
            skip("libfaketime is not installed (apt install faketime)");
            return Ok(None);
        };
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/upgrade/state.tar.gz");
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&archive).arg("-C").arg(site.folder()).arg("--no-same-owner");
        Finished::run(&mut tar)?.ok()?;
        fs::rename(site.folder().join("keys"), site.folder().join("hub-keys"))?;
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        Ok(Some(Self { clock: tools::at_another_time(&library, &format!("{:+}", ARCHIVE_UNIX_S - now)) }))
    }

    fn hub(&self, site: &Site) -> Result<Hub> {
        let mut hub = Hub::open(site, "hub")?;
        self.clock.iter().for_each(|(name, value)| hub.env(name, value));
        Ok(hub)
    }

    /// Returns the archive's agent of this name, or a new one if the archive has none.
    fn agent(&self, site: &Site, name: &str, hub: &Hub) -> Result<Agent> {
        let (archived, moved) = (site.folder().join(name), site.folder().join(format!("{name}-archived")));
        if archived.exists() {
            fs::rename(&archived, &moved)?;
        }
        let mut agent = site.agent(name)?;
        if moved.exists() {
            fs::rename(&moved, agent.state_dir())?;
        }
        // The hub of the archive had another port.
        agent.config().set("hub.addresses", vec![hub.address("quic")?])?;
        self.clock.iter().for_each(|(name, value)| agent.env(name, value));
        Ok(agent)
    }
}

fn names(list: &Value, field: &str) -> Vec<String> {
    let entries = list.as_array().cloned().unwrap_or_default();
    entries.iter().filter_map(|entry| entry[field].as_str().map(str::to_owned)).collect()
}

/// Checks that the hub has everything that the archive's README lists.
fn expect_hub_of_archive(site: &Site, hub: &Hub) -> Result<()> {
    let operators = names(&hub.json(&["operator", "list"])?["operators"], "name");
    ensure!(operators.len() == 2 && operators.contains(&"ci".to_owned()), "operators: {operators:?}");
    // The second operator's token is still accepted.
    let context = site.folder().join("ci.toml");
    let mut text: toml::Table = fs::read_to_string(&context)?.parse()?;
    text.insert("url".to_owned(), format!("https://{}", hub.address("admin")?).into());
    fs::write(&context, text.to_string())?;
    let listed = hub.run(["device", "list", "--json", "--context", &context.display().to_string()])?.ok()?.json()?;
    ensure!(names(&listed["devices"], "device") == ["cellar", "kitchen"], "{listed}");
    let cellar = hub.device("cellar")?;
    ensure!(cellar["state"] == "revoked" && cellar["reason"] == "stolen", "{cellar}");
    let digits = hub.model("digits")?;
    let versions: Vec<_> = digits["versions"].as_array().into_iter().flatten().map(|entry| &entry["version"]).collect();
    ensure!(versions == [3, 2, 1] && digits["offered"] == 2, "{digits}");
    ensure!(digits["versions"][0]["held"] == true && digits["versions"][1]["held"] == false, "{digits}");
    ensure!(hub.model("letters")?["offered"] == 1, "the second model is lost");
    let trust = hub.json(&["trust", "status"])?;
    ensure!(trust["publishing_stopped"] == false, "{trust}");
    Ok(())
}

#[test]
fn todays_programs_go_on_with_the_state_of_an_older_release() {
    story(|site| {
        let Some(archive) = Archive::unpack(site)? else { return Ok(()) };
        let mut hub = archive.hub(site)?;
        hub.start()?;
        expect_hub_of_archive(site, &hub)?;
        let mut agent = archive.agent(site, "kitchen", &hub)?;
        let key = fs::read(agent.state_dir().join("identity/device.key"))?;
        // Without its hub the device serves the same as before.
        hub.stop()?;
        agent.start()?;
        agent.wait_version("digits", 2)?;
        let mut fleet = Fleet { hub, agent, digits: Digits::load()?.into() };
        fleet.expect_local(2)?;
        fleet.hub.start()?;
        fleet.hub.wait_connected("kitchen", true)?;
        ensure!(fs::read(fleet.agent.state_dir().join("identity/device.key"))? == key, "the device has another key");
        fleet.agent.wait_hub(true)?;
        let asked = fleet.infer(0, "only-hub")?.ok()?;
        ensure!(asked.parameter("place") == "hub" && asked.version() == 2, "{}", asked.json);
        // The version that an older release stored, then a new one signed with the older release's keys.
        fleet.hub.offer("digits", 3)?.ok()?;
        fleet.agent.wait_version("digits", 3)?;
        fleet.hub.push(ModelFolder::copy(site, "v2", 4)?.path(), &[])?.ok()?;
        fleet.agent.wait_version("digits", 4)?;
        wait::until_true("the hub hears of the update", || {
            Ok(fleet.hub.device("kitchen")?["models"][0]["active"]["version"] == 4)
        })?;
        fleet.expect_local(4)?;
        // Again from the disk, which the present programs have written by now.
        fleet.agent.stop()?;
        fleet.hub.stop()?;
        fleet.hub.start()?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 4)?;
        fleet.hub.wait_connected("kitchen", true)?;
        ensure!(fleet.hub.device("cellar")?["state"] == "revoked", "a revoked device came back");
        let restarted = fleet.hub.model("digits")?;
        ensure!(restarted["offered"] == 4, "{restarted}");
        Ok(())
    });
}

#[test]
fn a_join_token_of_an_older_release_admits_and_a_revoked_device_stays_out() {
    story(|site| {
        let Some(archive) = Archive::unpack(site)? else { return Ok(()) };
        let mut hub = archive.hub(site)?;
        hub.start()?;
        let mut token: JoinToken = fs::read_to_string(site.folder().join("attic.token"))?.trim().parse()?;
        token.hub = vec![hub.address("quic")?];
        let mut attic = archive.agent(site, "attic", &hub)?;
        attic.enrol_with(&token.to_string())?.ok()?;
        attic.start()?;
        attic.wait_version("digits", 2)?;
        let mut cellar = archive.agent(site, "cellar", &hub)?;
        cellar.start()?;
        cellar.wait_trouble(&["revoked"])?;
        ensure!(hub.device("cellar")?["connected"] == false, "a revoked device came back");
        Ok(())
    });
}

/// Tests that a device can return to a version that an older release installed.
#[test]
fn the_slots_of_an_older_release_are_kept() {
    story(|site| {
        let Some(archive) = Archive::unpack(site)? else { return Ok(()) };
        let mut hub = archive.hub(site)?;
        hub.start()?;
        let mut agent = archive.agent(site, "kitchen", &hub)?;
        agent.start()?;
        hub.wait_connected("kitchen", true)?;
        wait::until_true("the device tells both slots", || {
            let model = hub.device("kitchen")?["models"][0].clone();
            Ok(model["active"]["version"] == 2 && model["previous"]["version"] == 1)
        })?;
        // The active one is lost with its file: the device serves the previous one without contacting the hub.
        agent.stop()?;
        hub.stop()?;
        fs::remove_file(agent.state_dir().join("models/digits/2/int8-qdq.onnx"))?;
        agent.start()?;
        agent.wait_version("digits", 1)
    });
}

/// Returns the programs of [`OLD_COMMIT`], built once into the cache; `None` if they are not available, after printing
/// the reason.
fn old_programs() -> Result<Option<Binaries>> {
    let onnxruntime = testkit::binaries::onnxruntime()?;
    if let Some(folder) = std::env::var_os(OLD_BINARIES_ENV) {
        return Binaries::in_folder(Path::new(&folder), onnxruntime).map(older);
    }
    let place = testkit::binaries::cache()?.join("older").join(OLD_COMMIT);
    let built = place.join("target/debug");
    if let Ok(found) = Binaries::in_folder(&built, onnxruntime.clone()) {
        return Ok(older(found));
    }
    let workspace = testkit::binaries::workspace();
    let mut has = Command::new("git");
    has.args(["cat-file", "-e", &format!("{OLD_COMMIT}^{{commit}}")]).current_dir(&workspace);
    if Finished::run(&mut has).ok().and_then(|done| done.code) != Some(0) {
        skip(&format!("the history has no commit {OLD_COMMIT}; set {OLD_BINARIES_ENV} to a folder with its programs"));
        return Ok(None);
    }
    // A machine without the network has no crates to build it from.
    if let Err(error) = build_old(&workspace, &place) {
        skip(&format!("commit {OLD_COMMIT} does not build here: {error:#}"));
        return Ok(None);
    }
    Binaries::in_folder(&built, onnxruntime).map(older)
}

/// Marks programs that do not know the settings of gRPC.
fn older(programs: Binaries) -> Option<Binaries> {
    Some(Binaries { is_without_grpc: true, ..programs })
}

fn build_old(workspace: &Path, place: &Path) -> Result<()> {
    let sources = place.join("sources");
    fs::create_dir_all(&sources)?;
    let archive = place.join("sources.tar");
    let mut git = Command::new("git");
    git.args(["archive", "--output"]).arg(&archive).arg(OLD_COMMIT).current_dir(workspace);
    Finished::run(&mut git)?.ok()?;
    Finished::run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&sources))?.ok()?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "--package", "cloud-hub", "--package", "edge-agent"]);
    cargo.env("CARGO_TARGET_DIR", place.join("target")).current_dir(&sources);
    Finished::run(&mut cargo)?.ok().context("build the older release").map(drop)
}

/// Adds the logs of a temporary folder to the error of a failed test.
fn with_logs<T>(told: Result<T>, sites: &[&Site], what: &str) -> Result<T> {
    told.with_context(|| {
        let logs: Vec<String> = sites.iter().map(|site| site.logs()).collect();
        format!("{what}\n{}", logs.concat())
    })
}

/// Starts a fleet of two releases, which serves digits 1, infers through the hub, updates and reports.
fn work_together(agent_of: &Site, hub_of: &Site) -> Result<()> {
    let mut hub = Hub::init(hub_of, "hub")?;
    hub.start()?;
    hub.push(&catalog().join("v1"), &[])?.ok()?;
    let agent = agent_of.enrolled_agent(&hub, "kitchen")?;
    agent.wait_version("digits", 1)?;
    agent.wait_hub(true)?;
    let fleet = Fleet { hub, agent, digits: Digits::load()?.into() };
    fleet.expect_local(1)?;
    for policy in ["only-hub", "prefer-hub"] {
        let asked = fleet.infer(0, policy)?.ok()?;
        ensure!(asked.parameter("place") == "hub", "{policy}: {}", asked.json);
    }
    let deferred = fleet.sweep("cascade", 64)?;
    ensure!(deferred.failed == 0, "cascade failed");
    fleet.hub.push(ModelFolder::copy(hub_of, "v2", 2)?.path(), &[])?.ok()?;
    fleet.agent.wait_version("digits", 2)?;
    wait::until_true("the hub hears of the update", || {
        let model = fleet.hub.device("kitchen")?["models"][0].clone();
        Ok(model["active"]["version"] == 2 && model["report"]["outcome"] == "active")
    })
}

#[test]
fn an_agent_and_a_hub_of_different_releases_work_together() {
    if !tools::runs_long("an agent beside a hub of another release") {
        return;
    }
    story(|_site| {
        let Some(old) = old_programs()? else { return Ok(()) };
        for (is_old_agent, what) in [(true, "an old agent beside a new hub"), (false, "a new agent beside an old hub")]
        {
            // Each has its own folder, like two machines.
            let (older, newer) = (Site::with(old.clone())?, Site::new()?);
            let (agent_of, hub_of) = if is_old_agent { (&older, &newer) } else { (&newer, &older) };
            with_logs(work_together(agent_of, hub_of), &[&older, &newer], what)?;
        }
        Ok(())
    });
}

/// Upgrades a fleet in its folders, one program after the other.
fn upgrade_in_turn(before: &Site, newer: &Binaries, is_hub_first: bool) -> Result<()> {
    let mut hub = Hub::init(before, "hub")?;
    hub.start()?;
    hub.push(&catalog().join("v1"), &[])?.ok()?;
    let mut agent = before.enrolled_agent(&hub, "kitchen")?;
    agent.wait_version("digits", 1)?;
    for is_hub in [is_hub_first, !is_hub_first] {
        if is_hub {
            hub.stop()?;
            hub.replace_programs(newer);
            hub.start()?;
        } else {
            agent.stop()?;
            agent.replace_programs(newer);
            agent.start()?;
        }
        agent.wait_hub(true)?;
        let next = agent.active_version("digits")?.context("a version")? + 1;
        hub.push(ModelFolder::copy(before, "v2", next)?.path(), &[])?.ok()?;
        agent.wait_version("digits", next)?;
    }
    Ok(())
}

#[test]
fn a_fleet_is_upgraded_one_program_at_a_time_in_either_order() {
    if !tools::runs_long("an upgrade of one program at a time") {
        return;
    }
    story(|site| {
        let Some(old) = old_programs()? else { return Ok(()) };
        for is_hub_first in [true, false] {
            let before = Site::with(old.clone())?;
            let told = upgrade_in_turn(&before, site.binaries(), is_hub_first);
            with_logs(told, &[&before], if is_hub_first { "the hub first" } else { "the agent first" })?;
        }
        Ok(())
    });
}
