//! The parts of `docs/reference/wgpu.md` that tests write: tables between `<!-- begin NAME -->` and `<!-- end NAME -->`.

use std::fs;
use std::path::PathBuf;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/wgpu.md")
}

fn marks(name: &str) -> (String, String) {
    (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"))
}

/// What the page says between the marks of that name.
pub(crate) fn part(name: &str) -> String {
    let text = fs::read_to_string(path()).unwrap();
    let (begin, end) = marks(name);
    let rest = text.split_once(&begin).unwrap_or_else(|| panic!("the page has no {begin}")).1;
    rest.split_once(&end).unwrap_or_else(|| panic!("the page has no {end}")).0.to_owned()
}

/// Writes that part anew.
pub(crate) fn write(name: &str, part: &str) {
    let text = fs::read_to_string(path()).unwrap();
    let (begin, end) = marks(name);
    let (head, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("the page has no {begin}"));
    let tail = rest.split_once(&end).unwrap_or_else(|| panic!("the page has no {end}")).1;
    fs::write(path(), format!("{head}{begin}{part}{end}{tail}")).unwrap();
}
