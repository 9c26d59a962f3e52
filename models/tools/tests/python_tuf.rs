//! The reference implementation of TUF reads what the signer writes, and refuses it when a byte is changed.
//!
//! `cargo xtask setup --tools` installs python-tuf once into the cache folder. Where that cannot be had (no Python, no
//! network and no cache), the test says `skipped: why` and passes.

#![expect(clippy::unwrap_used, reason = "the helpers of a test stop it as its own lines do")]

use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::Timestamp;
use model_tools::sign::{self, Authority, InitialKeys, KeyPair, Roles, Signed};
use tempfile::TempDir;
use testkit::tools;

/// Walks from the first root to the targets and fetches one of them; prints its content.
const CLIENT: &str = r#"
import pathlib, sys
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface
from tuf.api.exceptions import DownloadHTTPError

repository, state, target = map(pathlib.Path, sys.argv[1:4])

class Folder(FetcherInterface):
    def _fetch(self, url):
        path = repository / url
        if not path.is_file():
            raise DownloadHTTPError("no such file", 404)
        yield path.read_bytes()

updater = Updater(
    metadata_dir=str(state / "metadata"),
    metadata_base_url="metadata/",
    target_dir=str(state / "targets"),
    target_base_url="targets/",
    fetcher=Folder(),
    bootstrap=(repository / "metadata/1.root.json").read_bytes(),
)
updater.refresh()
info = updater.get_targetinfo(str(target))
if info is None:
    sys.exit("the target is not listed")
path = updater.download_target(info, str(state / "downloaded"))
sys.stdout.buffer.write(pathlib.Path(path).read_bytes())
"#;

fn run(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", told.lines().last().unwrap_or("no message")))
}

/// A repository as the hub lays it out, with versions 1 to 3 of the root and two signed targets.
struct Published {
    folder: TempDir,
    /// Names of the newest targets and snapshot.
    newest: [String; 2],
}

impl Published {
    fn new(now: Timestamp) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("metadata")).unwrap();
        let mut published = Self { folder, newest: Default::default() };
        let keys = InitialKeys::generate().unwrap();
        let begun = sign::init_repository(&keys, now).unwrap();
        begun.files().into_iter().for_each(|file| published.write(file));
        // Two of three root keys from the second root on; a third root changes nothing but its expiry.
        let trio: Vec<KeyPair> = (0..3).map(|_| KeyPair::generate().unwrap()).collect();
        let roles = Roles {
            root: Authority { keys: trio.iter().map(KeyPair::public).collect(), threshold: 2 },
            targets: Authority::of(keys.targets.public()),
            snapshot: Authority::of(keys.online.snapshot.public()),
            timestamp: Authority::of(keys.online.timestamp.public()),
        };
        let second = sign::next_root(&begun.root.bytes, &roles, &[&keys.root, &trio[0], &trio[2]], now).unwrap();
        let third = sign::next_root(&second.bytes, &roles, &[&trio[1], &trio[2]], now).unwrap();
        published.write(&second);
        published.write(&third);

        let (mut targets, mut snapshot, mut timestamp) = (begun.targets, begun.snapshot, begun.timestamp);
        for (path, content) in [("digits/1/manifest.json", "one"), ("digits/2/manifest.json", "two é\"\\")] {
            let content = content.as_bytes();
            targets = sign::add_target(&third.bytes, &targets.bytes, path, content, &[&keys.targets], now).unwrap();
            let previous = Some((snapshot.bytes.as_slice(), timestamp.bytes.as_slice()));
            (snapshot, timestamp) =
                sign::snapshot_and_timestamp(&third.bytes, previous, &targets.bytes, &keys.online, now).unwrap();
            [&targets, &snapshot, &timestamp].into_iter().for_each(|file| published.write(file));
            let (place, name) = path.rsplit_once('/').unwrap();
            let place = published.folder.path().join("targets").join(place);
            std::fs::create_dir_all(&place).unwrap();
            std::fs::write(place.join(format!("{}.{name}", types::Digest::of(content).to_hex())), content).unwrap();
        }
        published.newest = [targets.file_name(), snapshot.file_name()];
        published
    }

    fn write(&self, signed: &Signed) {
        std::fs::write(self.metadata(&signed.file_name()), &signed.bytes).unwrap();
    }

    fn metadata(&self, name: &str) -> PathBuf {
        self.folder.path().join("metadata").join(name)
    }

    fn fetch(&self, python: &Path, target: &str) -> Result<Vec<u8>, String> {
        let state = tempfile::tempdir().unwrap();
        for name in ["metadata", "targets"] {
            std::fs::create_dir(state.path().join(name)).unwrap();
        }
        let mut command = Command::new(python);
        command.args(["-c", CLIENT]).arg(self.folder.path()).arg(state.path()).arg(target);
        run(&mut command)
    }
}

#[test]
fn python_tuf_reads_what_the_signer_writes() {
    let python = match tools::python() {
        Ok(python) => python,
        Err(why) => return println!("skipped: {why:#}"),
    };
    let published = Published::new(Timestamp::now());
    assert_eq!(published.fetch(&python, "digits/1/manifest.json").unwrap(), b"one");
    assert_eq!(published.fetch(&python, "digits/2/manifest.json").unwrap(), "two é\"\\".as_bytes());
    published.fetch(&python, "digits/3/manifest.json").expect_err("what was never signed was found");

    let [targets, snapshot] = &published.newest;
    for name in ["2.root.json", "3.root.json", targets.as_str(), snapshot.as_str(), "timestamp.json"] {
        let good = std::fs::read(published.metadata(name)).unwrap();
        let at = good.windows(8).position(|window| window == b"expires\"").unwrap() + 12;
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(published.metadata(name), bad).unwrap();
        let refused = published.fetch(&python, "digits/1/manifest.json");
        refused.expect_err("python-tuf took a changed file: the test does not test");
        std::fs::write(published.metadata(name), good).unwrap();
    }
}

#[test]
fn python_tuf_refuses_what_has_expired() {
    let python = match tools::python() {
        Ok(python) => python,
        Err(why) => return println!("skipped: {why:#}"),
    };
    let old = Timestamp::now() - sign::Role::Timestamp.lifetime() - jiff::SignedDuration::from_hours(1);
    let refused = Published::new(old).fetch(&python, "digits/1/manifest.json").unwrap_err();
    assert!(refused.to_lowercase().contains("expired"), "{refused}");
}
