//! Archives of the audit log: old entries move to files, and the chain stays verifiable.

use crate::audit::{events, verify_chain};
use crate::command_line::{program, run, text};
use crate::support::{ADMIN, TestApp};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const AFTER: &str = "2026-02-01T00:00:00Z";

/// Runs `cedargate audit` with these arguments. Returns the exit code, standard output and standard error.
fn audit(app: &TestApp, arguments: &[&str]) -> (i32, String, String) {
    let settings = [("CEDARGATE_DATABASE_URL", app.url())];
    let output = run(app.directory(), &settings, &[&["audit"], arguments].concat());
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn archive(app: &TestApp, to: &Path) -> (i32, String, String) {
    audit(app, &["archive", "--before", AFTER, "--to", to.to_str().unwrap()])
}

/// Verifies the log together with these archive files.
fn verify(app: &TestApp, files: &[PathBuf], more: &[&str]) -> (i32, String, String) {
    let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    let archive: &[&str] = if files.is_empty() { &[] } else { &["--archive"] };
    audit(app, &[&["verify"], more, archive, &files].concat())
}

/// The archive files in a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Logs in `times` times, which appends as many entries.
async fn log_in(app: &TestApp, times: usize) {
    for _ in 0..times {
        app.log_in(ADMIN).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_entries_move_to_files_and_the_chain_stays_verifiable() {
    let app = TestApp::start().await;
    let directory = tempfile::tempdir().unwrap();
    log_in(&app, 4).await;
    let early = verify_chain(&app).await;
    log_in(&app, 3).await;
    let old = verify_chain(&app).await;
    assert_eq!(old.seq, 10);

    let (code, printed, error) = archive(&app, directory.path());
    assert_eq!(code, 0, "{error}");
    let first = files(directory.path());
    assert_eq!(first.len(), 1, "{first:?}");
    assert!(printed.contains(first[0].file_name().unwrap().to_str().unwrap()), "{printed}");
    // The newest entry stays, since the next one continues it. The archiving is an entry itself.
    assert_eq!(app.count("SELECT COUNT(*) FROM audit").await, 2);
    assert_eq!(app.count("SELECT MIN(seq) FROM audit").await, 10);
    let (code, printed, faults) = verify(&app, &[], &[]);
    assert_eq!((code, &*faults), (0, ""), "{printed}");
    assert!(printed.starts_with("2 entries after entry 9"), "{printed}");
    let (code, printed, faults) = verify(&app, &first, &["--head", &early.to_string()]);
    assert_eq!((code, &*faults), (0, ""));
    assert!(printed.starts_with("11 entries, head 11:"), "{printed}");
    // The head of an archived entry cannot be compared without the files.
    let (code, _, faults) = verify(&app, &[], &["--head", &early.to_string()]);
    assert_eq!((code, faults.contains("is archived")), (3, true), "{faults}");

    // The next archive continues the first one, which is not needed to verify it.
    app.clock.advance(1_000);
    log_in(&app, 3).await;
    let later = directory.path().join("later");
    std::fs::create_dir(&later).unwrap();
    let archive_all = ["archive", "--before", "2100-01-01T00:00:00Z", "--to", later.to_str().unwrap()];
    let (code, _, error) = audit(&app, &archive_all);
    assert_eq!(code, 0, "{error}");
    let second = files(&later);
    let all = [first.clone(), second.clone()].concat();
    for files in [&[] as &[PathBuf], &second, &all] {
        let (code, _, faults) = verify(&app, files, &[]);
        assert_eq!((code, &*faults), (0, ""), "{files:?}");
    }
    let (code, _, faults) = verify(&app, &first, &[]);
    assert_eq!((code, faults.contains("are missing")), (3, true), "{faults}");
    let events = events(&app.admin().await, "event=audit.archived").await;
    assert_eq!(events.last().unwrap()["credential"], "terminal");
    let early = ["archive", "--before", "2026-01-01T00:00:00Z", "--to", directory.path().to_str().unwrap()];
    let (code, printed, _) = audit(&app, &early);
    assert_eq!((code, printed.contains("no entries before")), (0, true), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_or_missing_archive_file_is_detected() {
    let app = TestApp::start().await;
    let directory = tempfile::tempdir().unwrap();
    log_in(&app, 4).await;
    assert_eq!(archive(&app, directory.path()).0, 0);
    let archived = files(directory.path());
    let original = std::fs::read_to_string(&archived[0]).unwrap();
    let lines: Vec<&str> = original.lines().collect();
    let joined = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    for (what, changed, expected_fault) in [
        (
            "a changed entry",
            original.replacen("organization.created", "organization.deleted", 1),
            "was changed",
        ),
        ("a removed entry", joined(&[&lines[..2], &lines[3..]].concat()), "is missing"),
        ("no last entry", joined(&lines[..lines.len() - 1]), "its header says"),
        ("a torn line", original.trim_end().to_owned(), "incomplete"),
        ("another file", "{}\n".to_owned(), "not an archive"),
        ("an empty file", String::new(), "not an archive"),
    ] {
        assert_ne!(changed, original, "{what}");
        std::fs::write(&archived[0], changed).unwrap();
        let (code, _, faults) = verify(&app, &archived, &[]);
        assert_eq!((code, faults.contains(expected_fault)), (3, true), "{what}: {faults}");
        assert!(
            faults.contains("records no archive with the SHA-256") || expected_fault == "not an archive",
            "{what}: {faults}"
        );
    }
    std::fs::write(&archived[0], original).unwrap();
    assert_eq!(verify(&app, &archived, &[]).0, 0);
    std::fs::remove_file(&archived[0]).unwrap();
    assert_eq!(verify(&app, &archived, &[]).0, 3);
}

/// Whether the database rejects a statement because of a trigger.
async fn is_refused(app: &TestApp, statement: &str) -> bool {
    let connection = sea_orm::Database::connect(app.url()).await.unwrap();
    let done = sea_orm::ConnectionTrait::execute_unprepared(&connection, statement).await;
    connection.close().await.unwrap();
    done.is_err_and(|error| {
        let error = error.to_string();
        error.contains("append-only") || error.contains("must continue the previous one")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_deletes_archived_entries_only() {
    let app = TestApp::start().await;
    let directory = tempfile::tempdir().unwrap();
    log_in(&app, 4).await;
    let insert = |first: i64, last: i64, hash: &str| {
        format!("INSERT INTO audit_archives VALUES ({last}, {first}, {hash}, 'f', 'd', 0)")
    };
    let hash = |seq: i64| format!("(SELECT hash FROM audit WHERE seq = {seq})");
    for statement in [
        "DELETE FROM audit WHERE seq = 1".to_owned(),
        // An archive that does not begin with the oldest entry, has another hash, or includes the newest entry.
        insert(2, 3, &hash(3)),
        insert(1, 3, "'0'"),
        insert(1, 7, &hash(7)),
        insert(1, 0, &hash(1)),
    ] {
        assert!(is_refused(&app, &statement).await, "{statement}");
    }
    assert_eq!(archive(&app, directory.path()).0, 0);
    for statement in [
        "DELETE FROM audit",
        "DELETE FROM audit WHERE seq = 8",
        "UPDATE audit SET event = 'x'",
        "UPDATE audit_archives SET last_seq = 100",
        "DELETE FROM audit_archives",
        &insert(1, 7, &hash(7)),
        &insert(8, 8, &hash(8)),
    ] {
        assert!(is_refused(&app, statement).await, "{statement}");
    }
    assert_eq!(verify(&app, &files(directory.path()), &[]).0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_deleted_without_the_archive_command_are_detected() {
    let app = TestApp::start().await;
    log_in(&app, 4).await;
    app.sql("INSERT INTO audit_archives VALUES (3, 1, (SELECT hash FROM audit WHERE seq = 3), 'f', 'd', 0)")
        .await;
    app.sql("DELETE FROM audit WHERE seq <= 3").await;
    let (code, _, faults) = verify(&app, &[], &[]);
    assert_eq!((code, faults.contains("no entry audit.archived confirms")), (3, true), "{faults}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_archive_after_the_export_loses_nothing_and_can_be_retried() {
    let app = TestApp::start().await;
    let directory = tempfile::tempdir().unwrap();
    log_in(&app, 4).await;
    let head = verify_chain(&app).await;
    // The file is written, and the transaction that would delete its entries fails.
    app.sql("ALTER TABLE audit_archives ADD COLUMN fails text NOT NULL DEFAULT 'x' CHECK (fails = 'y')")
        .await;
    let (code, ..) = archive(&app, directory.path());
    assert_eq!(code, 1);
    assert_eq!(files(directory.path()).len(), 1, "no temporary file remains");
    assert_eq!(verify_chain(&app).await, head);
    app.sql("ALTER TABLE audit_archives DROP COLUMN fails").await;
    let (code, _, error) = archive(&app, directory.path());
    assert_eq!(code, 0, "{error}");
    assert_eq!(files(directory.path()).len(), 1);
    assert_eq!(verify(&app, &files(directory.path()), &["--head", &head.to_string()]).0, 0);
    // A damaged log is not archived, because verification of the log alone would then no longer find the damage.
    let damaged = TestApp::start().await;
    log_in(&damaged, 4).await;
    let trigger = if damaged.postgres().is_some() { "audit_append_only ON audit" } else { "audit_no_update" };
    damaged.sql(&format!("DROP TRIGGER {trigger}")).await;
    damaged.sql("UPDATE audit SET address = '192.0.2.1' WHERE seq = 2").await;
    let (code, _, error) = archive(&damaged, directory.path());
    assert_eq!((code, error.contains("entry 2 was changed")), (3, true), "{error}");
    assert_eq!(damaged.count("SELECT COUNT(*) FROM audit").await, 7);
    assert_eq!(files(directory.path()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_archives_lose_nothing() {
    let app = TestApp::start().await;
    let directory = tempfile::tempdir().unwrap();
    log_in(&app, 9).await;
    let total = verify_chain(&app).await.seq;
    let settings = [("CEDARGATE_DATABASE_URL", app.url())];
    let children: Vec<_> = (0..4)
        .map(|_| {
            let mut command = program(app.directory(), &settings);
            command.args(["audit", "archive", "--before", AFTER, "--to"]).arg(directory.path());
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let outputs: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    assert!(outputs.iter().any(|output| output.status.success()), "{outputs:?}");
    let (code, printed, faults) = verify(&app, &files(directory.path()), &[]);
    assert_eq!((code, &*faults), (0, ""), "{printed}");
    let mut seqs = BTreeSet::new();
    for file in files(directory.path()) {
        for line in std::fs::read_to_string(file).unwrap().lines().skip(1) {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(seqs.insert(entry["seq"].as_i64().unwrap()));
        }
    }
    // An archive that began after another had ended includes the entry that was the newest one before.
    let last = i64::try_from(seqs.len()).unwrap();
    assert!(seqs.into_iter().eq(1..=last) && (total - 1..=total).contains(&last));
}
