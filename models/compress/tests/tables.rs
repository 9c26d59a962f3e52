//! Examples in tables: what fits the model is read, and each mistake is named with file, row and column.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compress::{CompressError, ExampleRules, Examples, Label};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use types::{DType, Dim, Signature, TensorSpec};

fn input(name: &str, dtype: DType, rest: &[usize]) -> TensorSpec {
    let shape = std::iter::once(Dim::Symbol("batch".into())).chain(rest.iter().map(|&size| Dim::Fixed(size)));
    TensorSpec { name: name.into(), dtype, shape: Some(shape.collect()) }
}

fn signature(inputs: Vec<TensorSpec>) -> Signature {
    Signature { inputs, outputs: Vec::new() }
}

fn pair() -> Signature {
    signature(vec![input("x", DType::F32, &[2])])
}

fn written(folder: &tempfile::TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn reason(path: &Path, signature: &Signature) -> String {
    match Examples::open(path, signature) {
        Err(CompressError::Examples { reason }) => reason,
        other => format!("not refused: {other:?}"),
    }
}

/// Values of the first input, and the labels.
fn read(examples: &Examples) -> (Vec<Vec<f32>>, Vec<Option<Label>>) {
    let read: Vec<_> = examples.iter().map(Result::unwrap).collect();
    (
        read.iter().map(|example| example.inputs[0].tensor.to_f32().unwrap()).collect(),
        read.into_iter().map(|example| example.label).collect(),
    )
}

/// A Parquet file with the columns `x0` and `x1` (doubles), `label` (whole numbers) and `name` (texts).
fn parquet(path: &Path, rows: i64, compression: Compression) {
    let schema =
        "message m { required double x0; required double x1; required int64 label; required binary name (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut file = SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = file.next_row_group().unwrap();
    let values: Vec<f64> = (0..rows).map(|row| row as f64).collect();
    for _ in 0..2 {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&(0..rows).map(|row| row % 3).collect::<Vec<_>>(), None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let names: Vec<ByteArray> = (0..rows).map(|row| format!("row {row}").into_bytes().into()).collect();
    column.typed::<ByteArrayType>().write_batch(&names, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    file.close().unwrap();
}

#[test]
fn columns_of_every_spelling_feed_the_input_of_their_name() {
    let folder = tempfile::tempdir().unwrap();
    for (header, separator) in [("x[0],x[1]", ","), ("x0;x1", ";"), ("x_0\tx_1", "\t"), ("\u{feff}x0,x1", ",")] {
        let text =
            format!("{header}{separator}label\r\n1{separator}-2{separator}7\r\n0.5{separator}1e3{separator}8\r\n");
        let path = written(&folder, "examples.csv", text.as_bytes());
        let examples = Examples::open(&path, &pair()).unwrap();
        assert!(examples.are_labelled() && examples.len() == 2);
        let (values, labels) = read(&examples);
        assert_eq!(values, [vec![1.0, -2.0], vec![0.5, 1000.0]], "{header}");
        assert_eq!(labels, [Some(Label(vec![7.0])), Some(Label(vec![8.0]))]);
        let batch = examples.batches(2).next().unwrap().unwrap();
        assert_eq!(batch.inputs[0].tensor.shape(), [2, 2]);
    }
}

#[test]
fn the_order_of_columns_and_further_columns_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(&folder, "examples.csv", b"id,label,x1,x0\nfirst,cat,2,1\n\"a,\"\"b\",dog,4,3\n");
    let classes = ["dog".to_owned(), "cat".to_owned()];
    let examples =
        Examples::open_as(&path, &pair(), &ExampleRules { classes: &classes, ..ExampleRules::default() }).unwrap();
    let (values, labels) = read(&examples);
    assert_eq!(values, [vec![1.0, 2.0], vec![3.0, 4.0]]);
    assert_eq!(labels, [Some(Label(vec![1.0])), Some(Label(vec![0.0]))]);
    assert_eq!(read(&examples.select(&[1])).0, [vec![3.0, 4.0]]);
}

#[test]
fn every_type_of_input_is_read_from_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(&folder, "examples.csv", b"age,text,flag,half\n3.0,\"hello, you\",true,0.5\n4,,0,1\n");
    let inputs = vec![
        input("age", DType::I64, &[1]),
        input("text", DType::Bytes, &[]),
        input("flag", DType::Bool, &[1]),
        input("half", DType::F16, &[1]),
    ];
    let examples: Vec<_> = Examples::open(&path, &signature(inputs)).unwrap().iter().map(Result::unwrap).collect();
    let first = &examples[0].inputs;
    assert_eq!(first[0].tensor.data().as_ref(), 3_i64.to_le_bytes());
    assert_eq!(first[1].tensor.data().as_ref(), b"\x0a\0\0\0hello, you");
    assert_eq!((first[2].tensor.data().as_ref(), first[3].tensor.data().as_ref()), (&[1][..], &[0, 0x38][..]));
    assert_eq!(examples[0].label, None);
}

#[test]
fn every_mistake_is_named_with_file_row_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let text = b"x0,x1,label\n1,2,0\n1,two,0\n1,2\n3,,9.5e999\n";
    let path = written(&folder, "wrong.csv", text);
    let told = reason(&path, &pair());
    for part in [
        "wrong.csv",
        "row 1 (line 3), column \"x1\": \"two\" is no FP32",
        "row 2 (line 4) has 2 cells, the first line names 3 columns",
        "row 3 (line 5), column \"x1\": the empty cell is no FP32",
        "column \"label\": \"9.5e999\" is no number",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let many = format!("x0,x1\n{}", "a,b\n".repeat(50));
    let told = reason(&written(&folder, "many.csv", many.as_bytes()), &pair());
    assert!(told.contains("and 90 more mistakes") && told.contains("row 4 (line 6)"), "{told}");
    let bytes =
        reason(&written(&folder, "bytes.csv", b"a\n300\n-1\n2.5\n"), &signature(vec![input("a", DType::U8, &[])]));
    assert!(bytes.contains("\"300\" is out of the range of UINT8") && bytes.contains("\"2.5\" is no UINT8"), "{bytes}");
}

#[test]
fn columns_that_do_not_fit_are_named_before_any_row() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str, content: &[u8]| reason(&written(&folder, name, content), &pair());
    assert!(of("a.csv", b"y0,y1\n1,2\n").contains("its columns are y0, y1"));
    assert!(of("b.csv", b"x0,x1,x2\n1,2,3\n").contains("needs 2 columns, 3 are named like it"));
    assert!(of("c.csv", b"x0,x1,x0\n1,2,3\n").contains("both named \"x0\""));
    assert!(of("d.csv", b"x0,x1\n").contains("holds no example"));
    assert!(of("e.csv", b"").contains("no column \"x\""));
    assert!(
        of("f.csv", b"x0,x1\n1,\xff\n").contains("line 2, cell 1: the text is no UTF-8"),
        "{}",
        of("f.csv", b"x0,x1\n1,\xff\n")
    );
    assert!(of("g.png", b"").contains("is one picture"));
    assert!(of("h.npy", b"").contains("folder"));
    let free = signature(vec![TensorSpec {
        name: "x".into(),
        dtype: DType::F32,
        shape: Some(vec![Dim::Any, Dim::Any, Dim::Any]),
    }]);
    assert!(reason(&written(&folder, "i.csv", b"x0\n1\n"), &free).contains("several free dimensions"));
}

#[test]
fn a_row_without_an_end_is_refused_before_it_fills_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endless.csv");
    // A sparse file: zeros in an open quotation.
    fs::write(&path, b"x0,x1\n\"").unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 33).unwrap();
    assert!(reason(&path, &pair()).contains("quotation mark"), "{}", reason(&path, &pair()));
}

#[test]
fn a_folder_of_arrays_is_an_archive_that_was_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    written(&folder, "x.npy", &support::npy("<f4", "(2, 2)", &floats(&[1.0, 2.0, 3.0, 4.0])));
    written(&folder, "labels.npy", &support::npy("|u1", "(2,)", &[0, 1]));
    written(&folder, "unused.npy", b"no array");
    let examples = Examples::open(folder.path(), &pair()).unwrap();
    assert_eq!(read(&examples).0, [vec![1.0, 2.0], vec![3.0, 4.0]]);
    assert_eq!(read(&examples).1[1], Some(Label(vec![1.0])));
    written(&folder, "labels.npy", &support::npy("|u1", "(3,)", &[0, 1, 2]));
    assert!(reason(folder.path(), &pair()).contains("rows"), "{}", reason(folder.path(), &pair()));
    written(&folder, "x.npy", b"\x93NUMPY");
    assert!(reason(folder.path(), &pair()).contains("x.npy is no readable .npy file"));

    let pictures = tempfile::tempdir().unwrap();
    written(&pictures, "one.JPG", b"");
    assert!(reason(pictures.path(), &pair()).contains("[preprocess.x] kind"));
    let empty = tempfile::tempdir().unwrap();
    assert!(reason(empty.path(), &pair()).contains("no .npz"));
}

#[test]
fn a_parquet_file_is_read_like_a_csv_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("examples.parquet");
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default())] {
        parquet(&path, 100, compression);
        let examples = Examples::open(&path, &pair()).unwrap();
        let (values, labels) = read(&examples);
        assert_eq!((values.len(), &values[99], &labels[5]), (100, &vec![99.0, 99.0], &Some(Label(vec![2.0]))));
    }
    let text = signature(vec![input("name", DType::Bytes, &[]), input("x0", DType::F64, &[1])]);
    assert_eq!(Examples::open(&path, &text).unwrap().len(), 100);
    let wrong = signature(vec![input("name", DType::F32, &[])]);
    assert!(
        reason(&path, &wrong).contains("row 0, column \"name\": \"row 0\" is no FP32"),
        "{}",
        reason(&path, &wrong)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_parquet_file_is_refused_or_read(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("examples.parquet");
        parquet(&path, 20, Compression::SNAPPY);
        let mut content = fs::read(&path).unwrap();
        let at = at.index(content.len());
        content[at] = byte;
        if byte % 4 == 0 {
            content.truncate(cut.index(content.len()));
        }
        fs::write(&path, &content).unwrap();
        if let Ok(examples) = Examples::open(&path, &pair()) {
            for example in examples.iter() {
                drop(example);
            }
        }
    }

    #[test]
    fn any_bytes_as_csv_are_refused_or_read(content in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        let mut text = b"x0,x1,label\n".to_vec();
        text.extend(content);
        let path = written(&folder, "x.csv", &text);
        if let Ok(examples) = Examples::open(&path, &pair()) {
            prop_assert!(examples.iter().all(|example| example.is_ok()));
        }
    }
}
