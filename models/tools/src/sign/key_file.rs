//! Key files: PKCS#8 in PEM, in the clear or under a passphrase, readable by their owner alone.
//!
//! A passphrase is turned into a key with scrypt, and the private key is encrypted with AES-256-CBC (PBES2, RFC 8018), so
//! that `openssl pkcs8 -in FILE` reads what is written here. What `openssl pkcs8 -topk8` writes is read too.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pkcs8::EncryptedPrivateKeyInfo;
use pkcs8::der::{Decode, Encode};
use pkcs8::pkcs5::pbes2::{Kdf, Parameters};
use pkcs8::pkcs5::{EncryptionScheme, scrypt};
use zeroize::Zeroizing;

use super::{KeyPair, SignError};

/// A passphrase; its memory is overwritten when it is dropped.
pub type Passphrase = Zeroizing<String>;

const PLAIN: (&str, &str) = ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----");
const ENCRYPTED: (&str, &str) = ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "-----END ENCRYPTED PRIVATE KEY-----");

/// Longest key file in bytes; an encrypted ed25519 key takes about 350.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// Permissions of a key file: its owner alone.
const KEY_MODE: u32 = 0o600;

/// Characters in a line of PEM (RFC 7468); OpenSSL refuses longer lines in some versions.
const PEM_LINE_CHARS: usize = 64;

/// scrypt cost of the files written here: N = 2^14, r = 8, p = 5.
///
/// One of the settings that OWASP's Password Storage Cheat Sheet lists as equal to N = 2^17, p = 1. It takes 16 MiB:
/// OpenSSL refuses to read what needs more than 32 MiB.
const SCRYPT_LOG_N: u8 = 14;
const SCRYPT_R: u32 = 8;
const SCRYPT_P: u32 = 5;

/// Most memory in bytes that reading a key file may take for scrypt: files of other programs may ask for more than ours.
const SCRYPT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Most passes over that memory.
const SCRYPT_P_MAX: u16 = 64;

/// Most iterations of PBKDF2 in a key file: some seconds of one core.
const PBKDF2_ITERATIONS_MAX: u32 = 10_000_000;

/// Length in bytes of salt and initialisation vector.
const SALT_BYTES: usize = 16;

/// A key file that was read.
#[derive(Debug)]
pub enum KeyFile {
    /// The key is in the clear.
    Plain(KeyPair),
    /// The key is under a passphrase.
    Encrypted(EncryptedKey),
}

/// A private key under a passphrase.
pub struct EncryptedKey {
    path: PathBuf,
    der: Vec<u8>,
}

impl std::fmt::Debug for EncryptedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncryptedKey").field("path", &self.path).finish_non_exhaustive()
    }
}

impl KeyFile {
    /// Reads a key file.
    ///
    /// # Errors
    /// When it cannot be read, when others can read it too, or when it holds no key.
    pub fn read(path: &Path) -> Result<Self, SignError> {
        let fail = |source| SignError::KeyFile { action: "read", path: path.to_owned(), source };
        let file = File::open(path).map_err(fail)?;
        let mode = file.metadata().map_err(fail)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SignError::KeyExposed { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(Vec::new());
        file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut text).map_err(fail)?;
        let not_a_key = || SignError::NotAKey(path.to_owned());
        let text = std::str::from_utf8(&text).map_err(|_not_text| not_a_key())?;
        if let Some(der) = body(text, ENCRYPTED) {
            let der = der.to_vec();
            EncryptedPrivateKeyInfo::from_der(&der).map_err(|_malformed| not_a_key())?;
            return Ok(Self::Encrypted(EncryptedKey { path: path.to_owned(), der }));
        }
        body(text, PLAIN).and_then(|der| KeyPair::from_der(&der)).map(Self::Plain).ok_or_else(not_a_key)
    }
}

impl EncryptedKey {
    /// The file that it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Decrypts the key.
    ///
    /// # Errors
    /// When the passphrase is wrong, the file asks for an unknown or absurdly expensive method, or it holds another kind
    /// of key.
    pub fn open(&self, passphrase: &Passphrase) -> Result<KeyPair, SignError> {
        let not_a_key = || SignError::NotAKey(self.path.clone());
        let info = EncryptedPrivateKeyInfo::from_der(&self.der).map_err(|_malformed| not_a_key())?;
        let EncryptionScheme::Pbes2(parameters) = &info.encryption_algorithm else {
            return Err(SignError::KeyMethod { path: self.path.clone(), problem: "not PBES2" });
        };
        check_cost(parameters).map_err(|problem| SignError::KeyMethod { path: self.path.clone(), problem })?;
        let wrong = || SignError::WrongPassphrase(self.path.clone());
        let der = parameters.decrypt(passphrase.as_bytes(), info.encrypted_data).map(Zeroizing::new);
        // A wrong passphrase gives a bad padding, or (one time in 256) bytes that are no key.
        KeyPair::from_der(&der.map_err(|_refused| wrong())?).ok_or_else(wrong)
    }
}

/// Refuses what would take minutes or gigabytes to decrypt.
fn check_cost(parameters: &Parameters<'_>) -> Result<(), &'static str> {
    let is_cheap = match &parameters.kdf {
        Kdf::Scrypt(scrypt) => {
            let memory = scrypt.cost_parameter.checked_mul(u64::from(scrypt.block_size) * 128);
            memory.is_some_and(|bytes| bytes <= SCRYPT_BYTES_MAX) && scrypt.parallelization <= SCRYPT_P_MAX
        }
        Kdf::Pbkdf2(pbkdf2) => pbkdf2.iteration_count <= PBKDF2_ITERATIONS_MAX,
        _ => return Err("unknown key derivation"),
    };
    if is_cheap { Ok(()) } else { Err("its key derivation takes too much memory or time") }
}

impl KeyPair {
    /// Reads a key file that is in the clear (as [`KeyPair::save`] and `openssl genpkey -algorithm ED25519` write it).
    ///
    /// # Errors
    /// As [`KeyFile::read`], and when the key is under a passphrase.
    pub fn load(path: &Path) -> Result<Self, SignError> {
        match KeyFile::read(path)? {
            KeyFile::Plain(key) => Ok(key),
            KeyFile::Encrypted(_) => Err(SignError::KeyEncrypted(path.to_owned())),
        }
    }

    /// Writes a new key file that only its owner can read (mode 0600), durable when this returns.
    ///
    /// # Errors
    /// When the file exists already (a key is never overwritten), or when the disk refuses.
    pub fn save(&self, path: &Path) -> Result<(), SignError> {
        write(path, &self.to_text(None)?)
    }

    /// Writes a new key file under a passphrase; otherwise as [`KeyPair::save`].
    ///
    /// # Errors
    /// As [`KeyPair::save`], and when there is no randomness.
    pub fn save_encrypted(&self, path: &Path, passphrase: &Passphrase) -> Result<(), SignError> {
        write(path, &self.to_text(Some(passphrase))?)
    }

    /// Replaces a key file by the same key under another passphrase, or in the clear.
    ///
    /// # Errors
    /// When the disk refuses; the old file is then still there.
    pub fn replace(&self, path: &Path, passphrase: Option<&Passphrase>) -> Result<(), SignError> {
        let fail = |source| SignError::KeyFile { action: "replace", path: path.to_owned(), source };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        match std::fs::remove_file(&beside) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(fail(source)),
            Ok(()) | Err(_) => {}
        }
        write(&beside, &self.to_text(passphrase)?)?;
        std::fs::rename(&beside, path).and_then(|()| sync_parent(path)).map_err(fail)
    }

    fn to_text(&self, passphrase: Option<&Passphrase>) -> Result<Zeroizing<String>, SignError> {
        let der = self.to_der()?;
        match passphrase {
            None => Ok(pem(&der, PLAIN)),
            Some(passphrase) => Ok(pem(&encrypted(&der, passphrase)?, ENCRYPTED)),
        }
    }
}

fn encrypted(der: &[u8], passphrase: &Passphrase) -> Result<Vec<u8>, SignError> {
    let (mut salt, mut iv) = ([0; SALT_BYTES], [0; SALT_BYTES]);
    for bytes in [&mut salt, &mut iv] {
        aws_lc_rs::rand::fill(bytes).map_err(|_unspecified| SignError::Crypto("encrypting"))?;
    }
    let failed = |_invalid| SignError::Crypto("encrypting");
    let cost = scrypt::Params::new(SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P, scrypt::Params::RECOMMENDED_LEN);
    let cost = cost.map_err(|_invalid| SignError::Crypto("encrypting"))?;
    let parameters = Parameters::scrypt_aes256cbc(cost, &salt, &iv).map_err(failed)?;
    let encrypted_data = parameters.encrypt(passphrase.as_bytes(), der).map_err(failed)?;
    let encryption_algorithm = EncryptionScheme::Pbes2(parameters);
    let info = EncryptedPrivateKeyInfo { encryption_algorithm, encrypted_data: &encrypted_data };
    info.to_der().map_err(|_invalid| SignError::Crypto("encrypting"))
}

fn pem(der: &[u8], (begin, end): (&str, &str)) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(format!("{begin}\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII: every byte is a character boundary.
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE_CHARS));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(end);
    text.push('\n');
    text
}

fn body(text: &str, (begin, end): (&str, &str)) -> Option<Zeroizing<Vec<u8>>> {
    let body = text.trim().strip_prefix(begin)?.strip_suffix(end)?;
    let body = Zeroizing::new(body.split_whitespace().collect::<String>());
    STANDARD.decode(body.as_bytes()).ok().map(Zeroizing::new)
}

fn write(path: &Path, text: &str) -> Result<(), SignError> {
    let fail = |source| SignError::KeyFile { action: "write", path: path.to_owned(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(KEY_MODE).open(path).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
    sync_parent(path).map_err(fail)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned())
    }

    #[test]
    fn a_saved_key_is_its_owners_alone_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let key = KeyPair::generate().unwrap();
        key.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(key.save(&path), Err(SignError::KeyFile { .. })));
        let read = KeyPair::load(&path).unwrap();
        assert_eq!(read.public(), key.public());
        assert_eq!(read.sign(b"x").unwrap(), key.sign(b"x").unwrap());
        assert!(!format!("{read:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_key_under_a_passphrase_opens_with_it_and_with_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let key = KeyPair::generate().unwrap();
        key.save_encrypted(&path, &passphrase("correct horse é")).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(KeyPair::load(&path), Err(SignError::KeyEncrypted(_))));
        let KeyFile::Encrypted(file) = KeyFile::read(&path).unwrap() else { panic!("it is in the clear") };
        assert_eq!(file.open(&passphrase("correct horse é")).unwrap().public(), key.public());
        for wrong in ["", "correct horse", "correct horse é "] {
            assert!(matches!(file.open(&passphrase(wrong)), Err(SignError::WrongPassphrase(_))), "{wrong:?} opened it");
        }
        // The passphrase changes, then goes.
        key.replace(&path, Some(&passphrase("other"))).unwrap();
        let KeyFile::Encrypted(file) = KeyFile::read(&path).unwrap() else { panic!("it is in the clear") };
        assert_eq!(file.open(&passphrase("other")).unwrap().public(), key.public());
        key.replace(&path, None).unwrap();
        assert_eq!(KeyPair::load(&path).unwrap().public(), key.public());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn openssl_reads_and_writes_keys_under_a_passphrase() {
        let openssl = |args: &[&str]| std::process::Command::new("openssl").args(args).output();
        if openssl(&["version"]).is_err() {
            println!("skipped: openssl is not installed");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let key = KeyPair::generate().unwrap();
        key.save_encrypted(&path("ours.key"), &passphrase("secret")).unwrap();
        let ours = path("ours.key").display().to_string();
        let out = openssl(&["pkey", "-in", &ours, "-passin", "pass:secret", "-pubout", "-outform", "DER"]).unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(out.stdout.ends_with(&hex::decode(key.public().to_string()).unwrap()), "another key");

        let plain = path("plain.key").display().to_string();
        assert!(openssl(&["genpkey", "-algorithm", "ED25519", "-out", &plain]).unwrap().status.success());
        // Its default, PBKDF2 of other cost and hash, and scrypt.
        let theirs: [&[&str]; 4] =
            [&[], &["-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512"], &["-iter", "100000"], &["-scrypt"]];
        for (at, options) in theirs.into_iter().enumerate() {
            let file = path(&format!("{at}.key"));
            let shown = file.display().to_string();
            let base = ["pkcs8", "-topk8", "-in", &plain, "-out", &shown, "-passout", "pass:secret"];
            assert!(openssl(&[base.as_slice(), options].concat()).unwrap().status.success(), "{options:?}");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            let KeyFile::Encrypted(read) = KeyFile::read(&file).unwrap() else { panic!("it is in the clear") };
            let opened = read.open(&passphrase("secret")).unwrap();
            std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(opened.public(), KeyPair::load(Path::new(&plain)).unwrap().public(), "{options:?}");
            assert!(matches!(read.open(&passphrase("wrong")), Err(SignError::WrongPassphrase(_))));
        }
    }

    #[test]
    fn a_key_file_that_asks_for_gigabytes_is_refused_at_once() {
        let (salt, iv) = ([1; 16], [2; 16]);
        let costs = [(30, 8, 1), (20, 1024, 1), (10, 8, 1 << 15)];
        for (log_n, r, p) in costs {
            let Ok(cost) = scrypt::Params::new(log_n, r, p, 32) else { continue };
            let Ok(parameters) = Parameters::scrypt_aes256cbc(cost, &salt, &iv) else { continue };
            assert!(check_cost(&parameters).is_err(), "N = 2^{log_n}, r = {r}, p = {p}");
        }
        let parameters = Parameters::pbkdf2_sha256_aes256cbc(50_000_000, &salt, &iv).unwrap();
        assert!(check_cost(&parameters).is_err());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        KeyPair::generate().unwrap().save(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(KeyPair::load(&path), Err(SignError::KeyExposed { mode: 0o640, .. })));
    }

    #[test]
    fn a_file_that_is_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let texts = [
            b"".as_slice(),
            b"x",
            b"\xff\xfe",
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        ];
        for (at, text) in texts.iter().enumerate() {
            let path = folder.path().join(at.to_string());
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(KeyPair::load(&path), Err(SignError::NotAKey(_))), "text {at}");
        }
    }
}
