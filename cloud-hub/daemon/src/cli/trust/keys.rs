//! The offline keys on the operator's machine: finds the files, asks for passphrases, opens what is needed.
//!
//! Beside `NAME.key` lies `NAME.pub` with the public half, so that the passphrase of a key that is not needed is not asked
//! for. It is a hint alone: what signs is checked by the hub and by every device.

use std::cell::RefCell;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::Args;
use console::{CliError, ExitKind, OrExit};
use model_tools::sign::{EncryptedKey, KeyFile, KeyPair, Passphrase, PublicKey, SignError};
use store::files::{self, Mode};

/// Environment variable with the passphrase, for automation.
const PASSPHRASE_ENV: &str = "SANDERLING_KEY_PASSPHRASE";

/// Longest file of a passphrase or a public key in bytes.
const SMALL_FILE_BYTES_MAX: u64 = 4096;

/// Most key files that are looked at in one folder.
const KEY_FILES_MAX: usize = 256;

/// Shortest passphrase that is accepted for a new key, in characters: NIST SP 800-63B asks for eight.
const PASSPHRASE_CHARS_MIN: usize = 8;

/// Arguments that name key files.
#[derive(Debug, Args)]
pub(in crate::cli) struct KeyArgs {
    /// Folder with the offline keys; of its *.key files those are used that are needed.
    #[arg(long, value_name = "DIR", env = "SANDERLING_KEYS")]
    keys: Option<PathBuf>,
    /// A key file outside that folder; may be given several times.
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// File with the passphrase of the keys in its first line [default: SANDERLING_KEY_PASSPHRASE, or a prompt].
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// The passphrase of a new key.
#[derive(Debug, Args)]
pub(in crate::cli) struct NewPassphrase {
    /// Protect the private key with a passphrase: asks for it, or takes it from SANDERLING_KEY_PASSPHRASE.
    #[arg(long)]
    passphrase: bool,
    /// Protect the private key with the passphrase in the first line of this file.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl NewPassphrase {
    /// Reads the passphrase; `None` when the key is to be in the clear.
    pub(in crate::cli) fn read(&self, what: &str) -> Result<Option<Passphrase>, CliError> {
        let passphrase = match (&self.passphrase_file, self.passphrase) {
            (Some(file), _) => passphrase_in(file)?,
            (None, true) => match from_environment() {
                Some(passphrase) => passphrase,
                None => prompt_twice(what)?,
            },
            (None, false) => return Ok(None),
        };
        if passphrase.chars().count() < PASSPHRASE_CHARS_MIN {
            let problem = format!("a passphrase has at least {PASSPHRASE_CHARS_MIN} characters");
            return Err(CliError::new(ExitKind::Usage, problem).hint("use several words"));
        }
        Ok(Some(passphrase))
    }
}

impl KeyArgs {
    /// Keys of no folder, opened with the passphrase of this file.
    pub(super) fn of_passphrase_file(passphrase_file: Option<PathBuf>) -> Self {
        Self { keys: None, key: Vec::new(), passphrase_file }
    }

    /// The folder of keys, if one was named.
    pub(in crate::cli) fn folder(&self) -> Option<&Path> {
        self.keys.as_deref()
    }

    /// Opens one key file.
    pub(super) fn open_file(&self, path: &Path) -> Result<KeyPair, CliError> {
        let passphrases = Passphrases::new(self.passphrase_file.as_deref())?;
        match read_key(path)? {
            KeyFile::Plain(key) => Ok(key),
            KeyFile::Encrypted(key) => passphrases.open(&key),
        }
    }

    /// Finds the key files; opens none of those under a passphrase.
    pub(in crate::cli) fn open(&self) -> Result<Keyring, CliError> {
        let mut paths = match &self.keys {
            Some(folder) => key_files(folder)?,
            None => Vec::new(),
        };
        paths.extend(self.key.iter().cloned());
        if paths.is_empty() {
            let problem = match &self.keys {
                Some(folder) => format!("there is no *.key file in {}", folder.display()),
                None => "no keys are named".to_owned(),
            };
            return Err(CliError::new(ExitKind::Usage, problem).hint(
                "give the folder of offline keys with --keys DIR or SANDERLING_KEYS, or a file with --key FILE",
            ));
        }
        let passphrases = Passphrases::new(self.passphrase_file.as_deref())?;
        Ok(Keyring { folder: self.keys.clone(), paths, passphrases })
    }
}

/// Key files that may be opened.
pub(in crate::cli) struct Keyring {
    folder: Option<PathBuf>,
    paths: Vec<PathBuf>,
    passphrases: Passphrases,
}

impl Keyring {
    /// The folder of keys, if one was named.
    pub(in crate::cli) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Opens those of the wanted keys that are here, with their files.
    ///
    /// A file that is no key of ours is passed over unless it was named with `--key`.
    pub(in crate::cli) fn signers(&self, wanted: &[PublicKey]) -> Result<Vec<(PathBuf, KeyPair)>, CliError> {
        let mut found: Vec<(PathBuf, KeyPair)> = Vec::new();
        for path in &self.paths {
            let hinted = public_beside(path);
            if hinted.is_some_and(|public| !wanted.contains(&public)) {
                continue;
            }
            let key = match read_key(path)? {
                KeyFile::Plain(key) => key,
                KeyFile::Encrypted(file) => self.passphrases.open(&file)?,
            };
            let is_new = found.iter().all(|(_, known)| known.public() != key.public());
            if wanted.contains(&key.public()) && is_new {
                found.push((path.clone(), key));
            }
        }
        Ok(found)
    }

    /// The passphrase that protects a new key: the one of the key that it replaces, if that has one.
    pub(super) fn passphrase_like(&self, replaced: &Path) -> Result<Option<Passphrase>, CliError> {
        match read_key(replaced)? {
            KeyFile::Plain(_) => Ok(None),
            KeyFile::Encrypted(file) => {
                self.passphrases.open(&file)?;
                Ok(self.passphrases.last.borrow().clone())
            }
        }
    }
}

/// Passphrases that were given or typed.
struct Passphrases {
    /// The last one that was given or that opened a key: holders often use one for several files.
    last: RefCell<Option<Passphrase>>,
}

impl Passphrases {
    fn new(file: Option<&Path>) -> Result<Self, CliError> {
        let given = match file {
            Some(file) => Some(passphrase_in(file)?),
            None => from_environment(),
        };
        Ok(Self { last: RefCell::new(given) })
    }

    fn open(&self, key: &EncryptedKey) -> Result<KeyPair, CliError> {
        let given = self.last.borrow().clone();
        if let Some(passphrase) = given {
            match key.open(&passphrase) {
                Err(SignError::WrongPassphrase(_)) if can_prompt() => {}
                opened => return opened.map_err(refused),
            }
        }
        let passphrase = prompt(&format!("Passphrase of {}: ", key.path().display()))?;
        let opened = key.open(&passphrase).map_err(refused)?;
        *self.last.borrow_mut() = Some(passphrase);
        Ok(opened)
    }
}

fn refused(error: SignError) -> CliError {
    let hint = match &error {
        SignError::WrongPassphrase(_) => "type it again, or give the file with the right one: --passphrase-file FILE",
        SignError::KeyMethod { .. } => "convert it: openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW",
        _ => "name another key file",
    };
    CliError::new(ExitKind::Refused, error).hint(hint)
}

fn read_key(path: &Path) -> Result<KeyFile, CliError> {
    KeyFile::read(path)
        .or_exit_try(ExitKind::Refused, "give the folder that `cloud-hub init --keys` made with --keys DIR")
}

/// The `*.key` files of a folder, by name.
fn key_files(folder: &Path) -> Result<Vec<PathBuf>, CliError> {
    let entries = std::fs::read_dir(folder)
        .map_err(|error| CliError::new(ExitKind::Storage, format!("read folder {}: {error}", folder.display())))
        .map_err(|error| error.hint("give the folder that `cloud-hub init --keys` made with --keys DIR"))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "key"));
    paths.sort();
    paths.truncate(KEY_FILES_MAX);
    Ok(paths)
}

/// The public key in the `.pub` file beside a key.
fn public_beside(key: &Path) -> Option<PublicKey> {
    let bytes = files::read_bounded(&key.with_extension("pub"), SMALL_FILE_BYTES_MAX).ok()?;
    String::from_utf8(bytes).ok()?.trim().parse().ok()
}

/// The public half of a key file, as far as it is known without a passphrase.
pub(super) fn public_of(key: &Path) -> Option<PublicKey> {
    public_beside(key).or_else(|| KeyPair::load(key).ok().map(|key| key.public()))
}

/// A public key as the operator names it: the file, or the key itself.
pub(super) fn public_key(text: &str) -> Result<PublicKey, CliError> {
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let bytes = files::read_bounded(Path::new(text), SMALL_FILE_BYTES_MAX).map_err(|error| {
        CliError::new(ExitKind::Usage, error)
            .hint("name the .pub file that `cloud-hub trust keygen` made, or 64 hex digits")
    })?;
    let key = String::from_utf8_lossy(&bytes);
    key.trim().parse().or_exit_try(ExitKind::Usage, "name the .pub file that `cloud-hub trust keygen` made")
}

/// Appends an ending to the name that was given; `alice.key` stays what it is.
pub(super) fn with_ending(name: &Path, ending: &str) -> PathBuf {
    let is_key = name.extension().is_some_and(|given| given == "key" || given == "pub");
    let stem = if is_key { name.with_extension("") } else { name.to_owned() };
    let mut path = stem.into_os_string();
    path.push(".");
    path.push(ending);
    PathBuf::from(path)
}

/// Writes a new key and its public half beside it.
pub(in crate::cli) fn save(key: &KeyPair, path: &Path, passphrase: Option<&Passphrase>) -> Result<(), CliError> {
    let saved = match passphrase {
        Some(passphrase) => key.save_encrypted(path, passphrase),
        None => key.save(path),
    };
    saved.map_err(|error| {
        let kind = if path.exists() { ExitKind::Conflict } else { ExitKind::Storage };
        CliError::new(kind, error)
    })?;
    let public = format!("{}\n", key.public());
    files::write_atomic(&path.with_extension("pub"), public.as_bytes(), Mode::Shared).or_exit(ExitKind::Storage)
}

/// The first line of a file.
pub(super) fn passphrase_in(file: &Path) -> Result<Passphrase, CliError> {
    let bytes = files::read_bounded(file, SMALL_FILE_BYTES_MAX).or_exit(ExitKind::Storage)?;
    let text = String::from_utf8(bytes)
        .map_err(|_binary| CliError::new(ExitKind::Config, format!("{} is no text in UTF-8", file.display())))?;
    Ok(Passphrase::new(text.lines().next().unwrap_or_default().to_owned()))
}

fn from_environment() -> Option<Passphrase> {
    std::env::var(PASSPHRASE_ENV).ok().filter(|text| !text.is_empty()).map(Passphrase::new)
}

fn can_prompt() -> bool {
    std::io::stdin().is_terminal()
}

fn prompt(text: &str) -> Result<Passphrase, CliError> {
    if !can_prompt() {
        let problem = format!("{} is needed, and this is no terminal to ask for it", text.trim_end_matches(": "));
        return Err(CliError::new(ExitKind::Refused, problem)
            .hint(format!("give --passphrase-file FILE or the environment variable {PASSPHRASE_ENV}")));
    }
    rpassword::prompt_password(text).map(Passphrase::new).or_exit(ExitKind::Failed)
}

/// Asks for a new passphrase, twice.
pub(super) fn prompt_twice(what: &str) -> Result<Passphrase, CliError> {
    let first = prompt(&format!("New passphrase of {what}: "))?;
    let second = prompt(&format!("New passphrase of {what}, again: "))?;
    if first != second {
        return Err(CliError::new(ExitKind::Usage, "the two passphrases differ: nothing was changed"));
    }
    Ok(first)
}
