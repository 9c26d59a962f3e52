//! The hidden verb `trial`: one step of `doctor` that must run as another user, or may end its process.

use std::path::PathBuf;

use clap::Subcommand;
use console::{CliError, ExitKind, OrExit};
use engine::{Engine, LibrarySearch, OrtEngine};
use store::files;

/// One step of `doctor`.
#[derive(Debug, Subcommand)]
pub enum Trial {
    /// Writes a file into a folder, makes it durable, renames it, and removes it
    Folder {
        /// The folder to write into
        folder: PathBuf,
    },
    /// Opens ONNX Runtime and prints its version
    Library {
        /// Its file or folder; without it the places that the daemon searches
        library: Option<PathBuf>,
    },
}

impl Trial {
    /// Runs the step in this process.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(self) -> Result<(), CliError> {
        match self {
            Self::Folder { folder } => files::try_folder(&folder).or_exit(ExitKind::Storage),
            Self::Library { library } => {
                let engine = OrtEngine::open(&LibrarySearch { configured: library }).or_exit(ExitKind::Runtime)?;
                let described = engine.describe();
                let library = described.library.unwrap_or_default();
                let providers = described.providers.join(", ");
                console::print_line(&format!("{} from {library}: {providers}", described.version))
                    .or_exit(ExitKind::Storage)
            }
        }
    }
}
