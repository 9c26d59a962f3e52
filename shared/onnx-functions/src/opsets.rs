//! Operator sets that functions and the model import, and what changed between their versions.

use std::collections::BTreeMap;

use crate::InlineError;
use crate::message::{Fields, Malformed, Value, Writer, text};

/// Version of each domain; the default domain is the empty text.
pub(crate) type Imports<'a> = BTreeMap<&'a [u8], i64>;

/// Numbers of the fields of `OperatorSetIdProto`.
const DOMAIN: u64 = 1;
const VERSION: u64 = 2;

/// Returns the domain with one spelling for the default one.
pub(crate) fn plain(domain: &[u8]) -> &[u8] {
    if domain == b"ai.onnx" { b"" } else { domain }
}

/// Reads domain and version of an `OperatorSetIdProto`.
pub(crate) fn import(message: &[u8]) -> Result<(&[u8], i64), Malformed> {
    let (mut domain, mut version): (&[u8], i64) = (b"", 0);
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            DOMAIN => domain = plain(value.bytes()?),
            VERSION => version = value.varint()?.cast_signed(),
            _ => {}
        }
    }
    Ok((domain, version))
}

/// Writes an `OperatorSetIdProto` of this domain and version.
pub(crate) fn written(domain: &[u8], version: i64) -> Vec<u8> {
    let mut message = Writer::default();
    message.bytes(DOMAIN, domain);
    message.value(VERSION, &Value::Varint(version.cast_unsigned()));
    message.into_bytes()
}

/// Operators of the default domain, with the versions at which the same node began to mean something else: a default changed, or an
/// attribute became an input. Versions that only added element types, optional inputs or attributes are left out.
///
/// Out of `Changelog.md` of ONNX 1.23. A function whose version differs from the model's is inlined where none of
/// its operators changed between the two.
const CHANGED: &[(&str, &[i64])] = &[
    ("BatchNormalization", &[7, 9, 14]),
    ("Cast", &[6]),
    ("Clip", &[11]),
    ("ConstantOfShape", &[9]),
    ("DFT", &[20]),
    ("Dropout", &[7, 10, 12]),
    ("Gemm", &[7]),
    ("GridSample", &[20]),
    ("GroupNormalization", &[21]),
    ("Hardmax", &[11, 13]),
    ("LogSoftmax", &[11, 13]),
    ("MeanVarianceNormalization", &[9]),
    ("Pad", &[11]),
    ("ReduceL1", &[18]),
    ("ReduceL2", &[18]),
    ("ReduceLogSum", &[18]),
    ("ReduceLogSumExp", &[18]),
    ("ReduceMax", &[18]),
    ("ReduceMean", &[18]),
    ("ReduceMin", &[18]),
    ("ReduceProd", &[18]),
    ("ReduceSum", &[13]),
    ("ReduceSumSquare", &[18]),
    ("Resize", &[11, 13]),
    ("RoiAlign", &[16]),
    ("Scan", &[9]),
    ("Scatter", &[11]),
    ("Slice", &[10]),
    ("Softmax", &[11, 13]),
    ("Split", &[13, 18]),
    ("Squeeze", &[13]),
    ("ThresholdedRelu", &[10]),
    ("TopK", &[10]),
    ("Unsqueeze", &[13]),
    ("Upsample", &[9, 10]),
];

/// Lowest version of the default domain that is compared at all: before it, broadcasting had other rules.
const COMPARED_MIN: i64 = 7;

/// Checks that the operators of a function mean the same in the model's operator sets, and adds the imports that the model lacks.
pub(crate) fn adopt<'a>(
    model: &mut Imports<'a>,
    function: &[u8],
    own: &Imports<'a>,
    operators: &[(&'a [u8], &'a [u8])],
) -> Result<(), InlineError> {
    for (&domain, &version) in own {
        let Some(&known) = model.get(domain) else {
            model.insert(domain, version);
            continue;
        };
        if known == version {
            continue;
        }
        let (low, high) = (known.min(version), known.max(version));
        let changed = |operator: &[u8]| {
            let row = CHANGED.iter().find(|(name, _versions)| name.as_bytes() == operator);
            !domain.is_empty()
                || low < COMPARED_MIN
                || row.is_some_and(|(_name, versions)| versions.iter().any(|at| low < *at && *at <= high))
        };
        let mut used = operators.iter().filter(|(of, _operator)| *of == domain);
        if let Some((_domain, operator)) = used.find(|(_domain, operator)| changed(operator)) {
            return Err(InlineError::Opset {
                function: text(function),
                operator: text(operator),
                domain: text(domain),
                own: version,
                model: known,
            });
        }
    }
    Ok(())
}
