//! The 2,000 test digits of `models/catalog/digits`.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::binaries::workspace;
use crate::oip::Input;

/// Rows and columns of one image.
const SIDE: usize = 28;

/// Number of pixels of one image: 28 x 28, row-major.
pub const PIXELS: usize = SIDE * SIDE;

/// First of the digits that did not calibrate the catalog's thresholds.
pub const FRESH: usize = 1_000;

/// Labelled images of handwritten digits.
#[derive(Debug, Clone)]
pub struct Digits {
    images: Vec<u8>,
    labels: Vec<u8>,
}

impl Digits {
    /// Reads the catalog's test set.
    ///
    /// # Errors
    /// Fails if the file is missing or differs from its model card.
    pub fn load() -> Result<Self> {
        Self::load_from(&catalog().join("test/digits.npz"))
    }

    /// Reads a test set from an `.npz` file with `images` u8[n,784] and `labels` u8[n].
    ///
    /// # Errors
    /// Fails when the file is missing or of another form.
    pub fn load_from(path: &Path) -> Result<Self> {
        let context = || format!("read test digits {}", path.display());
        let mut archive = npyz::npz::NpzArchive::new(File::open(path).with_context(context)?).with_context(context)?;
        let mut column = |name: &str| -> Result<Vec<u8>> {
            let array = archive.by_name(name).with_context(context)?;
            array.with_context(|| format!("{name} is not in {}", path.display()))?.into_vec().with_context(context)
        };
        let (images, labels) = (column("images")?, column("labels")?);
        ensure!(images.len() == labels.len() * PIXELS, "images and labels of {} do not match", path.display());
        Ok(Self { images, labels })
    }

    /// Returns the number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns the true class of the image `index` (modulo the number of images).
    #[must_use]
    pub fn label(&self, index: usize) -> u8 {
        self.labels.get(index % self.len().max(1)).copied().unwrap_or_default()
    }

    /// Returns the pixels of the image `index` (modulo the number of images), 0 to 255.
    #[must_use]
    pub fn pixels(&self, index: usize) -> &[u8] {
        let index = index % self.len().max(1);
        self.images.get(index * PIXELS..(index + 1) * PIXELS).unwrap_or_default()
    }

    /// Returns the image as the model's input: `image` FP32[1,1,28,28] in 0 to 1.
    #[must_use]
    pub fn input(&self, index: usize) -> Input {
        let values: Vec<f32> = self.pixels(index).iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
        Input::fp32("image", &[1, 1, 28, 28], &values)
    }

    /// Returns the image turned by a quarter, as by a camera that has fallen over.
    #[must_use]
    pub fn turned(&self, index: usize) -> Input {
        let pixels = self.pixels(index);
        let at = |row: usize, column: usize| pixels.get((SIDE - 1 - column) * SIDE + row).copied().unwrap_or_default();
        let values: Vec<f32> = (0..PIXELS).map(|place| f32::from(at(place / SIDE, place % SIDE)) / 255.0).collect();
        Input::fp32("image", &[1, 1, 28, 28], &values)
    }

    /// Returns the image as a `.npy` file with one FP32[1,28,28] array in 0 to 1, as `edge-agent infer --npy` reads it.
    #[must_use]
    pub fn npy(&self, index: usize) -> Vec<u8> {
        npy("<f4", "(1, 28, 28)", &self.input(index).bytes)
    }

    /// Writes images as PNG files, each in the folder of its class: `folder/7/12.png`.
    ///
    /// # Errors
    /// Fails when a file cannot be written.
    pub fn write_pictures(&self, folder: &Path, indices: Range<usize>) -> Result<()> {
        let side = u32::try_from(SIDE)?;
        for index in indices {
            let class = folder.join(self.label(index).to_string());
            std::fs::create_dir_all(&class)?;
            let file = std::fs::File::create(class.join(format!("{index}.png")))?;
            let mut encoder = png::Encoder::new(file, side, side);
            encoder.set_color(png::ColorType::Grayscale);
            encoder.write_header()?.write_image_data(self.pixels(index))?;
        }
        Ok(())
    }

    /// Writes the first `count` images and their labels as `cloud-hub model compress --examples` reads them: `image`
    /// FP32[count,1,28,28] in 0 to 1 and `labels` u8[count].
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub fn write_examples(&self, path: &Path, count: usize) -> Result<()> {
        let images: Vec<u8> = (0..count).flat_map(|index| self.input(index).bytes).collect();
        let labels: Vec<u8> = (0..count).map(|index| self.label(index)).collect();
        let image = npy("<f4", &format!("({count}, 1, 28, 28)"), &images);
        write_npz(path, &[("image", image), ("labels", npy("|u1", &format!("({count},)"), &labels))])
    }
}

/// Returns a `.npy` file of version 1.0; `descr` and `shape` as Python writes them.
#[must_use]
pub fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    // The format requires magic, header and newline together to be a multiple of 64 bytes.
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend_from_slice(format!("{header:<117}\n").as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// Writes `.npy` files into one `.npz`, as `numpy.savez` does.
///
/// # Errors
/// Fails when the file cannot be written.
pub fn write_npz(path: &Path, arrays: &[(&str, Vec<u8>)]) -> Result<()> {
    let context = || format!("write {}", path.display());
    let mut archive = zip::ZipWriter::new(File::create(path).with_context(context)?);
    for (name, bytes) in arrays {
        let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        archive.start_file(format!("{name}.npy"), stored).with_context(context)?;
        archive.write_all(bytes).with_context(context)?;
    }
    archive.finish().with_context(context)?;
    Ok(())
}

/// Returns the catalog folder of the digits.
#[must_use]
pub fn catalog() -> PathBuf {
    workspace().join("models/catalog/digits")
}

/// Returns the class with the highest logit.
#[must_use]
pub fn top1(logits: &[f32]) -> Option<u8> {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    u8::try_from(best.0).ok()
}
