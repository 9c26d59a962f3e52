//! Constants in the forms that kernels want, made once and shared.

use std::collections::HashMap;

use super::floats::Floats;
use super::repr::Repr;
use crate::error::OpError;
use crate::ir::{Literal, ValueId};

/// A weight in the form a kernel wants it, made once per session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WeightId(pub usize);

/// Weights by what they are made from, so that two nodes (and two plans) share them.
///
/// Only those that a launch binds in the end are uploaded: a constant that every kernel wants repacked stays on the host.
#[derive(Debug, Default)]
pub struct WeightPool {
    by_key: HashMap<(ValueId, String), WeightId>,
    /// In order of [`WeightId`].
    forms: Vec<Form>,
    /// Constants of float16 in halves, by themselves in singles.
    halves: HashMap<WeightId, WeightId>,
    /// True if constants are only named, never packed: for looking at kernels.
    dry: bool,
}

/// A weight as the device wants it.
#[derive(Debug)]
enum Form {
    /// Floats as the model holds them, words when they are asked for.
    Floats(Literal, Floats),
    /// Words that hold it.
    Words(Vec<u32>),
    /// Number of its words, which are on the device and no longer here.
    Uploaded(usize),
}

impl WeightPool {
    /// Creates a pool that packs nothing: for looking at kernels without a device.
    #[must_use]
    pub fn dry() -> Self {
        Self { dry: true, ..Self::default() }
    }

    /// Returns the number of weights.
    #[must_use]
    pub fn len(&self) -> usize {
        self.forms.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// Words of a weight.
    #[must_use]
    pub fn word_count(&self, at: usize) -> usize {
        match &self.forms[at] {
            Form::Floats(literal, floats) => literal.elements().div_ceil(floats.per_word()),
            Form::Words(words) => words.len(),
            Form::Uploaded(count) => *count,
        }
    }

    /// The words of a weight that was not uploaded yet.
    pub(crate) fn words(&mut self, at: usize) -> &[u32] {
        let form = &mut self.forms[at];
        if let Form::Floats(literal, floats) = form {
            *form = Form::Words(match floats {
                Floats::Singles => literal.to_f32s().into_iter().map(f32::to_bits).collect(),
                Floats::Halves => super::words::pack_bytes(literal.bytes()),
            });
        }
        match form {
            Form::Words(words) => words,
            Form::Floats(..) | Form::Uploaded(_) => &[],
        }
    }

    /// Forgets the words of a weight that is on the device.
    pub(crate) fn drop_words(&mut self, at: usize) {
        self.forms[at] = Form::Uploaded(self.word_count(at));
    }

    /// A constant as it is.
    ///
    /// # Errors
    /// When its numbers do not fit the device.
    pub(super) fn intern_plain(&mut self, from: ValueId, literal: &Literal) -> Result<WeightId, OpError> {
        let repr = Repr::of(literal.dtype());
        let form = || match repr {
            Repr::F32 => Ok(Form::Floats(literal.clone(), Floats::Singles)),
            _ => super::words::to_words(literal).map(Form::Words),
        };
        self.intern_form(from, &format!("{repr:?}"), form)
    }

    /// The same constant in halves; `None` where it is no float16, or stands on the device in singles anyway.
    pub(super) fn halves(&mut self, singles: WeightId) -> Option<WeightId> {
        let Form::Floats(literal, Floats::Singles) = self.forms.get(singles.0)? else { return None };
        if Floats::of(literal) == Floats::Singles {
            return None;
        }
        if let Some(&halves) = self.halves.get(&singles) {
            return Some(halves);
        }
        let halves = WeightId(self.forms.len());
        self.forms.push(Form::Floats(literal.clone(), Floats::Halves));
        self.halves.insert(singles, halves);
        Some(halves)
    }

    /// The weight made from a constant by the packing of that name; `pack` runs only the first time.
    ///
    /// # Errors
    /// What `pack` refuses.
    pub fn intern(
        &mut self,
        from: ValueId,
        packing: &str,
        pack: impl FnOnce() -> Result<Vec<u32>, OpError>,
    ) -> Result<WeightId, OpError> {
        if self.dry {
            return self.intern_form(from, packing, || Ok(Form::Words(Vec::new())));
        }
        self.intern_form(from, packing, || pack().map(Form::Words))
    }

    fn intern_form(
        &mut self,
        from: ValueId,
        packing: &str,
        make: impl FnOnce() -> Result<Form, OpError>,
    ) -> Result<WeightId, OpError> {
        let key = (from, packing.to_owned());
        if let Some(&id) = self.by_key.get(&key) {
            return Ok(id);
        }
        let id = WeightId(self.forms.len());
        self.forms.push(make()?);
        self.by_key.insert(key, id);
        Ok(id)
    }
}
