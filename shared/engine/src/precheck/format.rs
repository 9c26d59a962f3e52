//! Formats that are mistaken for ONNX, told by their first bytes.
//!
//! Fed by [`super::check`] and by commands that read a model file, once the file has proved to be no model.

/// First bytes of a file in each format, what it is, and what to do.
const FORMATS: [(&[u8], &str, &str); 9] = [
    (
        b"version https://git-lfs",
        "a pointer of Git LFS",
        "fetch the file itself with `git lfs pull`, or from the page's download link",
    ),
    (b"\x89PNG", "a PNG picture", "give the model file"),
    (b"PK\x03\x04", "a zip archive", "unpack it first; a PyTorch file (.pt, .pth) is exported with torch.onnx.export"),
    (b"\x1f\x8b", "gzip data", "unpack it first: gunzip FILE"),
    (b"BZh", "bzip2 data", "unpack it first: bunzip2 FILE"),
    (b"\xfd7zXZ", "xz data", "unpack it first: unxz FILE"),
    (b"\x28\xb5\x2f\xfd", "zstd data", "unpack it first: unzstd FILE"),
    (b"\x89HDF", "an HDF5 file", "a Keras model is converted with tf2onnx"),
    (b"\x80\x04", "a Python pickle", "export the model: torch.onnx.export, skl2onnx"),
];

/// Most bytes in which the beginning of a page is looked for: white space and comments may come first.
const PAGE_BYTES_MAX: usize = 512;

/// Format of a file that is no ONNX model, and what to do; `None` when its first bytes tell nothing.
#[must_use]
pub fn other(file: &[u8]) -> Option<(&'static str, &'static str)> {
    if let Some((_, what, advice)) = FORMATS.iter().find(|(first, ..)| file.starts_with(first)) {
        return Some((what, advice));
    }
    if file.get(4..8) == Some(b"TFL3") {
        return Some(("a TensorFlow Lite model", "convert it: python3 -m tf2onnx.convert --tflite FILE"));
    }
    let head = file.get(..PAGE_BYTES_MAX.min(file.len())).unwrap_or_default();
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.starts_with("<!doctype html") || text.starts_with("<html") || text.starts_with("<?xml") {
        return Some(("a web page", "download the file itself, not the page about it"));
    }
    if text.starts_with('{') || text.starts_with("[{") {
        return Some(("JSON text", "give the model file; a server may have answered with an error"));
    }
    None
}
