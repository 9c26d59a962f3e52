//! `cloud-hub trial`: one step of `doctor` that must run as another user or may end the process. Hidden: it is for
//! `doctor` alone.

use std::path::PathBuf;

use clap::Subcommand;
use console::{CliError, ExitKind, OrExit};
use engine::{Engine, LibrarySearch, OrtEngine};
use store::files;

/// What is tried.
#[derive(Debug, Subcommand)]
pub(super) enum Trial {
    /// Writes a file into a folder, makes it durable, renames it, and removes it.
    Folder {
        /// The folder.
        folder: PathBuf,
    },
    /// Opens ONNX Runtime.
    Library {
        /// Its file or folder; without it the places that the hub looks in.
        library: Option<PathBuf>,
    },
}

impl Trial {
    pub(super) fn run(&self) -> Result<(), CliError> {
        match self {
            Self::Folder { folder } => files::try_folder(folder).or_exit(ExitKind::Storage),
            Self::Library { library } => {
                let engine =
                    OrtEngine::open(&LibrarySearch { configured: library.clone() }).or_exit(ExitKind::Runtime)?;
                let described = engine.describe();
                let library = described.library.unwrap_or_default();
                let providers = described.providers.join(", ");
                console::print_line(&format!("{} from {library}: {providers}", described.version))
                    .or_exit(ExitKind::Storage)
            }
        }
    }
}
