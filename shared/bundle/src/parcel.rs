//! A bundle on disk, before and after it was proven.
//!
//! [`Bundle<Unverified>`] is a folder and the bytes of a manifest that came from anywhere. [`Bundle::verify`] is the
//! one door to [`Bundle<Verified>`]: the trust metadata lists this manifest for this model and version, and every
//! file of the wanted variant is what the manifest says. Only `Verified` yields bytes, and hashes them again as it
//! reads, so that what was proven is what is loaded.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use types::{Digest, ModelName, VariantName, Version};

use crate::file::{self, FileName, FileRef, MANIFEST_FILE};
use crate::golden::{GOLDEN_BYTES_MAX, Golden, GoldenError};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError, Variant};
use crate::trust::{TrustError, Trusted};

/// State of a bundle nobody has vouched for yet.
#[derive(Debug, Clone)]
pub struct Unverified {
    manifest: Vec<u8>,
}

/// State of a bundle whose manifest is signed and whose files are what it says.
#[derive(Debug, Clone)]
pub struct Verified {
    manifest: Manifest,
    manifest_digest: Digest,
    variant: Variant,
}

/// A version of a model in a folder: `manifest.json` and the files it names.
#[derive(Debug, Clone)]
pub struct Bundle<State> {
    folder: PathBuf,
    state: State,
}

/// Why a bundle is not to be trusted, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The trust metadata does not list this version.
    #[error("verify manifest of a bundle")]
    Trust(#[from] TrustError),
    /// The manifest is not the one that was signed.
    #[error("manifest of {model} version {version} is not the signed one: {problem}")]
    WrongManifest {
        /// The model.
        model: ModelName,
        /// The version.
        version: Version,
        /// What differs.
        problem: String,
    },
    /// The manifest was signed and is still not lawful.
    #[error("read manifest of a bundle")]
    Manifest(#[from] ManifestError),
    /// The manifest has no such variant.
    #[error("{model} version {version} has no variant {variant}: it has {known}")]
    UnknownVariant {
        /// The model.
        model: ModelName,
        /// The version.
        version: Version,
        /// What was asked for.
        variant: VariantName,
        /// What there is.
        known: String,
    },
    /// A file is not what the manifest says.
    #[error("file \"{name}\" of a bundle is not the signed one: {problem}")]
    WrongFile {
        /// The file.
        name: FileName,
        /// What differs.
        problem: String,
    },
    /// A file could not be read.
    #[error("read file {path:?} of a bundle")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The golden file was signed and is still not lawful.
    #[error("read golden file of a bundle")]
    Golden(#[from] GoldenError),
}

impl VerifyError {
    /// Whether the bytes are wrong, so that trying again with the same bytes cannot help.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Io { .. } => false,
            Self::Trust(cause) => cause.is_refusal(),
            Self::WrongManifest { .. }
            | Self::Manifest(_)
            | Self::UnknownVariant { .. }
            | Self::WrongFile { .. }
            | Self::Golden(_) => true,
        }
    }
}

/// Reads a manifest that the trust metadata vouches for; nothing is parsed before its digest is right.
///
/// # Errors
/// When the version is not listed, when these are not the listed bytes, or when they are no lawful manifest.
pub fn read_manifest(
    trusted: &Trusted,
    model: &ModelName,
    version: Version,
    bytes: &[u8],
) -> Result<Manifest, VerifyError> {
    let target = trusted.manifest(model, version)?;
    if u64::try_from(bytes.len()).ok() != Some(target.length) {
        let problem = format!("it has {} bytes, {} were signed", bytes.len(), target.length);
        return Err(VerifyError::WrongManifest { model: model.clone(), version, problem });
    }
    read_pinned_manifest(target.digest, model, version, bytes)
}

fn read_pinned_manifest(
    pinned: Digest,
    model: &ModelName,
    version: Version,
    bytes: &[u8],
) -> Result<Manifest, VerifyError> {
    let wrong = |problem| VerifyError::WrongManifest { model: model.clone(), version, problem };
    let digest = Digest::of(bytes);
    if digest != pinned {
        return Err(wrong(format!("its digest is {digest}, {pinned} was signed")));
    }
    let manifest = Manifest::parse(bytes)?;
    // The signature is for a path; a manifest that was put under another path is a mistake of the signer.
    if manifest.model != *model || manifest.version != version {
        return Err(wrong(format!("it says {} version {}", manifest.model, manifest.version)));
    }
    Ok(manifest)
}

impl Bundle<Unverified> {
    /// Names a folder and the manifest bytes that came with it. Nothing is read or trusted yet.
    #[must_use]
    pub fn open(folder: &Path, manifest: &[u8]) -> Self {
        Self { folder: folder.to_owned(), state: Unverified { manifest: manifest.to_vec() } }
    }

    /// As [`Bundle::open`] with the manifest that lies in the folder.
    ///
    /// # Errors
    /// When there is none, or when it is longer than any manifest.
    pub fn load(folder: &Path) -> Result<Self, VerifyError> {
        let path = folder.join(MANIFEST_FILE);
        let fail = |source| VerifyError::Io { path: path.clone(), source };
        let file = file::open_regular(&path).map_err(fail)?;
        let mut manifest = Vec::new();
        let bytes_max = u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
        file.take(bytes_max + 1).read_to_end(&mut manifest).map_err(fail)?;
        if manifest.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge(manifest.len()).into());
        }
        Ok(Self { folder: folder.to_owned(), state: Unverified { manifest } })
    }

    /// Proves the bundle by the trust metadata: the door for everything that is new.
    ///
    /// # Errors
    /// The first thing that is not as signed.
    pub fn verify(
        self,
        trusted: &Trusted,
        model: &ModelName,
        version: Version,
        variant: &VariantName,
    ) -> Result<Bundle<Verified>, VerifyError> {
        let manifest = read_manifest(trusted, model, version, &self.state.manifest)?;
        self.into_verified(manifest, variant)
    }

    /// Proves a bundle again that was installed before, by the manifest digest that was written down then.
    ///
    /// For starting up: an active model goes on serving when the trust metadata has expired, was lost, or no longer
    /// lists it. Never for anything that arrives.
    ///
    /// # Errors
    /// The first thing that is not as it was then.
    pub fn verify_installed(
        self,
        manifest_digest: Digest,
        model: &ModelName,
        version: Version,
        variant: &VariantName,
    ) -> Result<Bundle<Verified>, VerifyError> {
        let manifest = read_pinned_manifest(manifest_digest, model, version, &self.state.manifest)?;
        self.into_verified(manifest, variant)
    }

    fn into_verified(self, manifest: Manifest, name: &VariantName) -> Result<Bundle<Verified>, VerifyError> {
        let Some(variant) = manifest.variant(name).cloned() else {
            let known: Vec<&str> = manifest.variants.iter().map(|variant| variant.name.as_str()).collect();
            return Err(VerifyError::UnknownVariant {
                model: manifest.model.clone(),
                version: manifest.version,
                variant: name.clone(),
                known: known.join(", "),
            });
        };
        let manifest_digest = Digest::of(&self.state.manifest);
        variant.files().try_for_each(|file| verify_file(&self.folder, file))?;
        Ok(Bundle { folder: self.folder, state: Verified { manifest, manifest_digest, variant } })
    }
}

impl Bundle<Verified> {
    /// The folder it lies in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The signed manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.state.manifest
    }

    /// Digest of the manifest: what [`Bundle::verify_installed`] wants to be told later.
    #[must_use]
    pub fn manifest_digest(&self) -> Digest {
        self.state.manifest_digest
    }

    /// The variant whose files were proven.
    #[must_use]
    pub fn variant(&self) -> &Variant {
        &self.state.variant
    }

    /// Reads the model file; its bytes are hashed again and are the signed ones, or there are none.
    ///
    /// # Errors
    /// When the file changed since it was verified, or cannot be read.
    pub fn model_bytes(&self) -> Result<Bytes, VerifyError> {
        read_file(&self.folder, &self.state.variant.file)
    }

    /// Reads the golden inputs and outputs, or `None` when the author gave none.
    ///
    /// # Errors
    /// When the file changed since it was verified, cannot be read, or does not fit the model.
    pub fn golden(&self) -> Result<Option<Golden>, VerifyError> {
        let Some(file) = &self.state.variant.golden else { return Ok(None) };
        if file.size > GOLDEN_BYTES_MAX {
            return Err(wrong(file, format!("{} bytes are over the limit of {GOLDEN_BYTES_MAX}", file.size)));
        }
        let golden = Golden::parse(&read_file(&self.folder, file)?)?;
        golden.check(&self.state.manifest.signature())?;
        Ok(Some(golden))
    }
}

/// Whether the file in the folder is what the manifest says, to the byte.
///
/// # Errors
/// [`VerifyError::WrongFile`] when it is not, [`VerifyError::Io`] when it cannot be read.
pub fn verify_file(folder: &Path, expected: &FileRef) -> Result<(), VerifyError> {
    let (path, file) = open_expected(folder, expected)?;
    let found = file::digest(file, expected.size).map_err(|source| VerifyError::Io { path, source })?;
    same(expected, found)
}

fn read_file(folder: &Path, expected: &FileRef) -> Result<Bytes, VerifyError> {
    let (path, file) = open_expected(folder, expected)?;
    let fail = |source| VerifyError::Io { path: path.clone(), source };
    let size = usize::try_from(expected.size).map_err(|_narrow| fail(io::ErrorKind::OutOfMemory.into()))?;
    let mut bytes = Vec::new();
    // A model larger than the memory left is an error of this model, not the end of the process.
    bytes.try_reserve_exact(size).map_err(|_full| fail(io::ErrorKind::OutOfMemory.into()))?;
    file.take(expected.size).read_to_end(&mut bytes).map_err(fail)?;
    same(expected, Digest::of(&bytes))?;
    Ok(bytes.into())
}

/// Opens the file when it is a regular one of the right length.
fn open_expected(folder: &Path, expected: &FileRef) -> Result<(PathBuf, File), VerifyError> {
    let path = folder.join(&expected.name);
    let fail = |source| VerifyError::Io { path: path.clone(), source };
    let file = file::open_regular(&path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    if length != expected.size {
        return Err(wrong(expected, format!("it has {length} bytes, {} were signed", expected.size)));
    }
    Ok((path, file))
}

fn same(expected: &FileRef, found: Digest) -> Result<(), VerifyError> {
    if found != expected.digest {
        return Err(wrong(expected, format!("its digest is {found}, {} was signed", expected.digest)));
    }
    Ok(())
}

fn wrong(file: &FileRef, problem: String) -> VerifyError {
    VerifyError::WrongFile { name: file.name.clone(), problem }
}
