//! Tests that a process killed during its writes loses no acknowledged write.

use store::SledStore;

use crate::writer::{Work, Writer, check};

#[test]
fn a_killed_process_loses_nothing_it_had_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut begin = 0;
    for round in 0..12 {
        let mut writer = Writer::start(folder.path(), begin, Work::Both);
        // From the first writes to some hundreds, to test the times between.
        writer.wait_for(1 + round * 37);
        // The writer has the store locked: no other process can open it, and nothing is set aside.
        let refused = SledStore::open(&folder.path().join("store")).unwrap_err();
        assert!(refused.is_locked(), "{refused}");
        let acknowledged = writer.kill();
        begin = check(folder.path(), &acknowledged, Work::Both);
    }
}
