//! The hash chain of the audit log: concurrent writers extend one chain, entries cannot be changed, and tampering is detected.

use crate::audit::{events, sid, verify_chain};
use crate::command_line::run;
use crate::refresh::{refresh, refresh_token};
use crate::support::{ADMIN, TestApp};
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_append_to_one_chain() {
    const WRITERS: usize = 50;
    let app = TestApp::start_with(|config| config.database_connections = 8).await;
    let other = match app.postgres() {
        Some(_) => app.start_replica(|_| ()).await,
        None => app.start_replica(|config| config.database_connections = 1).await,
    };
    let both = |index: usize| if index.is_multiple_of(2) { &app } else { &other };
    let before = verify_chain(&app).await.seq;
    let logins = join_all((0..WRITERS).map(|index| both(index).log_in(ADMIN))).await;
    assert_eq!(verify_chain(&app).await.seq - before, 50);
    // Logins from one address are serialized anyway. Refreshes of several sessions share nothing but the chain.
    for _ in 0..3 {
        let before = verify_chain(&app).await.seq;
        app.clock.advance(31_000);
        let logins = join_all((0..WRITERS).map(|index| both(index).log_in(ADMIN))).await;
        let refreshes = logins.iter().enumerate().map(async |(index, tokens)| {
            refresh(both(index), &refresh_token(tokens), ADMIN).await.expect(StatusCode::OK);
        });
        join_all(refreshes).await;
        assert_eq!(verify_chain(&app).await.seq - before, 100);
    }
    let sessions: BTreeSet<String> = logins.iter().map(sid).collect();
    let logged = events(&app.admin().await, "event=login.succeeded").await;
    let logged: BTreeSet<&str> = logged.iter().map(|one| one["credentialId"].as_str().unwrap()).collect();
    assert!(sessions.iter().all(|session| logged.contains(session.as_str())));
}

#[tokio::test]
async fn the_database_rejects_changes_of_entries() {
    let app = TestApp::start().await;
    for statement in
        ["UPDATE audit SET event = 'x' WHERE seq = 1", "DELETE FROM audit WHERE seq = 1", "DELETE FROM audit"]
    {
        let connection = sea_orm::Database::connect(app.url()).await.unwrap();
        let done = sea_orm::ConnectionTrait::execute_unprepared(&connection, statement).await;
        assert!(done.unwrap_err().to_string().contains("append-only"), "{statement}");
        connection.close().await.unwrap();
    }
    verify_chain(&app).await;
}

/// Drops the triggers that keep entries from being changed.
async fn drop_append_only_triggers(app: &TestApp) {
    let statements: &[&str] = match app.postgres() {
        Some(_) => &["DROP TRIGGER audit_append_only ON audit", "DROP TRIGGER audit_no_delete ON audit"],
        None => &["DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete"],
    };
    for statement in statements {
        app.sql(statement).await;
    }
}

#[tokio::test]
async fn every_manipulation_is_detected_and_described() {
    let app = TestApp::start().await;
    for _ in 0..6 {
        app.log_in(ADMIN).await;
    }
    let head = verify_chain(&app).await;
    assert_eq!(head.seq, 9);
    drop_append_only_triggers(&app).await;
    app.sql("CREATE TABLE kept AS SELECT * FROM audit").await;
    let restore = ["DELETE FROM audit", "INSERT INTO audit SELECT * FROM kept"];
    let changed = "entry 4 was changed: its hash does not match its content";
    let texts = [
        "event",
        "outcome",
        "actor",
        "credential",
        "credential_id",
        "target_type",
        "target",
        "organization",
        "path",
        "address",
        "request",
        "details",
    ];
    let mut cases: Vec<(String, Vec<String>)> = Vec::new();
    for column in texts {
        cases.push((format!("UPDATE audit SET {column} = 'x' WHERE seq = 4"), vec![changed.into()]));
        if !["event", "outcome", "details"].contains(&column) {
            cases.push((format!("UPDATE audit SET {column} = NULL WHERE seq = 4"), vec![changed.into()]));
        }
    }
    let other = "f".repeat(64);
    let follows = |seq: u8| {
        format!("entry {seq} does not follow entry {}: its previous hash is a different one", seq - 1)
    };
    cases.push(("UPDATE audit SET time = time + 1 WHERE seq = 4".into(), vec![changed.into()]));
    cases.push((
        format!("UPDATE audit SET previous = '{other}' WHERE seq = 4"),
        vec![follows(4), changed.into()],
    ));
    cases
        .push((format!("UPDATE audit SET hash = '{other}' WHERE seq = 4"), vec![changed.into(), follows(5)]));
    cases.push(("DELETE FROM audit WHERE seq = 4".into(), vec!["entry 4 is missing".into()]));
    cases.push(("DELETE FROM audit WHERE seq < 4".into(), vec!["entries 1 to 3 are missing".into()]));
    let moved = |seq: u8| changed.replace('4', &seq.to_string());
    cases.push((
        "UPDATE audit SET seq = 99 WHERE seq = 4; UPDATE audit SET seq = 4 WHERE seq = 5; UPDATE audit SET seq = 5 WHERE seq = 99"
            .into(),
        vec![follows(4), moved(4), follows(5), moved(5), follows(6)],
    ));
    cases.push((
        "UPDATE audit SET seq = 0 WHERE seq = 1".into(),
        vec![
            "entry 0 is out of place: the first entry is 1".into(),
            moved(1).replace("entry 1", "entry 0"),
            "entry 1 is missing".into(),
        ],
    ));
    for (statement, expected) in cases {
        app.sql(&statement).await;
        let found = app.state.store.verify_audit(Some(&head)).await.unwrap();
        assert_eq!(found.faults, expected, "{statement}");
        for statement in restore {
            app.sql(statement).await;
        }
        assert_eq!(verify_chain(&app).await, head);
    }
    // A truncated chain is consistent in itself. A head that was noted before detects it, and also a log that was rewritten.
    app.sql("DELETE FROM audit WHERE seq > 6").await;
    verify_chain(&app).await;
    let found = app.state.store.verify_audit(Some(&head)).await.unwrap();
    assert_eq!(
        found.faults,
        ["the audit log ends at entry 6, before the expected head 9: the last entries are missing"]
    );
    for _ in 0..3 {
        app.log_in(ADMIN).await;
    }
    assert_eq!(verify_chain(&app).await.seq, 9);
    let found = app.state.store.verify_audit(Some(&head)).await.unwrap();
    assert_eq!(found.faults, ["entry 9 was replaced: its hash does not match the expected head"]);
}

#[tokio::test]
async fn the_cli_verifies_the_chain_and_its_own_changes_are_logged() {
    let app = TestApp::start().await;
    let settings = [("CEDARGATE_DATABASE_URL", app.url())];
    let verify = |arguments: &[&str]| {
        let output = run(app.directory(), &settings, &[&["audit", "verify"], arguments].concat());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let head = verify_chain(&app).await;
    let (code, printed, _) = verify(&[]);
    assert_eq!((code, printed), (0, format!("3 entries, head {head}\n")));
    let added =
        run(app.directory(), &settings, &["user", "add", "--email", "ada@example.com", "--role", "bot"]);
    assert!(added.status.success());
    let added = run(
        app.directory(),
        &settings,
        &["key", "add", "--user", "ada@example.com", "--name", "n", "--scope", "bot"],
    );
    assert!(added.status.success());
    let new = events(&app.admin().await, "from=2026-02-01T00:00:00Z").await;
    let logged: Vec<_> = new.iter().map(|one| [&one["event"], &one["credential"], &one["actor"]]).collect();
    let by = |event: &str| [json!(event), json!("terminal"), Value::Null];
    assert_eq!(logged, [by("user.created").each_ref(), by("key.created").each_ref()]);
    let (code, ..) = verify(&["--head", &head.to_string()]);
    assert_eq!(code, 0);

    drop_append_only_triggers(&app).await;
    app.sql("UPDATE audit SET actor = NULL, address = '192.0.2.7' WHERE seq = 2").await;
    let (code, printed, faults) = verify(&["--head", &head.to_string()]);
    assert_eq!((code, printed.lines().count()), (3, 1));
    assert_eq!(faults, "entry 2 was changed: its hash does not match its content\n");
    app.sql("DELETE FROM audit WHERE seq > 1").await;
    let (code, _, faults) = verify(&["--head", &head.to_string()]);
    assert_eq!((code, faults.contains("the last entries are missing")), (3, true), "{faults}");
    let (code, _, error) = verify(&["--head", "2"]);
    assert_eq!((code, error.contains("64 hex digits")), (1, true), "{error}");
}
