//! Puts a kernel's WGSL together: bindings, typed loads and stores, the entry point.
//!
//! A kernel's own text (from `wgsl/*.wgsl` or written by an operator's rule) never touches a buffer directly: it calls
//! `load_x(i)` and defines `fn element(i: u32) -> T`, so that one text serves every [`Repr`].

use super::{GROUPS_MAX, Repr};

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
    /// Name and WGSL array type of each storage binding, in order.
    pub bindings: Vec<(String, &'static str)>,
}

impl KernelSource {
    /// Whether the kernel adds `group_base()` to its workgroup's place, so that a long launch can be cut into several.
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
    bindings: Vec<(String, &'static str)>,
}

impl KernelBuilder {
    /// Starts a kernel of that name. Params are read as `param(k)`, a `u32` each.
    #[must_use]
    pub fn new(label: &'static str) -> Self {
        Self { label, body: String::new(), bindings: Vec::new() }
    }

    /// Adds a tensor that the text reads as `load_NAME(i)`, one element each, as `f32`, `i32` or `u32` by its repr.
    #[must_use]
    pub fn read(mut self, name: &str, repr: Repr) -> Self {
        let array = match repr {
            Repr::F32 => "array<f32>",
            Repr::I32 => "array<i32>",
            Repr::U32 | Repr::I8x4 | Repr::U8x4 => "array<u32>",
        };
        let wgsl = repr.wgsl();
        let load = match repr {
            Repr::F32 | Repr::I32 | Repr::U32 => format!("return {name}[i];"),
            Repr::U8x4 => format!("return extractBits({name}[i >> 2u], (i & 3u) * 8u, 8u);"),
            Repr::I8x4 => format!("return extractBits(bitcast<i32>({name}[i >> 2u]), (i & 3u) * 8u, 8u);"),
        };
        self.body.push_str(&format!("fn load_{name}(i: u32) -> {wgsl} {{ {load} }}\n"));
        self.bindings.push((name.to_owned(), array));
        self
    }

    /// Adds a binding that the text uses by its own name as an array of this WGSL type, like `array<vec4<f32>>`.
    #[must_use]
    pub fn raw(mut self, name: &str, array: &'static str) -> Self {
        self.bindings.push((name.to_owned(), array));
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
        KernelSource { label: self.label, body: self.body, bindings: self.bindings }
    }

    /// Ends a kernel whose text defines `fn element(i: u32) -> T`, run for each of `param(0)` elements and stored in a
    /// last binding `y` of this repr; each thread writes one word.
    ///
    /// Launch it with [`element_groups`]; the element count must be the first param.
    #[must_use]
    pub fn element(mut self, output: Repr) -> KernelSource {
        let (array, store) = match output {
            Repr::F32 => ("array<f32>", "y[word] = element(word);"),
            Repr::I32 => ("array<i32>", "y[word] = element(word);"),
            Repr::U32 => ("array<u32>", "y[word] = element(word);"),
            Repr::I8x4 | Repr::U8x4 => (
                "array<u32>",
                "var packed = 0u;\n    for (var lane = 0u; lane < 4u; lane++) {\n        \
                 let i = word * 4u + lane;\n        \
                 if (i < param(0u)) { packed = insertBits(packed, u32(element(i)), lane * 8u, 8u); }\n    }\n    \
                 y[word] = packed;",
            ),
        };
        let words = match output.per_word() {
            1 => "param(0u)",
            _ => "(param(0u) + 3u) / 4u",
        };
        self.bindings.push(("y".to_owned(), array));
        self.body.push_str(&format!(
            "@compute @workgroup_size({THREADS})\nfn main(@builtin(workgroup_id) group: vec3<u32>, \
             @builtin(local_invocation_index) lane_index: u32) {{\n    \
             let place = group + group_base();\n    \
             let word = (place.y * {GROUPS_MAX}u + place.x) * {THREADS}u + lane_index;\n    \
             if (word >= {words}) {{ return; }}\n    {store}\n}}\n"
        ));
        self.finish()
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
