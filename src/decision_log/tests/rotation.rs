//! Log files that another program renames, deletes or truncates.

use super::*;

/// A log with one line, after `rotate` was applied to its file.
fn log_after_rotation(rotate: impl FnOnce(&Path)) -> (tempfile::TempDir, DecisionLog) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&settings(&path)).unwrap();
    record_number(&log, 1);
    while log.written() < 1 {
        std::thread::yield_now();
    }
    rotate(&path);
    (directory, log)
}

/// The path to which the tests move the log.
fn old(path: &Path) -> PathBuf {
    path.with_file_name("old")
}

#[test]
fn lines_follow_an_external_rotation() {
    let rename = |path: &Path| std::fs::rename(path, old(path)).unwrap();
    let replace = |path: &Path| {
        std::fs::rename(path, old(path)).unwrap();
        std::fs::write(path, "").unwrap();
    };
    let copy_and_truncate = |path: &Path| {
        std::fs::copy(path, old(path)).unwrap();
        std::fs::File::create(path).unwrap();
    };
    for (name, rotate) in [
        ("rename", &rename as &dyn Fn(&Path)),
        ("replace", &replace),
        ("copy and truncate", &copy_and_truncate),
    ] {
        let (directory, log) = log_after_rotation(rotate);
        (2..=3).for_each(|number| record_number(&log, number));
        log.close();
        let path = directory.path().join("log");
        assert_eq!(numbers(&lines(&old(&path))), [1], "{name}");
        assert_eq!(numbers(&lines(&path)), [2, 3], "{name}");
        assert_eq!((log.written(), log.dropped()), (3, 0), "{name}");
    }
}

#[test]
fn a_deleted_file_is_recreated() {
    let (directory, log) = log_after_rotation(|path| std::fs::remove_file(path).unwrap());
    record_number(&log, 2);
    log.close();
    assert_eq!(numbers(&lines(&directory.path().join("log"))), [2]);
}

#[test]
fn writing_continues_in_the_old_file_when_reopening_fails() {
    let (directory, log) = log_after_rotation(|path| {
        std::fs::rename(path, old(path)).unwrap();
        std::fs::create_dir(path).unwrap();
    });
    record_number(&log, 2);
    log.close();
    assert_eq!(numbers(&lines(&directory.path().join("old"))), [1, 2]);
    assert_eq!(log.dropped(), 0);
}

#[test]
fn reopen_takes_effect_without_new_records() {
    let (directory, log) = log_after_rotation(|path| std::fs::rename(path, old(path)).unwrap());
    log.reopen();
    let path = directory.path().join("log");
    while !path.exists() {
        std::thread::yield_now();
    }
    log.close();
    assert_eq!(numbers(&lines(&path)), [] as [u64; 0]);
}
