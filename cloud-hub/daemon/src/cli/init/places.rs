//! Chooses the paths that `cloud-hub init` writes to, and the paths in the config file.
//!
//! A hub in a folder (`--dir`) has everything in it. The hub of an installed service (`--system`) has the config file that
//! the service reads, and the state folder that this file names: there is one config, and `init` fills it in.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use console::{CliError, ExitKind, OrExit};
use store::files;

use super::InitArgs;
use crate::config::reach;
use crate::config::{EXAMPLE, HubConfig};

/// Name of the config file in its folder.
pub(in crate::cli) const CONFIG_FILE: &str = "hub.toml";
/// Name of the operator's context, beside the config file.
pub(in crate::cli) const OPERATOR_FILE: &str = "operator.toml";
/// User that the packages run the hub as.
const SERVICE_USER: &str = "sanderling-hub";

/// Paths of the files that `init` writes.
#[derive(Debug)]
pub(super) struct Places {
    /// The config file, and its new text.
    pub(super) config_file: PathBuf,
    pub(super) config_text: String,
    /// Config that the new text describes.
    pub(super) config: HubConfig,
    /// Folder of the hub's state.
    pub(super) state: PathBuf,
    /// Path of the operator's context.
    pub(super) operator: PathBuf,
    /// Whether the hub is the installed service's.
    pub(super) is_system: bool,
}

impl Places {
    /// Plans the hub that the command line asks for; writes nothing.
    pub(super) fn plan(args: &InitArgs) -> Result<Self, CliError> {
        match &args.dir {
            Some(folder) => Self::in_folder(args, folder),
            None => Self::of_the_system(args),
        }
    }

    fn in_folder(args: &InitArgs, folder: &Path) -> Result<Self, CliError> {
        refuse_the_installed_state(folder)?;
        let config_file = folder.join(CONFIG_FILE);
        let text = EXAMPLE.replacen("state_dir = \"/var/lib/sanderling-hub\"", "state_dir = \".\"", 1);
        let (config_text, config) = filled_in(&text, args, &config_file)?;
        let operator = folder.join(OPERATOR_FILE);
        Ok(Self { config_file, config_text, config, state: folder.to_owned(), operator, is_system: false })
    }

    fn of_the_system(args: &InitArgs) -> Result<Self, CliError> {
        let config_file = ::config::installed_file(CONFIG_FILE);
        let text = match files::read_bounded(&config_file, ::config::CONFIG_BYTES_MAX) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.is_not_found() => EXAMPLE.to_owned(),
            Err(error) => {
                return Err(CliError::new(ExitKind::Storage, error).hint("run it as root: sudo cloud-hub init"));
            }
        };
        let (config_text, config) = filled_in(&text, args, &config_file)?;
        let port = config.gateway.listen.port();
        if let Some(problem) = reach::unreachable(&config, port).into_iter().next() {
            return Err(CliError::new(ExitKind::Usage, problem)
                .hint("name the hub as devices reach it: cloud-hub init --system --keys DIR --name hub.example"));
        }
        let operator = config_file.with_file_name(OPERATOR_FILE);
        if operator.exists() {
            let problem = format!("{} is there already: it belongs to an earlier hub", operator.display());
            return Err(CliError::new(ExitKind::Conflict, problem).hint("move it away, then run this again"));
        }
        let state = config.hub.state_dir.clone();
        Ok(Self { config_file, config_text, config, state, operator, is_system: true })
    }

    /// Makes the folders that are not there, each for who must reach it.
    pub(super) fn make_folders(&self) -> Result<(), CliError> {
        let hint = "run it as root: sudo cloud-hub init --system …";
        if self.is_system {
            // Other than a state folder it is for every user of the machine.
            let folder = self.config_file.parent().unwrap_or(Path::new("."));
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
            made.map_err(|source| files::FileError::Io { attempt: "create folder", path: folder.to_owned(), source })
                .or_exit_try(ExitKind::Storage, hint)?;
        }
        let is_new = !self.state.exists();
        files::create_dir(&self.state).or_exit(ExitKind::Storage)?;
        if let Some((user, group)) = service_user().filter(|_| self.is_system && is_new && is_root()) {
            std::os::unix::fs::chown(&self.state, Some(user), Some(group)).or_exit(ExitKind::Storage)?;
        }
        Ok(())
    }
}

/// A second config in the installed hub's folder would be read by nobody, and the first one would name another hub.
fn refuse_the_installed_state(folder: &Path) -> Result<(), CliError> {
    let installed = ::config::installed_file(CONFIG_FILE);
    let Ok(config) = HubConfig::read(&installed) else { return Ok(()) };
    let same = std::path::absolute(folder).is_ok_and(|folder| folder == config.hub.state_dir);
    if !same {
        return Ok(());
    }
    let problem =
        format!("{} is the folder of the installed hub, whose config is {}", folder.display(), installed.display());
    Err(CliError::new(ExitKind::Usage, problem).hint("use --system in place of --dir: it fills in that config"))
}

/// Puts what was asked for into a config text; checks the result as `serve` will.
fn filled_in(text: &str, args: &InitArgs, file: &Path) -> Result<(String, HubConfig), CliError> {
    let quoted = |value: &dyn std::fmt::Display| format!("\"{value}\"");
    let list = |values: &[String]| {
        let quoted: Vec<String> = values.iter().map(|value| quoted(value)).collect();
        format!("[{}]", quoted.join(", "))
    };
    let wanted = [
        ("hub", "names", (!args.name.is_empty()).then(|| list(&args.name))),
        ("gateway", "public", (!args.public.is_empty()).then(|| list(&args.public))),
        ("gateway", "listen", args.listen.map(|address| quoted(&address))),
        ("admin", "listen", args.admin.map(|address| quoted(&address))),
        ("metrics", "listen", args.metrics.map(|address| quoted(&address))),
    ];
    // Mistakes that are there already are told before anything is changed.
    HubConfig::parse(text, file).or_exit_try(ExitKind::Config, "correct it, then run this again")?;
    let mut text = text.to_owned();
    for (table, field, value) in wanted {
        let Some(value) = value else { continue };
        text = ::config::set_field(&text, table, field, &value).ok_or_else(|| {
            let problem = format!("{table}.{field} of {} cannot be changed by a program", file.display());
            CliError::new(ExitKind::Config, problem).hint(format!("write {field} = {value} under [{table}] yourself"))
        })?;
    }
    let config = HubConfig::parse(&text, file).or_exit_try(ExitKind::Config, "correct it, then run this again")?;
    Ok((text, config))
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Returns user and group number of the user that the packages make.
fn service_user() -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.split(':').next() == Some(SERVICE_USER))?;
    let mut fields = line.split(':').skip(2).map(str::parse);
    Some((fields.next()?.ok()?, fields.next()?.ok()?))
}
