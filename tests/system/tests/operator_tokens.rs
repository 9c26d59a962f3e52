//! Tests of expiring operator tokens: users are warned in time, and one verb renews a token, also after its expiry.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use testkit::digits::catalog;
use testkit::{Finished, Hub, Site, skip, story, tools, wait};

/// Exit code of `console::ExitKind::Refused`.
const REFUSED: i32 = 5;

const METRIC: &str = "sanderling_operator_token_expires_timestamp_seconds";

/// Returns a hub whose clock is shifted after its creation; `None` if no clock can be shifted.
fn hub_after(site: &Site, shift: &str) -> Result<Option<Hub>> {
    let Some(library) = tools::faketime(Path::new("/")) else {
        skip("libfaketime is not installed (apt install faketime)");
        return Ok(None);
    };
    let mut hub = site.hub()?;
    tools::at_another_time(&library, shift).iter().for_each(|(name, value)| hub.env(name, value));
    Ok(Some(hub))
}

fn context_of(hub: &Hub) -> PathBuf {
    hub.folder().join("operator.toml")
}

fn config_of(hub: &Hub) -> String {
    hub.folder().join("hub.toml").display().to_string()
}

fn doctor(hub: &Hub) -> Result<String> {
    Ok(hub.run(["doctor", "--config", &config_of(hub)])?.stdout)
}

/// Checks that the text contains the warning, or that it does not.
fn expect_warning(text: &str, is_there: bool) -> Result<()> {
    let found = text.contains("the token of operator") && text.contains("cloud-hub operator renew");
    ensure!(found == is_there, "the warning is {}there: {text}", if found { "" } else { "not " });
    Ok(())
}

fn metric(hub: &Hub) -> Result<f64> {
    Ok(hub.metrics()?.sum(METRIC, &[]))
}

#[test]
fn a_token_that_ends_is_named_everywhere_and_renewed_by_one_verb() {
    story(|site| {
        let Some(mut hub) = hub_after(site, "+310d")? else { return Ok(()) };
        hub.start()?;
        expect_warning(&hub.run(["status"])?.ok()?.stdout, true)?;
        let list = hub.run(["operator", "list"])?.ok()?.stdout;
        expect_warning(&list, true)?;
        ensure!(list.contains("in 54 days"), "{list}");
        expect_warning(&doctor(&hub)?, true)?;
        wait::until_true("the warning is in the log", || {
            Ok(hub.daemon()?.log()?.contains("the token of operator \"init\" expires at"))
        })?;
        let before = metric(&hub)?;
        // Beside hub.toml, which says where the hub is.
        let earlier = hub.folder().join("earlier.toml");
        fs::copy(context_of(&hub), &earlier)?;

        let renewed = hub.run(["operator", "renew"])?.ok()?.stdout;
        ensure!(renewed.contains("operator.toml") && renewed.contains("\"init\""), "{renewed}");
        let mode = fs::metadata(context_of(&hub))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "the context has mode {mode:o}");
        ensure!(fs::read(context_of(&hub))? != fs::read(&earlier)?, "the file holds the earlier token");
        expect_warning(&hub.run(["status"])?.ok()?.stdout, false)?;
        expect_warning(&hub.run(["operator", "list"])?.ok()?.stdout, false)?;
        expect_warning(&doctor(&hub)?, false)?;
        // The same lifetime as the first one: a year, of which 55 days were left.
        let gained = metric(&hub)? - before;
        ensure!((309.0 * 86_400.0..311.0 * 86_400.0).contains(&gained), "{gained} s longer");
        // Copies of the earlier file work for one day.
        hub.run(["status", "--context", &earlier.display().to_string()])?.ok()?;

        // Another operator's token is written to a separate file.
        let ci = site.folder().join("ci.toml").display().to_string();
        hub.run(["operator", "create", "ci", "--ttl-days", "30", "--out", &ci])?.ok()?;
        expect_warning(&hub.run(["status"])?.ok()?.stdout, false)?;
        let refused = hub.run(["operator", "renew", "ci"])?;
        ensure!(refused.code != Some(0) && refused.stderr.contains("--out"), "{}", refused.stderr);
        let again = hub.folder().join("ci-again.toml").display().to_string();
        hub.run(["operator", "renew", "ci", "--ttl-days", "60", "--out", &again])?.ok()?;
        hub.run(["status", "--context", &again])?.ok()?;
        let unknown = hub.run(["operator", "renew", "nobody", "--out", &format!("{again}.2")])?;
        ensure!(unknown.code == Some(4), "{:?} {}", unknown.code, unknown.stderr);
        Ok(())
    });
}

#[test]
fn a_token_that_has_ended_is_renewed_on_the_machine_of_the_running_hub() {
    story(|site| {
        let Some(mut hub) = hub_after(site, "+400d")? else { return Ok(()) };
        hub.start()?;
        let refused = hub.run(["status"])?;
        ensure!(refused.code == Some(REFUSED), "an expired token opened: {}", refused.stdout);
        ensure!(refused.stderr.contains("cloud-hub operator renew --config"), "{}", refused.stderr);
        // Only the verb without a token works: an expired token does not renew itself.
        ensure!(hub.run(["operator", "renew"])?.code == Some(REFUSED), "an expired token renewed itself");
        expect_warning(&doctor(&hub)?, true)?;
        ensure!(metric(&hub)? > 1e9, "no metric");
        let listed = hub.run(["operator", "list", "--config", &config_of(&hub)])?.ok()?.stdout;
        ensure!(listed.contains("(expired)"), "{listed}");
        // A nightly backup does not depend on a token.
        let backup = site.folder().join("hub.backup").display().to_string();
        hub.run(["backup", "create", &backup, "--config", &config_of(&hub)])?.ok()?;

        hub.run(["operator", "renew", "--config", &config_of(&hub)])?.ok()?;
        expect_warning(&hub.run(["status"])?.ok()?.stdout, false)?;
        hub.run(["operator", "create", "second", "--config", &config_of(&hub), "--out", &format!("{backup}.toml")])?
            .ok()?;
        hub.run(["operator", "revoke", "second", "--config", &config_of(&hub)])?.ok()?;
        Ok(())
    });
}

#[test]
fn a_token_that_has_ended_is_renewed_while_the_hub_is_stopped() {
    story(|site| {
        let Some(mut hub) = hub_after(site, "+800d")? else { return Ok(()) };
        let found = doctor(&hub)?;
        ensure!(found.contains("operator tokens"), "{found}");
        expect_warning(&found, true)?;
        hub.run(["operator", "renew", "--config", &config_of(&hub), "--ttl-days", "90"])?.ok()?;
        let found = doctor(&hub)?;
        expect_warning(&found, false)?;
        hub.start()?;
        hub.run(["status"])?.ok()?;
        // The context file is lost: the error names the operator and the file.
        fs::remove_file(context_of(&hub))?;
        let lost = hub.run(["operator", "renew", "--config", &config_of(&hub)])?;
        ensure!(lost.code != Some(0) && lost.stderr.contains("init"), "the operators are not named: {}", lost.stderr);
        let out = context_of(&hub).display().to_string();
        hub.run(["operator", "renew", "init", "--config", &config_of(&hub), "--out", &out])?.ok()?;
        hub.run(["status"])?.ok()?;
        Ok(())
    });
}

/// Tests that the token in the state folder gives access to the hub only to users who may read that folder.
#[test]
fn the_token_of_the_machine_is_private_new_at_each_start_and_in_no_backup() {
    story(|site| {
        let mut hub = site.hub()?;
        let file = hub.folder().join("local.token");
        hub.start()?;
        let mode = fs::metadata(&file)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "the token has mode {mode:o}");
        let first = fs::read_to_string(&file)?;
        let backup = site.folder().join("hub.backup");
        hub.run(["backup", "create", &backup.display().to_string(), "--config", &config_of(&hub)])?.ok()?;
        let bytes = fs::read(&backup)?;
        ensure!(!bytes.windows(first.len()).any(|window| window == first.as_bytes()), "the token is in the backup");
        hub.stop()?;
        ensure!(!file.exists(), "the token stays behind");
        hub.start()?;
        ensure!(fs::read_to_string(&file)? != first, "the token is the one of the last start");
        // The earlier one is invalid, and no operator can take its name.
        let stale = hub.folder().join("stale.toml");
        let text = fs::read_to_string(context_of(&hub))?;
        let token = text.lines().find(|line| line.starts_with("token")).context("a token")?.to_owned();
        fs::write(&stale, text.replace(&token, &format!("token = \"{first}\"")))?;
        fs::set_permissions(&stale, fs::Permissions::from_mode(0o600))?;
        let refused = hub.run(["status", "--context", &stale.display().to_string()])?;
        ensure!(refused.code == Some(REFUSED), "a stale token opened: {}", refused.stdout);
        let out = site.folder().join("x.toml").display().to_string();
        let taken = hub.run(["operator", "create", "(state folder)", "--out", &out])?;
        ensure!(taken.code != Some(0), "somebody took the name of the machine");
        // Publishing with it is in the log under that name.
        hub.push(&catalog().join("v1"), &[])?.ok().map(drop)
    });
}

/// Tests that a hub without disk space for the token starts, and reports that verbs with `--config` need it stopped.
#[test]
fn a_hub_that_cannot_write_the_token_starts() {
    story(|site| {
        let mut hub = site.hub()?;
        // A folder in place of the file.
        fs::create_dir(hub.folder().join("local.token"))?;
        hub.start()?;
        let status = hub.run(["status"])?.ok()?.stdout;
        ensure!(status.contains("verbs with --config need the hub to be stopped"), "{status}");
        let config = config_of(&hub);
        let mut list = hub.command();
        let refused = Finished::run(list.args(["operator", "list", "--config", &config]))?;
        ensure!(refused.code != Some(0) && refused.stderr.contains("stop the hub first"), "{}", refused.stderr);
        hub.stop()?;
        hub.run(["operator", "list", "--config", &config])?.ok().map(drop)
    });
}
