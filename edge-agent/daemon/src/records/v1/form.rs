//! Record of the form of a model that a measurement has chosen.

use bundle::manifest::Precision;
use serde::{Deserialize, Serialize};
use store::Record;
use types::{EngineName, VariantName};

use crate::updater::Choice;

/// Form of a model's versions that a measurement has chosen, under the name of the model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChosenForm {
    among: Vec<Form>,
    engines: Vec<EngineName>,
    variant: VariantName,
    #[serde(default)]
    engine: Option<EngineName>,
}

/// Variant that could run on the device.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Form {
    variant: VariantName,
    precision: Precision,
}

impl Record for ChosenForm {
    type Value = Choice;
    const TABLE: &'static str = "chosen-forms";

    fn from_value(value: &Self::Value) -> Self {
        let Choice { among, engines, variant, engine } = value.clone();
        let among = among.into_iter().map(|(variant, precision)| Form { variant, precision }).collect();
        Self { among, engines, variant, engine }
    }

    fn into_value(self) -> Result<Self::Value, String> {
        let Self { among, engines, variant, engine } = self;
        let among = among.into_iter().map(|form| (form.variant, form.precision)).collect();
        Ok(Choice { among, engines, variant, engine })
    }
}
