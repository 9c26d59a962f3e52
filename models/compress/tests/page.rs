//! `docs/compress.md` says of forms and options what the table of passes says.
#![expect(clippy::unwrap_used, reason = "helpers of tests may do what tests may")]

use std::path::Path;

/// Replaces what stands between the line that begins with `<!-- name:` and the next `<!-- end -->`.
fn with(page: &str, name: &str, table: &str) -> String {
    let start = page.find(&format!("<!-- {name}:")).unwrap();
    let from = start + page[start..].find('\n').unwrap() + 1;
    let to = from + page[from..].find("<!-- end -->").unwrap();
    format!("{}{table}{}", &page[..from], &page[to..])
}

#[test]
fn the_page_has_the_tables_of_the_passes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compress.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let wanted = with(&page, "forms", &compress::pass::passes_table());
    let wanted = with(&wanted, "options", &compress::pass::options_table());
    if std::env::var_os("SANDERLING_BLESS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    } else {
        assert_eq!(page, wanted, "SANDERLING_BLESS=1 cargo test -p compress --test page writes the tables anew");
    }
}
