//! The register kernel of a product: its tile's shape and its text, unrolled.

/// The shape of a register tile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Threads of a workgroup along columns and rows.
    pub(super) threads: [usize; 2],
}

/// How the matrices of a register kernel lie; each answer is a text of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lies {
    /// The rows of `a` stand side by side in panels as high as the tile.
    pub(super) panels: bool,
    /// The eight threads of a workgroup load the rows of a panel together, each one of eight, and tell each other: they are of
    /// one subgroup.
    pub(super) shared: bool,
    /// Rows of `b` begin anywhere: it is read one by one.
    pub(super) ones: bool,
    /// Outputs are stored by vectors.
    pub(super) vectors: bool,
    /// No tile hangs over the last column.
    pub(super) full: bool,
}

impl Lies {
    /// The WGSL type of `a`.
    pub(super) fn left_array(self) -> &'static str {
        if self.shared { "array<f32>" } else { "array<vec4<f32>>" }
    }
}

impl Tile {
    /// Few rows (a fully connected layer on one image) want narrow tiles, so that there are threads enough.
    pub(super) fn of(m: usize, n: usize, batch: usize, real_gpu: bool) -> Self {
        let rows = match m {
            1 => 1,
            2 => 2,
            3..=4 => 4,
            5..=8 => 8,
            // 16 rows a thread leave cores idle unless there are many tiles, and waste less than a quarter of the last.
            _ if m * n * batch >= 64 * 1024 && m.next_multiple_of(16) * 3 <= m * 4 => 16,
            _ => 8,
        };
        let cols = match n {
            _ if rows <= 2 => 4,
            // A software adapter runs a workgroup of 8 as one vector: so few columns would leave most of it idle.
            0..=16 if rows == 16 && !real_gpu => 2,
            _ => 8,
        };
        // A software adapter runs a workgroup of 8 as one vector; a real GPU needs a full wave.
        let threads = if real_gpu { if rows == 1 { [64, 1] } else { [8, 8] } } else { [8, 1] };
        Self { rows, cols, threads }
    }

    /// Columns in one vector.
    pub(super) fn width(self) -> usize {
        self.cols.min(4)
    }

    /// The WGSL type of so many.
    fn vector(self) -> String {
        format!("vec{}<f32>", self.width())
    }

    /// The WGSL type of an array of columns.
    pub(super) fn array(self, vectors: bool) -> &'static str {
        match (vectors, self.width()) {
            (false, _) => "array<f32>",
            (true, 2) => "array<vec2<f32>>",
            (true, _) => "array<vec4<f32>>",
        }
    }

    /// The entry point, unrolled so that every accumulator is a register.
    pub(super) fn text(self, lies: Lies) -> String {
        let Self { rows, cols, threads: [x, y] } = self;
        // `b` is indexed by its vectors, or its elements.
        let width = if lies.ones { 1 } else { self.width() };
        // A thread that has left could not tell the others what it loads.
        let (own, inside) = if lies.shared {
            (", @builtin(subgroup_invocation_id) own: u32", "")
        } else {
            ("", " || col >= param(1u)")
        };
        let mut text = format!(
            "@compute @workgroup_size({x}, {y})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>{own}) {{
    let place = group + group_base();
    let col = (place.y * {x}u + lane.x) * {cols}u;
    let row = (place.x * {y}u + lane.y) * {rows}u;
    if (row >= param(0u){inside}) {{ return; }}
    let at = batch_at(place.z);
    let last = param(0u) - 1u;
    let steps = param(2u);
    let pitch = param(5u) / {width}u;
    var ib = (at.y + (col >> 3u) * param(6u) + (col & 7u)) / {width}u;\n"
        );
        for r in 0..rows {
            for v in 0..self.vectors() {
                text.push_str(&format!("    var s{r}_{v} = {}();\n", self.vector()));
            }
        }
        text.push_str(&if lies.panels { self.panel_walk(lies) } else { self.row_walk(lies) });
        text.push_str(&self.store_text(lies));
        text
    }

    /// Vectors in a row of the tile.
    fn vectors(self) -> usize {
        self.cols / self.width()
    }

    /// Loads the row of `b` at `ib`.
    fn load_b(self, lies: Lies) -> String {
        let width = self.width();
        let load = |v: usize| {
            let value = if lies.ones {
                let ones: Vec<String> = (0..width).map(|c| format!("b[ib + {}u]", v * width + c)).collect();
                format!("{}({})", self.vector(), ones.join(", "))
            } else {
                format!("b[ib + {v}u]")
            };
            format!("        let b{v} = {value};\n")
        };
        (0..self.vectors()).map(load).collect()
    }

    /// Adds row `r`'s share of a step: `factor` times the row of `b`.
    fn add(self, r: usize, factor: &str) -> String {
        let vector = self.vector();
        (0..self.vectors())
            .map(|v| format!("        s{r}_{v} = fma({vector}({factor}), b{v}, s{r}_{v});\n"))
            .collect()
    }

    /// One step a round: what a thread holds is few numbers, and the text short.
    fn panel_walk(self, lies: Lies) -> String {
        let Self { rows, .. } = self;
        let (fours, stride) = (rows / 4, if lies.shared { rows } else { rows / 4 });
        let mut text = format!(
            "    var ia = (at.x {}) + row / {rows}u * steps * {stride}u;\n    for (var k = 0u; k < steps; k++) {{\n",
            if lies.shared { "+ own" } else { ">> 2u" }
        );
        text.push_str(&self.load_b(lies));
        if lies.shared {
            for eight in 0..rows / 8 {
                text.push_str(&format!("        let x{eight} = a[ia + {}u];\n", eight * 8));
            }
            for r in 0..rows {
                text.push_str(&format!("        let a{r} = subgroupBroadcast(x{}, {}u);\n", r / 8, r % 8));
                text.push_str(&self.add(r, &format!("a{r}")));
            }
        }
        for four in 0..if lies.shared { 0 } else { fours } {
            text.push_str(&format!("        let x{four} = a[ia + {four}u];\n"));
            for (lane, step) in ["x", "y", "z", "w"].iter().enumerate() {
                text.push_str(&self.add(four * 4 + lane, &format!("x{four}.{step}")));
            }
        }
        text.push_str(&format!("        ib += pitch;\n        ia += {stride}u;\n    }}\n"));
        text
    }

    /// Four steps a round, which is how rows are read by vectors.
    fn row_walk(self, lies: Lies) -> String {
        let rows = self.rows;
        let mut text = String::new();
        for r in 0..rows {
            text.push_str(&format!("    let a{r} = (at.x + min(row + {r}u, last) * param(3u)) >> 2u;\n"));
        }
        text.push_str("    for (var k = 0u; k < (steps >> 2u); k++) {\n");
        for r in 0..rows {
            text.push_str(&format!("        let x{r} = a[a{r} + k];\n"));
        }
        for step in ["x", "y", "z", "w"] {
            text.push_str("        {\n");
            text.push_str(&self.load_b(lies));
            for r in 0..rows {
                text.push_str(&self.add(r, &format!("x{r}.{step}")));
            }
            text.push_str("        }\n        ib += pitch;\n");
        }
        text.push_str("    }\n    for (var k = steps & 0xfffffffcu; k < steps; k++) {\n");
        text.push_str(&self.load_b(lies));
        for r in 0..rows {
            text.push_str(&format!("        let x{r} = a[a{r} + (k >> 2u)][k & 3u];\n"));
            text.push_str(&self.add(r, &format!("x{r}")));
        }
        text.push_str("        ib += pitch;\n    }\n");
        text
    }

    /// Stores the sums. A row below the last is the last one computed again: it is stored again, which costs less than a
    /// branch around each.
    fn store_text(self, lies: Lies) -> String {
        let Self { rows, cols, .. } = self;
        let width = self.width();
        let mut text = String::new();
        for r in 0..rows {
            text.push_str(&format!(
                "    let row{r} = min(row + {r}u, last);\n    let y{r} = at.z + row{r} * param(11u) + col;\n"
            ));
        }
        let value = |r: usize, c: usize| {
            format!("finished(at, row{r}, col + {c}u, y{r} + {c}u, s{r}_{}[{}])", c / width, c % width)
        };
        if lies.shared {
            text.push_str("    if (col >= param(1u)) { return; }\n");
        }
        let step = if lies.vectors { width } else { 1 };
        for c in (0..cols).step_by(step) {
            // The first column is inside, or the thread would not be here.
            let checked = !lies.full && c > 0;
            if checked {
                text.push_str(&format!("    if (col + {c}u < param(1u)) {{\n"));
            }
            for r in 0..rows {
                if lies.vectors {
                    let values: Vec<String> = (c..c + width).map(|c| value(r, c)).collect();
                    let vector = self.vector();
                    text.push_str(&format!("    y[(y{r} + {c}u) / {width}u] = {vector}({});\n", values.join(", ")));
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
