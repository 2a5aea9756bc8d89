//! Files that another program renames, deletes or truncates.

use super::*;

/// A log with a line, and what another program does to its file.
fn rotated_by(rotate: impl FnOnce(&Path)) -> (tempfile::TempDir, DecisionLog) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&settings(&path)).unwrap();
    put(&log, 1);
    while log.written() < 1 {
        std::thread::yield_now();
    }
    rotate(&path);
    (directory, log)
}

fn old(path: &Path) -> PathBuf {
    path.with_file_name("old")
}

#[test]
fn lines_go_to_the_file_that_has_the_name_now() {
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
        let (directory, log) = rotated_by(rotate);
        (2..=3).for_each(|number| put(&log, number));
        log.close();
        let path = directory.path().join("log");
        assert_eq!(numbers(&lines(&old(&path))), [1], "{name}");
        assert_eq!(numbers(&lines(&path)), [2, 3], "{name}");
        assert_eq!((log.written(), log.dropped()), (3, 0), "{name}");
    }
}

#[test]
fn a_deleted_file_is_created_again() {
    let (directory, log) = rotated_by(|path| std::fs::remove_file(path).unwrap());
    put(&log, 2);
    log.close();
    assert_eq!(numbers(&lines(&directory.path().join("log"))), [2]);
}

#[test]
fn where_the_file_cannot_be_opened_again_the_lines_go_on_in_the_old_one() {
    let (directory, log) = rotated_by(|path| {
        std::fs::rename(path, old(path)).unwrap();
        std::fs::create_dir(path).unwrap();
    });
    put(&log, 2);
    log.close();
    assert_eq!(numbers(&lines(&directory.path().join("old"))), [1, 2]);
    assert_eq!(log.dropped(), 0);
}

#[test]
fn on_request_the_file_is_opened_again_though_nothing_is_written() {
    let (directory, log) = rotated_by(|path| std::fs::rename(path, old(path)).unwrap());
    log.reopen();
    let path = directory.path().join("log");
    while !path.exists() {
        std::thread::yield_now();
    }
    log.close();
    assert_eq!(numbers(&lines(&path)), [] as [u64; 0]);
}
