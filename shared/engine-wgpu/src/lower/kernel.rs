//! Puts a kernel's WGSL together: bindings, typed loads and stores, the entry point.
//!
//! A kernel's own text (from `wgsl/*.wgsl` or written by an operator's rule) never touches a buffer directly: it calls
//! `load_x(i)` and defines `fn element(i: u32) -> T`, so that one text serves every [`Repr`].

use super::repr::Repr;

/// Most threads in one dimension of a dispatch, in workgroups (WebGPU's default limit).
pub const GROUPS_MAX: u32 = 65_535;

/// The whole WGSL text of a kernel, with what is needed to bind it.
///
/// Two kernels with equal text share one pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KernelSource {
    /// Short name for profiles.
    pub label: &'static str,
    /// The text without its bindings: those depend on where each argument lies (a weight is `read`, the arena always
    /// `read_write`, because wgpu tracks whole buffers) and are put in front by `gpu`.
    pub body: String,
    /// Its storage bindings, in order.
    pub bindings: Vec<Binding>,
    /// Of an [`KernelBuilder::element`] kernel: how what it writes lies in its last binding.
    pub output: Option<Repr>,
}

/// One storage binding of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Binding {
    /// Its name in the text.
    pub name: String,
    /// Access of the text to it.
    pub access: Access,
}

/// Access of a kernel's text to a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Through `load_NAME(i)` alone, one element each: what stands there may lie in several buffers (see [`Binding::text`]).
    Elements(Repr),
    /// Likewise as `f32`, of a constant that stands there in halves; see [`super::Floats`].
    Halves,
    /// As an array of this WGSL type, by its name.
    Raw(&'static str),
}

/// Words of a workgroup row of an [`KernelBuilder::element`] launch.
const ROW_WORDS: u64 = GROUPS_MAX as u64 * THREADS as u64;

/// Words of one part of what is larger than one binding may be, on a device that binds so many bytes at once.
///
/// Whole workgroups of an element kernel, and whole rows of them where that is possible, so that a launch writes exactly one
/// part; a multiple of every offset alignment.
#[must_use]
pub const fn part_words(binding_bytes_max: u64) -> u64 {
    let words = binding_bytes_max / 4;
    let unit = if words >= ROW_WORDS { ROW_WORDS } else { THREADS as u64 };
    let units = words / unit;
    if units == 0 { unit } else { units * unit }
}

impl Binding {
    /// The declarations from number `first` on, and the function that loads an element.
    ///
    /// `parts` over 1: the tensor is larger than a binding may be and stands in that many, `part_words` words each.
    #[must_use]
    pub fn text(&self, first: usize, access: &str, parts: u32, part_words: u64) -> String {
        let name = &self.name;
        let (array, one) = match self.access {
            Access::Elements(repr) => (repr.array(), repr.wgsl()),
            Access::Halves => ("array<u32>", "f32"),
            Access::Raw(array) => (array, ""),
        };
        let declare = |at: u32, name: &str| {
            format!("@group(0) @binding({}) var<storage, {access}> {name}: {array};\n", first + at as usize)
        };
        let (word, open, close) = match self.access {
            Access::Raw(_) => return declare(0, name),
            Access::Elements(Repr::F32 | Repr::I32 | Repr::U32) => ("i", "", ""),
            Access::Elements(Repr::U8x4) => ("i >> 2u", "extractBits(", ", (i & 3u) * 8u, 8u)"),
            Access::Elements(Repr::I8x4) => ("i >> 2u", "extractBits(bitcast<i32>(", "), (i & 3u) * 8u, 8u)"),
            Access::Halves => ("i >> 1u", "unpack2x16float(", " >> ((i & 1u) * 16u)).x"),
        };
        let load = format!("fn load_{name}(i: u32) -> {one} {{");
        if parts <= 1 {
            return format!("{}{load} return {open}{name}[{word}]{close}; }}\n", declare(0, name));
        }
        let declared: String = (0..parts).map(|at| declare(at, &format!("{name}_{at}"))).collect();
        let cases: String = (0..parts)
            .map(|at| {
                format!(
                    "        case {at}u: {{ return {open}{name}_{at}[word - {}u]{close}; }}\n",
                    u64::from(at) * part_words
                )
            })
            .collect();
        format!(
            "{declared}{load}\n    let word = {word};\n    switch (word / {part_words}u) {{\n{cases}        default: {{ return \
             {one}(0); }}\n    }}\n}}\n"
        )
    }
}

impl KernelSource {
    /// Returns whether a loop of the text goes over data: its end is no number in the text.
    #[must_use]
    pub fn loops_over_data(&self) -> bool {
        let ends = self.body.match_indices("for (").filter_map(|(at, _for)| self.body[at..].split(';').nth(1));
        let counted = |end: &str| {
            let last = end.rsplit(['<', '>', '=', ' ']).find(|word| !word.is_empty());
            last.is_some_and(|word| word.trim_end_matches('u').parse::<u32>().is_ok())
        };
        ends.into_iter().any(|end| !counted(end))
    }

    /// Returns whether the kernel adds `group_base()` to its workgroup's place, so that a long launch can be cut into
    /// several.
    #[must_use]
    pub fn is_splittable(&self) -> bool {
        self.body.contains("group_base()")
    }
}

/// Threads in a workgroup of elementwise kernels: within every device's limit, a multiple of every subgroup size.
pub const THREADS: u32 = 64;

/// Builds a [`KernelSource`].
#[derive(Debug)]
pub struct KernelBuilder {
    label: &'static str,
    body: String,
    bindings: Vec<Binding>,
}

impl KernelBuilder {
    /// Starts a kernel of that name. Its text reads numbers by name, see [`super::Params`].
    #[must_use]
    pub fn new(label: &'static str) -> Self {
        Self { label, body: String::new(), bindings: Vec::new() }
    }

    /// Adds a tensor that the text reads as `load_NAME(i)`, one element each, as `f32`, `i32` or `u32` by its repr.
    #[must_use]
    pub fn read(mut self, name: &str, repr: Repr) -> Self {
        self.bindings.push(Binding { name: name.to_owned(), access: Access::Elements(repr) });
        self
    }

    /// Adds a binding that the text uses by its own name as an array of this WGSL type, like `array<vec4<f32>>`.
    #[must_use]
    pub fn raw(mut self, name: &str, array: &'static str) -> Self {
        self.bindings.push(Binding { name: name.to_owned(), access: Access::Raw(array) });
        self
    }

    /// Adds text: constants, functions.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.body.push_str(text);
        self.body.push('\n');
        self
    }

    /// Ends a kernel whose text has its own `@compute` entry point.
    #[must_use]
    pub fn finish(self) -> KernelSource {
        KernelSource { label: self.label, body: self.body, bindings: self.bindings, output: None }
    }

    /// Ends a kernel whose text defines `fn element(i: u32) -> T`, run for each of `param.elements` elements and stored in a
    /// last binding `y` of this repr; each thread writes one word.
    ///
    /// Launch it with [`element_groups`]; its params have the name `elements`.
    #[must_use]
    pub fn element(mut self, output: Repr) -> KernelSource {
        let store = match output {
            Repr::F32 | Repr::I32 | Repr::U32 => "y[word - first_word()] = element(word);",
            Repr::I8x4 | Repr::U8x4 => {
                "var packed = 0u;\n    for (var lane = 0u; lane < 4u; lane++) {\n        \
                 let i = word * 4u + lane;\n        \
                 if (i < param.elements) { packed = insertBits(packed, u32(element(i)), lane * 8u, 8u); }\n    }\n    \
                 y[word - first_word()] = packed;"
            }
        };
        let words = match output.per_word() {
            1 => "param.elements",
            _ => "(param.elements + 3u) / 4u",
        };
        self.bindings.push(Binding { name: "y".to_owned(), access: Access::Raw(output.array()) });
        self.body.push_str(&format!(
            "@compute @workgroup_size({THREADS})\nfn main(@builtin(workgroup_id) group: vec3<u32>, \
             @builtin(local_invocation_index) lane_index: u32) {{\n    \
             let place = group + group_base();\n    \
             let word = first_word() + (place.y * {GROUPS_MAX}u + place.x) * {THREADS}u + lane_index;\n    \
             if (word >= {words}) {{ return; }}\n    {store}\n}}\n"
        ));
        KernelSource { output: Some(output), ..self.finish() }
    }
}

/// Workgroups for an [`KernelBuilder::element`] kernel over so many elements.
#[must_use]
pub fn element_groups(elements: usize, output: Repr) -> [u32; 3] {
    linear_groups(output.words(elements).div_ceil(THREADS as usize))
}

/// Spreads a number of workgroups over x and y, since x alone ends at [`GROUPS_MAX`]; the kernel multiplies back.
#[must_use]
pub fn linear_groups(groups: usize) -> [u32; 3] {
    let groups = u32::try_from(groups.max(1)).unwrap_or(u32::MAX);
    if groups <= GROUPS_MAX { [groups, 1, 1] } else { [GROUPS_MAX, groups.div_ceil(GROUPS_MAX), 1] }
}
