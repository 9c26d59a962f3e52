//! NumPy arrays (`numpy.save`) as tensors.

use std::path::Path;

use npyz::{NpyHeader, Order};
use types::{DType, Dim, Tensor, TensorSpec};

use super::InputError;

/// Reads an array. One that lacks only the model's leading batch dimension is given one of size 1.
pub(super) fn load(path: &Path, bytes: &[u8], spec: &TensorSpec) -> Result<Tensor, InputError> {
    let mut rest = bytes;
    let header =
        NpyHeader::from_reader(&mut rest).map_err(|source| InputError::Npy { path: path.to_owned(), source })?;
    let array = |problem: String| InputError::Array { path: path.to_owned(), problem };
    if header.order() == Order::Fortran && header.shape().len() > 1 {
        return Err(array("is in Fortran order: save numpy.ascontiguousarray(x)".into()));
    }
    let descr = header.dtype().descr();
    let dtype = DType::from_numpy(descr.trim_matches('\'')).ok_or_else(|| {
        array(format!("has dtype {descr}: use a little-endian number or boolean type, for example x.astype('float32')"))
    })?;
    if dtype != spec.dtype {
        let wanted = spec.dtype.as_str().to_lowercase().replace("fp", "float");
        return Err(array(format!("is {dtype}, and the model's input is {spec}: save x.astype('{wanted}')")));
    }
    let shape = header.shape().iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|_over| array("has a dimension too large for this machine".into()))?;
    Tensor::new(dtype, with_batch(shape, spec), bytes::Bytes::copy_from_slice(rest))
        .map_err(|source| InputError::Tensor { path: path.to_owned(), source })
}

fn with_batch(shape: Vec<usize>, spec: &TensorSpec) -> Vec<usize> {
    let lacks_one = spec.shape.as_ref().is_some_and(|dims| {
        dims.len() == shape.len() + 1 && matches!(dims.first(), Some(Dim::Any | Dim::Symbol(_) | Dim::Fixed(1)))
    });
    if lacks_one { std::iter::once(1).chain(shape).collect() } else { shape }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a file as `numpy.save` writes it (format 1.0) for these fields.
    fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let fortran = if fortran { "True" } else { "False" };
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&u16::try_from(header.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    fn spec() -> TensorSpec {
        let shape = Some(vec![Dim::Symbol("batch".into()), Dim::Fixed(2)]);
        TensorSpec { name: "x".into(), dtype: DType::F32, shape }
    }

    fn load_npy(bytes: &[u8]) -> Result<Tensor, String> {
        load(Path::new("x.npy"), bytes, &spec()).map_err(|error| telemetry::chain(&error))
    }

    #[test]
    fn an_array_is_read_as_numpy_saved_it() {
        let data: Vec<u8> = [1.0_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let expected = Tensor::from_f32(vec![1, 2], &[1.0, -2.0]).unwrap();
        assert_eq!(load_npy(&npy("<f4", false, "(1, 2)", &data)), Ok(expected.clone()));
        assert_eq!(load_npy(&npy("<f4", false, "(2,)", &data)), Ok(expected), "the batch dimension is added");
    }

    #[test]
    fn an_array_that_does_not_fit_says_how_to_save_it() {
        let error = |bytes: Vec<u8>| load_npy(&bytes).unwrap_err();
        assert!(error(npy("<f8", false, "(2,)", &[0; 16])).contains("x.astype('float32')"));
        assert!(error(npy(">f4", false, "(2,)", &[0; 8])).contains("little-endian"));
        assert!(error(npy("<f4", true, "(1, 2)", &[0; 8])).contains("ascontiguousarray"));
        assert!(error(npy("<f4", false, "(2,)", &[0; 7])).contains("needs 8 bytes, 7 were given"));
        assert!(error(b"not numpy".to_vec()).contains("as a NumPy array"));
    }
}
