//! docs/reference/wgpu.md lists the operators that `ops.toml` lists. `SANDERLING_BLESS=1` writes the table anew.

mod conformance;

use conformance::page;
use engine_wgpu::check::{Row, Runs, rows};

fn table() -> String {
    let mut all: Vec<&Row> = rows().collect();
    all.sort_by_key(|row| (row.domain != "ai.onnx", &row.domain, &row.op));
    let mut text = String::from("| operator | opsets | runs | element types | notes |\n|---|---|---|---|---|\n");
    for row in all {
        let name = if row.domain == "ai.onnx" { row.op.clone() } else { format!("{}.{}", row.domain, row.op) };
        let runs = match row.runs {
            Runs::Device => "device",
            Runs::Host => "host, while planning",
            Runs::HostNode => "host, between two plans",
        };
        let [first, last] = row.opsets;
        let opsets = if first == last { first.to_string() } else { format!("{first} to {last}") };
        text.push_str(&format!("| {name} | {opsets} | {runs} | {} | {} |\n", row.types.join(", "), row.notes));
    }
    text
}

#[test]
fn the_reference_lists_the_operators_of_ops_toml() {
    let table = table();
    if std::env::var_os("SANDERLING_BLESS").is_some() {
        page::write("operators", &table);
    }
    assert!(page::part("operators") == table, "run with SANDERLING_BLESS=1 and look at the difference");
}
