//! Tests of the data that `cloud-hub model evaluate` takes, and of the page that it writes.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::author::ModelFolder;
use testkit::binaries::ONNXRUNTIME_ENV;
use testkit::digits::npy;
use testkit::{Digits, Finished, Site, skip, story};

/// Exit code for examples that are wrong.
const INPUT: i32 = 3;

/// Exit code for a file that cannot be written.
const STORAGE: i32 = 8;

/// Path of the browser.
const CHROMIUM: &str = "/usr/bin/chromium";

/// Number of images of the tests.
const COUNT: usize = 400;

fn evaluate(site: &Site, folder: &Path, data: &Path, further: &[&str]) -> Result<Finished> {
    let mut command = Command::new(&site.binaries().hub);
    command.args(["model", "evaluate"]).arg(folder).arg("--data").arg(data).args(further);
    Finished::run(command.env(ONNXRUNTIME_ENV, &site.binaries().onnxruntime))
}

fn figures(site: &Site, folder: &Path, data: &Path) -> Result<Value> {
    let ended = evaluate(site, folder, data, &["--json"])?.ok()?;
    Ok(serde_json::from_str(&ended.stdout)?)
}

/// Writes digits as a CSV file with the columns `image[0]` to `image[783]` and `label`.
fn csv(digits: &Digits, path: &Path) -> Result<()> {
    let mut text = (0..784).map(|pixel| format!("image[{pixel}],")).collect::<String>();
    text.push_str("label\n");
    for index in 0..COUNT {
        for &pixel in digits.pixels(index) {
            write!(text, "{},", f32::from(pixel) / 255.0)?;
        }
        writeln!(text, "{}", digits.label(index))?;
    }
    Ok(fs::write(path, text)?)
}

#[test]
fn a_csv_file_and_a_folder_of_arrays_give_the_figures_of_an_archive() {
    story(|site| {
        let digits = Digits::load()?;
        let folder = ModelFolder::copy(site, "v1", 1)?;
        let (archive, table, arrays) =
            (site.folder().join("test.npz"), site.folder().join("test.csv"), site.folder().join("arrays"));
        digits.write_examples(&archive, COUNT)?;
        csv(&digits, &table)?;
        fs::create_dir(&arrays)?;
        let images: Vec<u8> = (0..COUNT).flat_map(|index| digits.input(index).bytes).collect();
        let labels: Vec<u8> = (0..COUNT).map(|index| digits.label(index)).collect();
        fs::write(arrays.join("image.npy"), npy("<f4", &format!("({COUNT}, 1, 28, 28)"), &images))?;
        fs::write(arrays.join("labels.npy"), npy("|u1", &format!("({COUNT},)"), &labels))?;
        let expected = figures(site, folder.path(), &archive)?;
        ensure!(expected["models"][1]["accuracy"]["value"].as_f64().is_some_and(|value| value > 0.8), "{expected}");
        ensure!(figures(site, folder.path(), &table)? == expected, "the CSV file gives other figures");
        ensure!(figures(site, folder.path(), &arrays)? == expected, "the arrays give other figures");

        let text = fs::read_to_string(&table)?;
        fs::write(&table, text.replacen("\n0,", "\nzero,", 1))?;
        let refused = evaluate(site, folder.path(), &table, &[])?;
        let told = "row 0 (line 2), column \"image[0]\": \"zero\" is no FP32";
        ensure!(refused.code == Some(INPUT) && refused.stderr.contains(told), "{refused:?}");
        Ok(())
    });
}

#[test]
fn the_page_of_an_evaluation_shows_its_figures_plots_and_worst_examples() {
    story(|site| {
        let folder = ModelFolder::copy(site, "v1", 1)?;
        // A name that would break out of the page.
        folder.edit(|form| form.replacen("\"7\"", "\"</style><script>document.title = 'broken'</script>\"", 1))?;
        let (data, page) = (site.folder().join("test.npz"), site.folder().join("page.html"));
        Digits::load()?.write_examples(&data, COUNT)?;
        let written = page.to_str().unwrap_or_default();
        evaluate(site, folder.path(), &data, &["--html", written])?.ok()?;
        let html = fs::read_to_string(&page)?;
        ensure!(!html.contains("<script") && !html.contains("http://127") && !html.contains("https://"), "{html}");
        let missing = evaluate(site, folder.path(), &data, &["--html", "/nowhere/page.html"])?;
        ensure!(missing.code == Some(STORAGE), "{missing:?}");

        if !Path::new(CHROMIUM).is_file() {
            skip("chromium is not installed (apt install chromium)");
            return Ok(());
        }
        let mut browser = Command::new(CHROMIUM);
        browser
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"])
            .args(["--enable-logging=stderr", "--dump-dom"])
            .arg(format!("--user-data-dir={}", site.folder().join("profile").display()))
            .arg(format!("file://{}", page.display()));
        let shown = browser.stdin(Stdio::null()).output().context("start chromium")?;
        let (dom, log) = (String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
        // The browser reports what the page's own policy forbids.
        ensure!(!log.contains("Content Security Policy") && !log.contains("CONSOLE"), "{log}");
        ensure!(dom.contains("<title>digits version 1: evaluation</title>"), "{dom}");
        ensure!(dom.matches("<svg").count() == 2 && dom.matches("<tr>").count() > 20, "{dom}");
        // A curve for each of two variants, markers for their bins, and pictures of the worst digits.
        ensure!(dom.matches("class=\"band").count() == 2 && dom.matches("<circle").count() > 20, "{dom}");
        ensure!(dom.contains("data:image/png;base64,") && dom.contains("kept on the device"), "{dom}");
        Ok(())
    });
}
