//! The register kernel of a product: its tile's shape and its text, unrolled.

use crate::lower::Floats;

/// Sums that are stored in one turn of the loop over them.
///
/// A software adapter makes a loop over its lanes of each load and store in a text: with all 128 stores of a tile in it, and the
/// bias of each, it compiled for four times as long (1.3 s where this takes 0.3). Half as many a turn saves little more and moves
/// twice as many sums.
const TURN: usize = 16;

/// The shape of a register tile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Threads of a workgroup along columns and rows.
    pub(super) threads: [usize; 2],
}

/// Kind of a workgroup's threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// A full wave of a real GPU.
    Wave,
    /// One vector of a processor.
    Vector,
    /// One vector, whose lanes load a panel of `a` together.
    Sharing,
}

/// Layout of the matrices of a register kernel; each combination is a text of its own.
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
    /// Sums have a number of terms that is no multiple of four; only rows, not panels, are read by fours.
    pub(super) tail: bool,
    /// Bias of the sums.
    pub(super) bias: Added,
    /// The floats of `a` and `b`.
    pub(super) floats: [Floats; 2],
}

/// The bias of a product, as far as the text depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    Nothing,
    /// One number to each row: loaded once.
    ToRows,
    /// Another number to each sum.
    Anywhere,
}

impl Lies {
    /// The WGSL types of `a`, `b` and the output.
    pub(super) fn arrays(self) -> [&'static str; 3] {
        let array = |fours, floats: Floats| match (fours, floats) {
            (true, _) => floats.fours(),
            (false, Floats::Singles) => "array<f32>",
            (false, Floats::Halves) => "array<u32>",
        };
        let [a, b] = self.floats;
        [array(!self.shared, a), array(!self.ones, b), array(self.vectors, Floats::Singles)]
    }
}

impl Tile {
    /// Few rows (a fully connected layer on one image) want narrow tiles, so that there are threads enough.
    pub(super) fn of(m: usize, n: usize, batch: usize, how: Threads) -> Self {
        let many = m * n * batch >= 64 * 1024;
        let rows = match m {
            1 => 1,
            2 => 2,
            3..=4 => 4,
            5..=8 => 8,
            // Where rows are nearly free: the more, the fewer times `b` is read.
            _ if many && how == Threads::Sharing && m.next_multiple_of(32) * 8 <= m * 9 => 32,
            // 16 rows a thread leave cores idle unless there are many tiles, and waste less than a quarter of the last.
            _ if many && m.next_multiple_of(16) * 3 <= m * 4 => 16,
            _ => 8,
        };
        let cols = match rows {
            // 256 sums a thread would be a fifth faster and take a driver twice as long to compile, each having its epilogue.
            1 | 2 | 32 => 4,
            _ => 8,
        };
        // A software adapter runs a workgroup of 8 as one vector; a real GPU needs a full wave.
        let threads = match how {
            Threads::Wave if rows == 1 => [64, 1],
            Threads::Wave => [8, 8],
            Threads::Vector | Threads::Sharing => [8, 1],
        };
        Self { rows, cols, threads }
    }

    /// The entry point, unrolled so that every accumulator is a register.
    pub(super) fn text(self, lies: Lies) -> String {
        let Self { rows, cols, threads: [x, y] } = self;
        // `b` is indexed by its vectors, or its elements.
        let width = if lies.ones { 1 } else { 4 };
        // A thread that has left could not tell the others what it loads.
        let (own, inside) =
            if lies.shared { (", @builtin(subgroup_invocation_id) own: u32", "") } else { ("", " || col >= param.n") };
        let mut text = format!(
            "@compute @workgroup_size({x}, {y})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>{own}) {{
    let place = group + group_base();
    let col = (place.y * {x}u + lane.x) * {cols}u;
    let row = (place.x * {y}u + lane.y) * {rows}u;
    if (row >= param.m{inside}) {{ return; }}
    let at = batch_at(place.z);
    let steps = param.k;
    let pitch = param.b_row / {width}u;
    var ib = (at.y + (col >> 3u) * param.b_col + (col & 7u)) / {width}u;\n"
        );
        for r in 0..rows {
            for v in 0..self.vectors() {
                text.push_str(&format!("    var s{r}_{v} = vec4<f32>();\n"));
            }
        }
        text.push_str(&if lies.panels { self.panel_walk(lies) } else { self.row_walk(lies) });
        text.push_str(&self.store_text(lies));
        text
    }

    /// Vectors in a row of the tile.
    fn vectors(self) -> usize {
        self.cols / 4
    }

    /// Loads the row of `b` at `ib`.
    fn load_b(self, lies: Lies) -> String {
        let load = |v: usize| {
            let value = if lies.ones {
                let ones: Vec<String> = (0..4).map(|c| format!("b[ib + {}u]", v * 4 + c)).collect();
                format!("vec4<f32>({})", ones.join(", "))
            } else {
                lies.floats[1].four(&format!("b[ib + {v}u]"))
            };
            format!("        let b{v} = {value};\n")
        };
        (0..self.vectors()).map(load).collect()
    }

    /// Adds row `r`'s share of a step: `factor` times the row of `b`.
    fn add(self, r: usize, factor: &str) -> String {
        let add = |v: usize| format!("        s{r}_{v} = fma(vec4<f32>({factor}), b{v}, s{r}_{v});\n");
        (0..self.vectors()).map(add).collect()
    }

    /// One step a round: a thread holds few numbers beside its sums, and the text is short to compile.
    fn panel_walk(self, lies: Lies) -> String {
        let rows = self.rows;
        let (begin, stride) = match (lies.shared, lies.floats[0]) {
            (true, Floats::Singles) => ("at.x + own", rows),
            // Eight words are sixteen rows; the upper four threads load the eight rows of a low panel once more.
            (true, Floats::Halves) if rows < 16 => ("(at.x >> 1u) + (own & 3u)", rows / 2),
            (true, Floats::Halves) => ("(at.x >> 1u) + own", rows / 2),
            (false, _) => ("(at.x >> 2u)", rows / 4),
        };
        format!(
            "    var ia = {begin} + row / {rows}u * steps * {stride}u;
    for (var k = 0u; k < steps; k++) {{\n{}        ib += pitch;\n        ia += {stride}u;\n    }}\n",
            self.panel_step(lies)
        )
    }

    fn panel_step(self, lies: Lies) -> String {
        let mut text = self.load_b(lies);
        if lies.shared {
            text.push_str(&self.shared_step(lies));
            return text;
        }
        for four in 0..self.rows / 4 {
            text.push_str(&format!("        let x{four} = {};\n", lies.floats[0].four(&format!("a[ia + {four}u]"))));
            for (lane, step) in ["x", "y", "z", "w"].iter().enumerate() {
                text.push_str(&self.add(four * 4 + lane, &format!("x{four}.{step}")));
            }
        }
        text
    }

    /// Each of the eight threads loads a word of a panel for all.
    fn shared_step(self, lies: Lies) -> String {
        let each = lies.floats[0].per_word();
        let mut text = String::new();
        for word in 0..self.rows.div_ceil(8 * each) {
            let load = format!("a[ia + {}u]", word * 8);
            let value = if each == 2 { format!("unpack2x16float({load})") } else { load };
            text.push_str(&format!("        let x{word} = {value};\n"));
        }
        for r in 0..self.rows {
            let (word, thread) = (r / each / 8, r / each % 8);
            let value = if each == 2 { format!("x{word}[{}]", r % each) } else { format!("x{word}") };
            text.push_str(&format!("        let a{r} = subgroupBroadcast({value}, {thread}u);\n"));
            text.push_str(&self.add(r, &format!("a{r}")));
        }
        text
    }

    /// Four steps a round, which is how rows are read by vectors.
    fn row_walk(self, lies: Lies) -> String {
        let rows = self.rows;
        let mut text = String::from("    let last = param.m - 1u;\n");
        for r in 0..rows {
            text.push_str(&format!("    let a{r} = (at.x + min(row + {r}u, last) * param.a_row) >> 2u;\n"));
        }
        text.push_str("    for (var k = 0u; k < (steps >> 2u); k++) {\n");
        for r in 0..rows {
            text.push_str(&format!("        let x{r} = {};\n", lies.floats[0].four(&format!("a[a{r} + k]"))));
        }
        for step in ["x", "y", "z", "w"] {
            text.push_str("        {\n");
            text.push_str(&self.load_b(lies));
            for r in 0..rows {
                text.push_str(&self.add(r, &format!("x{r}.{step}")));
            }
            text.push_str("        }\n        ib += pitch;\n");
        }
        text.push_str("    }\n");
        if !lies.tail {
            return text;
        }
        text.push_str("    for (var k = steps & 0xfffffffcu; k < steps; k++) {\n");
        text.push_str(&self.load_b(lies));
        for r in 0..rows {
            let four = lies.floats[0].four(&format!("a[a{r} + (k >> 2u)]"));
            text.push_str(&format!("        let x{r} = {four}[k & 3u];\n"));
            text.push_str(&self.add(r, &format!("x{r}")));
        }
        text.push_str("        ib += pitch;\n    }\n");
        text
    }

    /// Rows that are stored in one turn of the loop over them.
    fn turn(self) -> usize {
        (TURN / self.cols).clamp(1, self.rows)
    }

    /// Turns of the loop that stores the sums.
    pub(super) fn turns(self) -> usize {
        self.rows.div_ceil(self.turn())
    }

    /// Stores the first rows of sums, shifts the others down by as many, and so on. Rows below the last are not stored.
    fn store_text(self, lies: Lies) -> String {
        let (rows, turn) = (self.rows, self.turn());
        let mut text = String::new();
        if lies.shared {
            text.push_str("    if (col >= param.n) { return; }\n");
        }
        text.push_str(&format!(
            "    let rows = min({rows}u, param.m - row);\n    for (var r = 0u; r < rows; r += {turn}u) {{\n"
        ));
        for r in 0..turn {
            // The first row of a turn is one of the product, or there would be no turn.
            if r > 0 {
                text.push_str(&format!("        if (r + {r}u < rows) {{\n"));
            }
            text.push_str(&self.row_text(lies, r));
            if r > 0 {
                text.push_str("        }\n");
            }
        }
        for (r, v) in (0..rows - turn).flat_map(|r| (0..self.vectors()).map(move |v| (r, v))) {
            text.push_str(&format!("        s{r}_{v} = s{}_{v};\n", r + turn));
        }
        text.push_str("    }\n}\n");
        text
    }

    /// Stores the sums of row `r` of a turn.
    fn row_text(self, lies: Lies, r: usize) -> String {
        let mut text =
            format!("        let row{r} = row + r + {r}u;\n        let y{r} = at.z + row{r} * param.y_row + col;\n");
        if lies.bias == Added::ToRows {
            text.push_str(&format!("        let bias{r} = bias_at(at, row{r}, 0u);\n"));
        }
        let value = |c: usize| {
            let bias = match lies.bias {
                Added::Nothing => "0.0".to_owned(),
                Added::ToRows => format!("bias{r}"),
                Added::Anywhere => format!("bias_at(at, row{r}, col + {c}u)"),
            };
            format!("finished({bias}, y{r} + {c}u, s{r}_{}[{}])", c / 4, c % 4)
        };
        for c in (0..self.cols).step_by(if lies.vectors { 4 } else { 1 }) {
            let store = if lies.vectors {
                let values: Vec<String> = (c..c + 4).map(value).collect();
                format!("y[(y{r} + {c}u) >> 2u] = vec4<f32>({});", values.join(", "))
            } else {
                format!("y[y{r} + {c}u] = {};", value(c))
            };
            // The first column is inside, or the thread would not be here.
            if lies.full || c == 0 {
                text.push_str(&format!("        {store}\n"));
            } else {
                text.push_str(&format!("        if (col + {c}u < param.n) {{ {store} }}\n"));
            }
        }
        text
    }
}
