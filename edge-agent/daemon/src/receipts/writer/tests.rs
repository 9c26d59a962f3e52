//! The log on a disk: cuts, damage, rotation and removal, read back by [`super::reader`].

use std::ops::ControlFlow;

use super::super::ends::ENDS_FILE;
use super::super::reader::{Summary, files, read};
use super::*;
use crate::records::v1::{AuditRecord, ContentRecord};

const DAY: Duration = Duration::from_secs(24 * 3600);
const LARGE: Limits = Limits { bytes_max: 1 << 20, keep: DAY };
const NOW: u64 = 1_800_000_000_000;

fn record(number: u64) -> LogRecord {
    let event = LogEvent::Audit(AuditRecord {
        request: format!("request-{number}").parse().unwrap(),
        model: "digits".parse().unwrap(),
        class: "shared".into(),
        input: ContentRecord { bytes: 3136, digest: None },
        hub_bytes: 3136,
        agrees: Some(true),
    });
    LogRecord { at_unix_ms: NOW + number, missing: 0, event }
}

fn write(writer: &mut Writer, records: std::ops::Range<u64>, now_ms: u64) {
    for number in records {
        writer.append(&[record(number)], now_ms).unwrap();
    }
}

fn summary(folder: &Path) -> Summary {
    read(folder, &mut |_frame| ControlFlow::Continue(())).unwrap()
}

fn starts(folder: &Path) -> Vec<StartedRecord> {
    let mut starts = Vec::new();
    let mut visit = |frame: &frame::Frame| {
        let record: LogRecord = serde_json::from_slice(&frame.payload).unwrap();
        if let LogEvent::Started(started) = record.event {
            starts.push(started);
        }
        ControlFlow::Continue(())
    };
    read(folder, &mut visit).unwrap();
    starts
}

#[test]
fn a_log_goes_on_behind_a_stop_and_behind_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(folder.path(), LARGE, NOW).unwrap();
    write(&mut writer, 0..3, NOW);
    writer.append(&[LogRecord { at_unix_ms: NOW, missing: 0, event: LogEvent::Stopped }], NOW).unwrap();
    writer.sync().unwrap();
    drop(writer);
    let mut writer = Writer::open(folder.path(), LARGE, NOW).unwrap();
    write(&mut writer, 3..5, NOW);
    // Killed: not synced, and not stopped.
    drop(writer);
    drop(Writer::open(folder.path(), LARGE, NOW).unwrap());
    let found = summary(folder.path());
    assert_eq!((found.problem, found.records, found.first, found.last), (None, 9, 1, 9));
    let clean: Vec<bool> = starts(folder.path()).iter().map(|started| started.clean).collect();
    assert_eq!(clean, [true, true, false]);
}

#[test]
fn a_record_that_was_cut_anywhere_by_a_kill_is_removed_and_noted() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(folder.path(), LARGE, NOW).unwrap();
    write(&mut writer, 0..2, NOW);
    writer.sync().unwrap();
    let whole = writer.segments.back().unwrap().bytes;
    write(&mut writer, 2..3, NOW);
    let path = writer.segments.back().unwrap().path.clone();
    drop(writer);
    let bytes = fs::read(&path).unwrap();
    let whole_bytes = usize::try_from(whole).unwrap();
    for length in [whole_bytes + 1, whole_bytes + 4, whole_bytes + 60, bytes.len() - 40, bytes.len() - 1] {
        let copy = tempfile::tempdir().unwrap();
        fs::copy(folder.path().join(ENDS_FILE), copy.path().join(ENDS_FILE)).unwrap();
        fs::write(copy.path().join(path.file_name().unwrap()), &bytes[..length]).unwrap();
        let before = summary(copy.path());
        assert_eq!((before.problem, before.incomplete_bytes), (None, (length - whole_bytes) as u64));
        let mut writer = Writer::open(copy.path(), LARGE, NOW).unwrap();
        write(&mut writer, 9..10, NOW);
        let last = starts(copy.path()).pop().unwrap();
        assert_eq!((last.cut_bytes, last.damage), ((length - whole_bytes) as u64, None));
        let after = summary(copy.path());
        assert_eq!((after.problem, after.records, after.incomplete_bytes), (None, 5, 0));
    }
}

#[test]
fn a_full_log_removes_its_oldest_files_and_stays_whole() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { bytes_max: 256 * 1024, keep: DAY };
    let mut writer = Writer::open(folder.path(), limits, NOW).unwrap();
    write(&mut writer, 0..2000, NOW);
    writer.sync().unwrap();
    let found = summary(folder.path());
    assert_eq!((found.problem.clone(), found.last), (None, 2001), "{found:?}");
    assert!(found.bytes <= limits.bytes_max && found.files > 1 && found.removed > 0, "{found:?}");
    assert_eq!(found.first, found.removed + 1);
    // Removing one file more than rotation did is found.
    let oldest = files(folder.path()).unwrap().remove(0);
    fs::remove_file(oldest.path).unwrap();
    assert_eq!(summary(folder.path()).problem.unwrap(), format!("record {} is missing", found.first));
}

#[test]
fn records_are_removed_with_their_age_also_while_none_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(folder.path(), LARGE, NOW).unwrap();
    let day = 24 * 3600 * 1000;
    for eighth in 1..=8_u64 {
        write(&mut writer, eighth..eighth + 1, NOW + eighth * day / 8);
    }
    writer.sync().unwrap();
    assert_eq!(summary(folder.path()).removed, 1, "only the first record is a day old");
    writer.tick(NOW + 3 * day).unwrap();
    let found = summary(folder.path());
    assert_eq!((found.problem, found.records, found.removed), (None, 0, 9));
    write(&mut writer, 9..10, NOW + 3 * day);
    writer.sync().unwrap();
    let found = summary(folder.path());
    assert_eq!((found.problem, found.first, found.last), (None, 10, 10));
}

#[test]
fn every_changed_byte_and_every_missing_end_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(folder.path(), LARGE, NOW).unwrap();
    write(&mut writer, 0..5, NOW);
    writer.sync().unwrap();
    let path = writer.segments.back().unwrap().path.clone();
    let bytes = fs::read(&path).unwrap();
    // All but the time of creation in the header, of which nothing depends.
    for at in (0..13).chain((21..bytes.len()).step_by(3)) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        fs::write(&path, changed).unwrap();
        assert!(summary(folder.path()).problem.is_some(), "byte {at}");
    }
    for length in (HEADER_BYTES..bytes.len()).step_by(7) {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(summary(folder.path()).problem.is_some(), "{length} bytes");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(summary(folder.path()).problem.unwrap(), "record 1 is missing: record 6 was written last");
}

#[test]
fn a_log_that_was_made_anew_by_another_hand_is_found_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(folder.path(), LARGE, NOW).unwrap();
    write(&mut writer, 0..5, NOW);
    writer.sync().unwrap();
    let path = writer.segments.back().unwrap().path.clone();
    let other = tempfile::tempdir().unwrap();
    let mut forger = Writer::open(other.path(), LARGE, NOW).unwrap();
    write(&mut forger, 10..15, NOW);
    forger.sync().unwrap();
    fs::copy(&forger.segments.back().unwrap().path, &path).unwrap();
    assert_eq!(summary(folder.path()).problem.unwrap(), "record 6 was replaced: ends.json has another hash for it");
    drop(writer);
    drop(Writer::open(folder.path(), LARGE, NOW).unwrap());
    assert_eq!(starts(folder.path()).pop().unwrap().damage.unwrap(), "record 6 was replaced");
}

#[test]
fn a_damaged_log_is_kept_as_it_is_and_goes_on_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(folder.path(), LARGE, NOW).unwrap();
    write(&mut writer, 0..5, NOW);
    writer.sync().unwrap();
    let path = writer.segments.back().unwrap().path.clone();
    drop(writer);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let mut writer = Writer::open(folder.path(), LARGE, NOW).unwrap();
    write(&mut writer, 5..7, NOW);
    writer.sync().unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes, "evidence is not changed");
    assert!(starts(folder.path()).pop().unwrap().damage.unwrap().contains("is missing or damaged"));
    let found = summary(folder.path());
    assert!(found.problem.unwrap().contains("was changed"));
    assert_eq!(found.last, 9, "later records are read all the same");
}
