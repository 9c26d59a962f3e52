//! One cell of a table, and its conversion to an element of a tensor.

use std::fmt;

use half::{bf16, f16};
use parquet::record::Field;
use types::DType;

/// Longest text of a cell that an error repeats, in characters.
const SHOWN_CHARS: usize = 40;

/// Value in one cell.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell<'a> {
    /// Text as it stands in a CSV file.
    Text(&'a str),
    /// Value of a Parquet file.
    Field(&'a Field),
}

impl<'a> Cell<'a> {
    /// Returns the cell as a number; `None` for what is none.
    pub(super) fn number(self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "class numbers and quantities stay below 2^53")]
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Field(field) => match field {
                Field::Bool(value) => Some(f64::from(u8::from(*value))),
                Field::Byte(value) => Some(f64::from(*value)),
                Field::Short(value) => Some(f64::from(*value)),
                Field::Int(value) => Some(f64::from(*value)),
                Field::Long(value) => Some(*value as f64),
                Field::UByte(value) => Some(f64::from(*value)),
                Field::UShort(value) => Some(f64::from(*value)),
                Field::UInt(value) => Some(f64::from(*value)),
                Field::ULong(value) => Some(*value as f64),
                Field::Float16(value) => Some(f64::from(value.to_f32())),
                Field::Float(value) => Some(f64::from(*value)),
                Field::Double(value) => Some(*value),
                Field::Str(text) => text.trim().parse().ok(),
                _ => None,
            },
        }
    }

    /// Returns the cell as a whole number; `None` for what is none.
    fn whole(self) -> Option<i128> {
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Field(Field::Long(value)) => Some(i128::from(*value)),
            Self::Field(Field::ULong(value)) => Some(i128::from(*value)),
            Self::Field(_) => None,
        }
        .or_else(|| {
            // Programs that know missing values write whole numbers as 3.0.
            let number = self.number().filter(|number| number.fract() == 0.0 && number.abs() < 9e15)?;
            #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^53")]
            let whole = number as i64;
            Some(i128::from(whole))
        })
    }

    /// Returns the cell as text; `None` for numbers of Parquet files.
    pub(super) fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Field(Field::Str(text)) => Some(text),
            Self::Field(_) => None,
        }
    }

    /// Visits the elements of a list, nested ones in row-major order; a cell that is no list is its own element.
    pub(super) fn elements(self, visit: &mut dyn FnMut(Self)) {
        match self {
            Self::Field(Field::ListInternal(list)) => {
                for element in list.elements() {
                    Self::Field(element).elements(visit);
                }
            }
            cell @ (Self::Text(_) | Self::Field(_)) => visit(cell),
        }
    }
}

impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Text(text) => (*text).to_owned(),
            Self::Field(Field::Null) => String::new(),
            Self::Field(Field::Str(text)) => text.clone(),
            Self::Field(field) => field.to_string(),
        };
        if text.trim().is_empty() {
            return f.write_str("the empty cell");
        }
        let shown: String = text.chars().take(SHOWN_CHARS).collect();
        write!(f, "{shown:?}")
    }
}

/// Appends a cell to the bytes of a tensor.
///
/// # Errors
/// A clause that says what the cell is and what it must be.
pub(super) fn push(cell: Cell<'_>, dtype: DType, data: &mut Vec<u8>) -> Result<(), String> {
    let wrong = || match cell.whole() {
        Some(_) => format!("{cell} is out of the range of {dtype}"),
        None => format!("{cell} is no {dtype}"),
    };
    macro_rules! whole {
        ($kind:ty) => {
            cell.whole().and_then(|whole| <$kind>::try_from(whole).ok()).map(|value| value.to_le_bytes().to_vec())
        };
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest number of the type is meant")]
    let single = |number: f64| number as f32;
    // A single is parsed as such: rounding twice can end one unit beside.
    let single = || match cell.text() {
        Some(text) => text.trim().parse::<f32>().ok(),
        None => cell.number().map(single),
    };
    let bytes = match dtype {
        DType::Bool => match cell.text().map(str::trim) {
            Some("true" | "True" | "TRUE") => Some(vec![1]),
            Some("false" | "False" | "FALSE") => Some(vec![0]),
            Some(_) | None => {
                cell.whole().and_then(|whole| u8::try_from(whole).ok()).filter(|&bit| bit <= 1).map(|bit| vec![bit])
            }
        },
        DType::U8 => whole!(u8),
        DType::U16 => whole!(u16),
        DType::U32 => whole!(u32),
        DType::U64 => whole!(u64),
        DType::I8 => whole!(i8),
        DType::I16 => whole!(i16),
        DType::I32 => whole!(i32),
        DType::I64 => whole!(i64),
        DType::F16 => single().map(|value| f16::from_f32(value).to_le_bytes().to_vec()),
        DType::Bf16 => single().map(|value| bf16::from_f32(value).to_le_bytes().to_vec()),
        DType::F32 => single().map(|value| value.to_le_bytes().to_vec()),
        DType::F64 => cell.number().map(|value| value.to_le_bytes().to_vec()),
        DType::Bytes => {
            let content = match cell {
                Cell::Field(Field::Bytes(bytes)) => Some(bytes.data()),
                Cell::Text(_) | Cell::Field(_) => cell.text().map(str::as_bytes),
            };
            content.and_then(|content| {
                let length = u32::try_from(content.len()).ok()?;
                Some([&length.to_le_bytes()[..], content].concat())
            })
        }
    };
    data.extend(bytes.ok_or_else(wrong)?);
    Ok(())
}
