//! The numbers of a launch, by name: declared once by the code that packs them, read by name in the kernel's text.
//!
//! A text reads a number as `param.rows` and an element of a list as `param.strides[2]` or `param.strides[d]`.
//! [`super::Lowering::dispatch`] replaces names by positions in the uniform slot, so that names cost nothing at run time and two
//! launches share a pipeline where their resolved texts are equal. A name that the text reads and nobody packed is an error of the
//! operator's rule; [`crate::check`] finds it without a device.

use std::borrow::Cow;

use crate::error::{Mismatch, OpError};
use crate::shape::param;

/// Most `u32` params of one dispatch: three shapes with strides of eight dimensions, and then some.
///
/// The last words of the slot are which word an element kernel's binding begins with, `first_word()`, and where a split launch
/// begins, `group_base()`.
pub const PARAMS_MAX: usize = PARAM_WORDS - 4;

/// Words of one dispatch's slot in the uniform buffer.
pub const PARAM_WORDS: usize = 64;

/// Bytes of one dispatch's slot in the uniform buffer; also WebGPU's offset alignment.
pub const PARAM_BYTES: u64 = 256;

/// The prefix of a name in a kernel's text.
const PREFIX: &str = "param.";

/// The numbers of a launch in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    /// Name, first word and number of words of each entry.
    entries: Vec<(Cow<'static, str>, usize, usize)>,
    words: Vec<u32>,
}

impl Params {
    /// Creates an empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a list of sizes.
    ///
    /// # Errors
    /// [`OpError::Unsupported`] when one is over 32 bits.
    pub fn sizes<const N: usize>(sizes: [(&'static str, usize); N]) -> Result<Self, OpError> {
        sizes.into_iter().try_fold(Self::new(), |params, (name, size)| params.size(name, size))
    }

    /// Adds a size.
    ///
    /// # Errors
    /// [`OpError::Unsupported`] over 32 bits.
    pub fn size(self, name: impl Into<Cow<'static, str>>, size: usize) -> Result<Self, OpError> {
        Ok(self.word(name, param(size)?))
    }

    /// Adds a list of sizes, read as `param.NAME[at]`.
    ///
    /// # Errors
    /// [`OpError::Unsupported`] when one is over 32 bits.
    pub fn list(self, name: impl Into<Cow<'static, str>>, sizes: &[usize]) -> Result<Self, OpError> {
        let words = sizes.iter().copied().map(param).collect::<Result<Vec<_>, _>>()?;
        Ok(self.words(name, &words))
    }

    /// Adds a word: an unsigned integer, or the bits of another number that the text casts.
    #[must_use]
    pub fn word(self, name: impl Into<Cow<'static, str>>, word: u32) -> Self {
        self.words(name, &[word])
    }

    /// Adds the bits of a float, which the text reads as `bitcast<f32>(param.NAME)`.
    #[must_use]
    pub fn float(self, name: impl Into<Cow<'static, str>>, number: f32) -> Self {
        self.word(name, number.to_bits())
    }

    /// Adds the bits of a signed integer, which the text reads as `bitcast<i32>(param.NAME)`.
    #[must_use]
    pub fn signed(self, name: impl Into<Cow<'static, str>>, number: i32) -> Self {
        self.word(name, number.cast_unsigned())
    }

    /// Adds a list of words, read as `param.NAME[at]`.
    #[must_use]
    pub fn words(mut self, name: impl Into<Cow<'static, str>>, words: &[u32]) -> Self {
        self.entries.push((name.into(), self.words.len(), words.len()));
        self.words.extend_from_slice(words);
        self
    }

    /// Adds the entries of another list behind these, in place.
    pub fn extend(&mut self, more: Self) {
        *self = std::mem::take(self).and(more);
    }

    /// Adds the entries of another list behind these.
    #[must_use]
    pub fn and(mut self, more: Self) -> Self {
        let base = self.words.len();
        self.entries.extend(more.entries.into_iter().map(|(name, first, count)| (name, base + first, count)));
        self.words.extend(more.words);
        self
    }

    /// Returns the words in order.
    #[must_use]
    pub fn into_words(self) -> Vec<u32> {
        self.words
    }

    /// Returns the text with every name replaced by its position.
    ///
    /// # Errors
    /// [`Mismatch`] when text and list do not fit together.
    pub fn resolve(&self, text: &str) -> Result<String, Mismatch> {
        for (at, (name, ..)) in self.entries.iter().enumerate() {
            if self.entries[..at].iter().any(|(other, ..)| other == name) {
                return Err(Mismatch::PackedTwice(name.to_string()));
            }
        }
        let (mut resolved, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(at) = next_name(rest) {
            resolved.push_str(&rest[..at]);
            rest = &rest[at + PREFIX.len()..];
            let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
            let (name, behind) = rest.split_at(end);
            let entry = self.entries.iter().find(|(own, ..)| own == name);
            let &(_, first, count) = entry.ok_or_else(|| Mismatch::NotPacked(name.to_owned()))?;
            rest = behind;
            let Some(index) = bracketed(behind) else {
                // A list that is read whole has no meaning, one number in brackets neither.
                if count != 1 {
                    return Err(Mismatch::NoIndex(name.to_owned()));
                }
                resolved.push_str(&format!("param({first}u)"));
                continue;
            };
            rest = &behind[index.len() + 2..];
            match index.trim_end_matches('u').parse::<usize>() {
                Ok(index) if index < count => resolved.push_str(&format!("param({}u)", first + index)),
                Ok(index) => return Err(Mismatch::Outside { name: name.to_owned(), index, count }),
                // The index is computed in the kernel, perhaps from other numbers of the list.
                Err(_) => resolved.push_str(&format!("param({first}u + ({}))", self.resolve(index)?)),
            }
        }
        resolved.push_str(rest);
        Ok(resolved)
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Returns the position of the next `param.` that is no end of a longer word.
fn next_name(text: &str) -> Option<usize> {
    text.match_indices(PREFIX).map(|(at, _prefix)| at).find(|&at| !text[..at].ends_with(is_word))
}

/// Returns what stands between a first `[` and the `]` that closes it.
fn bracketed(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?;
    let mut depth = 1_usize;
    let end = inner.find(|c: char| {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        depth == 0
    })?;
    Some(&inner[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Params {
        Params::sizes([("rows", 7), ("columns", 3)]).unwrap().list("stride", &[21, 3, 1]).unwrap().float("alpha", 0.5)
    }

    #[test]
    fn names_become_positions() {
        let resolve = |text| list().resolve(text).unwrap();
        assert_eq!(resolve("i / param.rows % param.columns"), "i / param(0u) % param(1u)");
        assert_eq!(resolve("param.stride[0] + param.stride[2u];"), "param(2u) + param(4u);");
        assert_eq!(resolve("param.stride[d]"), "param(2u + (d))");
        assert_eq!(resolve("param.stride[at[d] + param.rows]"), "param(2u + (at[d] + param(0u)))");
        assert_eq!(resolve("bitcast<f32>(param.alpha)"), "bitcast<f32>(param(5u))");
        assert_eq!(resolve("my_param.x = 1;"), "my_param.x = 1;");
        assert_eq!(list().into_words(), [7, 3, 21, 3, 1, 0.5_f32.to_bits()]);
    }

    #[test]
    fn a_name_that_is_not_packed_is_an_error() {
        let resolve = |text| list().resolve(text).unwrap_err();
        assert_eq!(resolve("param.row"), Mismatch::NotPacked("row".into()));
        assert_eq!(resolve("param.rows_all"), Mismatch::NotPacked("rows_all".into()));
        assert_eq!(resolve("param.stride"), Mismatch::NoIndex("stride".into()));
        let outside = Mismatch::Outside { name: "stride".into(), index: 3, count: 3 };
        assert_eq!(resolve("param.stride[3u]"), outside);
        assert_eq!(resolve("param.stride[param.height]"), Mismatch::NotPacked("height".into()));
        assert_eq!(list().word("rows", 1).resolve("").unwrap_err(), Mismatch::PackedTwice("rows".into()));
    }

    #[test]
    fn lists_are_joined_in_order() {
        let both = list().and(Params::new().word("last", 9));
        assert_eq!(both.resolve("param.last").unwrap(), "param(6u)");
    }
}
