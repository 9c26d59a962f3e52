//! The register kernel of a product: its tile's shape and its text, unrolled.

/// Rows that are stored in one turn of the loop over them.
///
/// A software adapter makes a loop over its lanes of each load and store in a text: with all 128 stores of a tile in it, and the
/// bias of each, it compiled for four times as long (1.3 s where this takes 0.3). One row a turn saves little more and moves
/// twice as many sums.
const TURN: usize = 2;

/// What of a product its register kernel's text depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// Outputs are stored by `vec4`.
    pub(super) fours: bool,
    /// No tile hangs over the last column.
    pub(super) full: bool,
    /// Sums have a number of terms that is no multiple of four.
    pub(super) tail: bool,
    /// What is added is one number for each row.
    pub(super) row_bias: bool,
}

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
    pub(super) fn of(m: usize, n: usize, real_gpu: bool) -> Self {
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

    /// The entry point, unrolled so that every accumulator is a register.
    pub(super) fn text(self, form: Form) -> String {
        let Self { rows, cols, threads: [x, y] } = self;
        let vectors = cols / 4;
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
        text.push_str("    }\n");
        if form.tail {
            text.push_str(&self.tail_text());
        }
        text.push_str(&self.store_text(form));
        text
    }

    /// The last one to three terms of the sums.
    fn tail_text(self) -> String {
        let vectors = self.cols / 4;
        let mut text = String::from("    for (var k = steps & 0xfffffffcu; k < steps; k++) {\n");
        for v in 0..vectors {
            text.push_str(&format!("        let b{v} = b[ib + {v}u];\n"));
        }
        for r in 0..self.rows {
            text.push_str(&format!("        let x{r} = a[a{r} + (k >> 2u)][k & 3u];\n"));
            for v in 0..vectors {
                text.push_str(&format!("        s{r}_{v} = fma(vec4<f32>(x{r}), b{v}, s{r}_{v});\n"));
            }
        }
        text.push_str("        ib += pitch;\n    }\n");
        text
    }

    /// Turns of the loop that stores the sums.
    pub(super) fn turns(self) -> usize {
        self.rows.div_ceil(TURN)
    }

    /// Stores the first rows of sums, shifts the others down by as many, and so on. A row below the last is the last one
    /// computed again: it is stored again, which costs less than a branch around each.
    fn store_text(self, form: Form) -> String {
        let Self { rows, cols, .. } = self;
        let turn = TURN.min(rows);
        let mut text =
            format!("    let rows = min({rows}u, param(0u) - row);\n    for (var r = 0u; r < rows; r += {turn}u) {{\n");
        for r in 0..turn {
            text.push_str(&format!(
                "        let row{r} = min(row + r + {r}u, last);\n        let y{r} = at.z + row{r} * param(11u) + col;\n"
            ));
            if form.row_bias {
                text.push_str(&format!("        let bias{r} = bias_of(at, row{r}, 0u);\n"));
            }
        }
        let value = |r: usize, c: usize| {
            let bias = if form.row_bias { format!("bias{r}") } else { format!("bias_of(at, row{r}, col + {c}u)") };
            format!("finished({bias}, y{r} + {c}u, s{r}_{}[{}])", c / 4, c % 4)
        };
        for c in (0..cols).step_by(if form.fours { 4 } else { 1 }) {
            // The first column is inside, or the thread would not be here.
            let checked = !form.full && c > 0;
            if checked {
                text.push_str(&format!("        if (col + {c}u < param(1u)) {{\n"));
            }
            for r in 0..turn {
                if form.fours {
                    let values: Vec<String> = (c..c + 4).map(|c| value(r, c)).collect();
                    text.push_str(&format!("        y[(y{r} + {c}u) >> 2u] = vec4<f32>({});\n", values.join(", ")));
                } else {
                    text.push_str(&format!("        y[y{r} + {c}u] = {};\n", value(r, c)));
                }
            }
            if checked {
                text.push_str("        }\n");
            }
        }
        for (r, v) in (0..rows - turn).flat_map(|r| (0..cols / 4).map(move |v| (r, v))) {
            text.push_str(&format!("        s{r}_{v} = s{}_{v};\n", r + turn));
        }
        text.push_str("    }\n}\n");
        text
    }
}
