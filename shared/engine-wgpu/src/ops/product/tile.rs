//! The register kernel of a product: its tile's shape and its text, unrolled.

/// The shape of a register tile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Threads of a workgroup along columns and rows.
    pub(super) threads: [usize; 2],
}

impl Tile {
    /// Few rows (a fully connected layer on one image) want narrow tiles, so that there are threads enough.
    pub(super) fn of(m: usize, n: usize, batch: usize, real_gpu: bool) -> Self {
        if let Ok(t) = std::env::var(if batch == 36 { "TILEB" } else { "TILE" }) {
            let t: Vec<usize> = t.split(',').map(|x| x.parse().unwrap()).collect();
            if m >= 16 { return Self { rows: t[0], cols: t[1], threads: [t[2], t[3]] }; }
        }
        let rows = match m {
            1 => 1,
            2 => 2,
            3..=4 => 4,
            5..=8 => 8,
            // 16 rows a thread leave cores idle unless there are many tiles, and waste less than a quarter of the last.
            _ if m * n >= 64 * 1024 && m.next_multiple_of(16) * 3 <= m * 4 => 16,
            _ => 8,
        };
        let cols = if rows <= 2 { 4 } else { 8 };
        // A software adapter runs a workgroup of 8 as one vector; a real GPU needs a full wave.
        let threads = if real_gpu { if rows == 1 { [64, 1] } else { [8, 8] } } else { [8, 1] };
        Self { rows, cols, threads }
    }

    /// The entry point, unrolled so that every accumulator is a register. `panels`: the rows of `a` stand side by side in
    /// panels as high as the tile; `fours`: outputs are stored by `vec4`; `full`: no tile hangs over the last column.
    pub(super) fn text(self, panels: bool, fours: bool, full: bool) -> String {
        let Self { rows, cols, threads: [x, y] } = self;
        let mut text = format!(
            "@compute @workgroup_size({x}, {y})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {{
    let place = group + group_base();
    let col = (place.y * {x}u + lane.x) * {cols}u;
    let row = (place.x * {y}u + lane.y) * {rows}u;
    if (row >= param(0u) || col >= param(1u)) {{ return; }}
    let at = batch_at(place.z);
    let last = param(0u) - 1u;
    let steps = param(2u);
    let pitch = param(5u) >> 2u;
    var ib = (at.y >> 2u) + (col >> 3u) * (param(6u) >> 2u) + ((col >> 2u) & 1u);\n"
        );
        text.push_str(&if panels { self.panel_walk() } else { self.row_walk() });
        text.push_str(&self.store_text(fours, full));
        text
    }

    /// One step a round: what a thread holds is few numbers, and the text short.
    fn panel_walk(self) -> String {
        let Self { rows, cols, .. } = self;
        let (vectors, fours) = (cols / 4, rows / 4);
        let mut text = format!("    var ia = (at.x >> 2u) + row / {rows}u * steps * {fours}u;\n");
        for r in 0..rows {
            for v in 0..vectors {
                text.push_str(&format!("    var s{r}_{v} = vec4<f32>();\n"));
            }
        }
        text.push_str("    for (var k = 0u; k < steps; k++) {\n");
        for v in 0..vectors {
            text.push_str(&format!("        let b{v} = b[ib + {v}u];\n"));
        }
        for four in 0..fours {
            text.push_str(&format!("        let x{four} = a[ia + {four}u];\n"));
            for lane in 0..4 {
                let (r, step) = (four * 4 + lane, ["x", "y", "z", "w"][lane]);
                for v in 0..vectors {
                    text.push_str(&format!("        s{r}_{v} = fma(vec4<f32>(x{four}.{step}), b{v}, s{r}_{v});\n"));
                }
            }
        }
        text.push_str(&format!("        ib += pitch;\n        ia += {fours}u;\n    }}\n"));
        text
    }

    fn row_walk(self) -> String {
        let Self { rows, cols, .. } = self;
        let vectors = cols / 4;
        let mut text = String::new();
        for r in 0..rows {
            text.push_str(&format!("    let a{r} = (at.x + min(row + {r}u, last) * param(3u)) >> 2u;\n"));
            for v in 0..vectors {
                text.push_str(&format!("    var s{r}_{v} = vec4<f32>();\n"));
            }
        }
        text.push_str("    for (var k = 0u; k < (steps >> 2u); k++) {\n");
        for r in 0..rows {
            text.push_str(&format!("        let x{r} = a[a{r} + k];\n"));
        }
        for step in ["x", "y", "z", "w"] {
            text.push_str("        {\n");
            for v in 0..vectors {
                text.push_str(&format!("            let b{v} = b[ib + {v}u];\n"));
            }
            for r in 0..rows {
                for v in 0..vectors {
                    text.push_str(&format!("            s{r}_{v} = fma(vec4<f32>(x{r}.{step}), b{v}, s{r}_{v});\n"));
                }
            }
            text.push_str("        }\n        ib += pitch;\n");
        }
        text.push_str("    }\n    for (var k = steps & 0xfffffffcu; k < steps; k++) {\n");
        for v in 0..vectors {
            text.push_str(&format!("        let b{v} = b[ib + {v}u];\n"));
        }
        for r in 0..rows {
            text.push_str(&format!("        let x{r} = a[a{r} + (k >> 2u)][k & 3u];\n"));
            for v in 0..vectors {
                text.push_str(&format!("        s{r}_{v} = fma(vec4<f32>(x{r}), b{v}, s{r}_{v});\n"));
            }
        }
        text.push_str("        ib += pitch;\n    }\n");
        text
    }

    /// Stores the sums. A row below the last is the last one computed again: it is stored again, which costs less than a
    /// branch around each.
    fn store_text(self, fours: bool, full: bool) -> String {
        let Self { rows, cols, .. } = self;
        let mut text = String::new();
        for r in 0..rows {
            text.push_str(&format!(
                "    let row{r} = min(row + {r}u, last);\n    let y{r} = at.z + row{r} * param(11u) + col;\n"
            ));
        }
        let value =
            |r: usize, c: usize| format!("finished(at, row{r}, col + {c}u, y{r} + {c}u, s{r}_{}[{}])", c / 4, c % 4);
        let step = if fours { 4 } else { 1 };
        for c in (0..cols).step_by(step) {
            // The first column is inside, or the thread would not be here.
            let checked = !full && c > 0;
            if checked {
                text.push_str(&format!("    if (col + {c}u < param(1u)) {{\n"));
            }
            for r in 0..rows {
                if fours {
                    let values: Vec<String> = (c..c + 4).map(|c| value(r, c)).collect();
                    text.push_str(&format!("    y[(y{r} + {c}u) >> 2u] = vec4<f32>({});\n", values.join(", ")));
                } else {
                    text.push_str(&format!("    y[y{r} + {c}u] = {};\n", value(r, c)));
                }
            }
            if checked {
                text.push_str("    }\n");
            }
        }
        text.push_str("}\n");
        text
    }
}
