//! A bundle on disk, before and after its verification.
//!
//! [`Bundle<Unverified>`] is a folder and the bytes of a manifest from any origin. [`Bundle::verify`] is the only way
//! to [`Bundle<Verified>`]: the trust metadata lists this manifest for this model and version, and every file of the
//! requested variant matches the manifest. Only `Verified` returns bytes, and hashes them again as it reads, so that
//! the verified bytes are the loaded ones.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use types::{Digest, ModelName, VariantName, Version};

use crate::file::{self, FileName, FileRef, MANIFEST_FILE};
use crate::golden::{GOLDEN_BYTES_MAX, Golden, GoldenError};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError, Variant};
use crate::trust::{TrustError, Trusted};

/// State of a bundle that was not verified yet.
#[derive(Debug, Clone)]
pub struct Unverified {
    manifest: Vec<u8>,
}

/// State of a bundle whose manifest is signed and whose files match it.
#[derive(Debug, Clone)]
pub struct Verified {
    manifest: Manifest,
    manifest_digest: Digest,
    variant: Variant,
}

/// A version of a model in a folder: `manifest.json` and the files that it names.
#[derive(Debug, Clone)]
pub struct Bundle<State> {
    folder: PathBuf,
    state: State,
}

/// Error: a bundle cannot be trusted or read.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The trust metadata does not list this version.
    #[error("verify manifest of a bundle")]
    Trust(#[from] TrustError),
    /// The manifest is not the signed one.
    #[error("manifest of {model} version {version} differs from the signed one: {problem}")]
    WrongManifest {
        /// Name of the model.
        model: ModelName,
        /// Version of the model.
        version: Version,
        /// Difference from the signed manifest.
        problem: String,
    },
    /// The manifest is signed but invalid.
    #[error("read manifest of a bundle")]
    Manifest(#[from] ManifestError),
    /// The manifest has no variant with this name.
    #[error("{model} version {version} has no variant {variant}: it has {known}")]
    UnknownVariant {
        /// Name of the model.
        model: ModelName,
        /// Version of the model.
        version: Version,
        /// Requested variant.
        variant: VariantName,
        /// Names of the variants in the manifest.
        known: String,
    },
    /// A file does not match the manifest.
    #[error("file \"{name}\" of a bundle differs from the signed one: {problem}")]
    WrongFile {
        /// Name of the file.
        name: FileName,
        /// Difference from the manifest.
        problem: String,
    },
    /// A file could not be read.
    #[error("read file {path:?} of a bundle")]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The golden file is signed but invalid.
    #[error("read golden file of a bundle")]
    Golden(#[from] GoldenError),
}

impl VerifyError {
    /// Whether the bytes are wrong, so that a retry with the same bytes cannot succeed.
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

/// Reads a manifest that the trust metadata lists; parses nothing before its digest is verified.
///
/// # Errors
/// Fails if the version is not listed, if these are not the listed bytes, or if they are not a valid manifest.
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
    // The signature is for a path; a manifest under another path is a mistake of the signer.
    if manifest.model != *model || manifest.version != version {
        return Err(wrong(format!("it is for {} version {}", manifest.model, manifest.version)));
    }
    Ok(manifest)
}

impl Bundle<Unverified> {
    /// Creates an unverified bundle from a folder and the bytes of its manifest. Reads and trusts nothing yet.
    #[must_use]
    pub fn open(folder: &Path, manifest: &[u8]) -> Self {
        Self { folder: folder.to_owned(), state: Unverified { manifest: manifest.to_vec() } }
    }

    /// Creates an unverified bundle as [`Bundle::open`] does, with the manifest in the folder.
    ///
    /// # Errors
    /// Fails if there is none, or if it exceeds the limit of a manifest.
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

    /// Verifies a new bundle by the trust metadata.
    ///
    /// # Errors
    /// Returns the first difference from the signed content.
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

    /// Verifies an installed bundle again, by the manifest digest that was recorded at its installation.
    ///
    /// For the start of a daemon: an active model continues to serve after the trust metadata has expired, was lost, or
    /// no longer lists it. Never for received data.
    ///
    /// # Errors
    /// Returns the first difference from the installed content.
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
    /// Returns the folder of the bundle.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the signed manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.state.manifest
    }

    /// Returns the digest of the manifest, which [`Bundle::verify_installed`] needs later.
    #[must_use]
    pub fn manifest_digest(&self) -> Digest {
        self.state.manifest_digest
    }

    /// Returns the variant whose files were verified.
    #[must_use]
    pub fn variant(&self) -> &Variant {
        &self.state.variant
    }

    /// Reads the model file; hashes its bytes again, and returns only the signed ones.
    ///
    /// # Errors
    /// Fails if the file changed since it was verified, or cannot be read.
    pub fn model_bytes(&self) -> Result<Bytes, VerifyError> {
        read_file(&self.folder, &self.state.variant.file)
    }

    /// Reads the golden inputs and outputs; `None` if the author provided none.
    ///
    /// # Errors
    /// Fails if the file changed since it was verified, cannot be read, or does not match the model.
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

/// Checks whether the file in the folder matches the manifest, down to the byte.
///
/// # Errors
/// Returns [`VerifyError::WrongFile`] if it does not, [`VerifyError::Io`] if it cannot be read.
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
    // A model larger than the free memory is an error of this model and must not end the process.
    bytes.try_reserve_exact(size).map_err(|_full| fail(io::ErrorKind::OutOfMemory.into()))?;
    file.take(expected.size).read_to_end(&mut bytes).map_err(fail)?;
    same(expected, Digest::of(&bytes))?;
    Ok(bytes.into())
}

/// Opens the file if it is a regular one of the right length.
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
