//! How policy files are read: scans of changing files, hidden files, encodings, damaged files and lost policy tests.

use crate::policy_reload::{
    MORE, RELOAD, lossy_files, policy_status, read, scan, start_error, use_guarded_reload, version,
    write_case,
};
use crate::reload::PolicyFiles;
use crate::support::Client;
use cedargate::application::policy_reload::{self, LastConfirmation, ReloadOutcome};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::path::Path;

#[tokio::test]
async fn a_change_is_considered_when_two_scans_find_the_same_content() {
    let files = PolicyFiles::new();
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("current");
    std::os::unix::fs::symlink(files.path("policies"), &link).unwrap();
    let app = files
        .serve_with(|config| {
            use_guarded_reload(config);
            config.policies = vec![link.clone()];
        })
        .await;
    let admin = app.admin().await;
    let first = version(&admin).await;
    // Each scan finds other bytes with the same name, size and modification time.
    let written = files.path("policies/more.cedar");
    let write = |text: &str| {
        std::fs::write(&written, text).unwrap();
        std::fs::File::options()
            .append(true)
            .open(&written)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
    };
    for text in [MORE.to_owned(), MORE.replace("more", "morf"), MORE.replace("more", "morg")] {
        write(&text);
        scan(&app).await.unwrap();
        assert_eq!(version(&admin).await, first);
    }
    assert_eq!(scan(&app).await.unwrap(), ReloadOutcome::Active(true));
    let policies = policy_status(&admin).await["policies"].clone();
    assert!(policies.as_array().unwrap().iter().any(|policy| policy["id"] == "morg"), "{policies}");

    // The link leads to another directory, whose file differs only in its bytes.
    let second = version(&admin).await;
    let other = directory.path().join("other");
    std::fs::create_dir(&other).unwrap();
    for entry in std::fs::read_dir(files.path("policies")).unwrap() {
        let path = entry.unwrap().path();
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        let text = std::fs::read_to_string(&path).unwrap().replace("morg", "morh");
        let copy = other.join(path.file_name().unwrap());
        std::fs::write(&copy, text).unwrap();
        std::fs::File::options().append(true).open(&copy).unwrap().set_modified(modified).unwrap();
    }
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&other, &link).unwrap();
    for _ in 0..2 {
        scan(&app).await.unwrap();
    }
    assert_ne!(version(&admin).await, second);
}

#[tokio::test]
async fn hidden_files_are_ignored_and_a_byte_order_mark_and_crlf_are_accepted() {
    let files = PolicyFiles::new();
    write_case(&files);
    let app = files.serve_with(use_guarded_reload).await;
    for hidden in ["._tenancy.cedar", ".tenancy.cedar.swp", ".scopes.json", "cases/._one.json"] {
        std::fs::write(files.path("policies").join(hidden), b"\0\x05\x16\x07\xff forbid").unwrap();
    }
    std::fs::write(files.path("schema/._cedargate.cedarschema"), b"\xff").unwrap();
    assert_eq!(scan(&app).await.unwrap(), ReloadOutcome::Active(false));
    assert_eq!(scan(&app).await.unwrap(), ReloadOutcome::Active(false));
    let admin = app.admin().await;
    let before = version(&admin).await;
    let names = [
        "policies/tenancy.cedar",
        "policies/scopes.json",
        "policies/cases/one.json",
        "schema/cedargate.cedarschema",
    ];
    for name in names {
        let text = format!("\u{feff}{}", read(&files, name).replace('\n', "\r\n"));
        files.write(name, &text);
    }
    let reloaded = admin.post(RELOAD, json!({})).await.expect(StatusCode::OK);
    assert_ne!(reloaded["version"], before.as_str());
    assert_eq!(start_error(&app.config, &app).await, None);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named() {
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 3] = [
        ("a link that leads nowhere", |path| std::os::unix::fs::symlink("nowhere", path).unwrap()),
        ("a directory", |path| std::fs::create_dir(path).unwrap()),
        ("not text", |path| std::fs::write(path, b"\xff\xfe").unwrap()),
    ];
    let files = PolicyFiles::new();
    let app = files.serve_with(use_guarded_reload).await;
    for (what, damage) in damages {
        damage(&files.path("policies/more.cedar"));
        let error =
            start_error(&app.config, &app).await.unwrap_or_else(|| panic!("{what}: the service has started"));
        assert!(error.contains("more.cedar"), "{what}: {error}");
        let path = files.path("policies/more.cedar");
        if path.is_dir() { std::fs::remove_dir(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }
}

#[tokio::test]
async fn a_confirmation_covers_only_the_policy_tests_that_the_files_had() {
    let files = lossy_files();
    let app = files.serve_with(use_guarded_reload).await;
    let admin = app.admin().await;
    let confirm = async || {
        admin.post(RELOAD, json!({})).await.expect_problem(409, "confirmation_required");
        let pending = policy_status(&admin).await["pending"]["version"].clone();
        admin.post(RELOAD, json!({ "version": pending })).await.expect(StatusCode::OK);
    };
    std::fs::remove_file(files.path("policies/more.cedar")).unwrap();
    confirm().await;
    assert_eq!(start_error(&app.config, &app).await, None);
    let confirmed = version(&admin).await;

    // The version stays the same: it does not cover the policy tests.
    let other = app.start_replica(|_| ()).await;
    let at_other = Client { base: other.base.clone(), ..admin.clone() };
    std::fs::remove_file(files.path("policies/cases/one.json")).unwrap();
    for process in [&app, &other] {
        for _ in 0..2 {
            scan(process).await.unwrap();
        }
    }
    for client in [&admin, &at_other] {
        let pending = &policy_status(client).await["pending"];
        assert_eq!(
            (&pending["version"], &pending["lostFiles"]),
            (&json!(confirmed), &json!(["cases/one.json"]))
        );
    }
    let error = start_error(&app.config, &app).await.unwrap();
    assert!(error.contains("is incomplete") && error.contains("cases/one.json"), "{error}");

    confirm().await;
    policy_reload::apply_confirmations(&other.state, &mut LastConfirmation::default()).await;
    for client in [&admin, &at_other] {
        assert_eq!(policy_status(client).await["pending"], Value::Null);
    }
    assert_eq!(start_error(&app.config, &app).await, None);
}
