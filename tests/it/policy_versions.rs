//! The archive of policy versions: what it records, how it is bounded, and the commands that read it.

use crate::command_line::{run, text};
use crate::policy_reload::{RELOAD, policy_status, read, scan, use_guarded_reload, version};
use crate::reload::PolicyFiles;
use crate::support::{Client, TestApp};
use cedargate::application::policy_reload::{self as reload, Trigger};
use cedargate::authz::Scope;
use cedargate::config::{Config, PolicyReload};
use cedargate::server::App;
use cedargate::store::AuditActor;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use tokio::task::block_in_place;

const VERSIONS: &str = "/v2/policies/versions";

/// A forbid that no shipped policy needs.
const FORBID: &str = "@id(\"extra\")\n@doc(\"Nobody lists forms.\")\nforbid (principal, action == Action::\"listForms\", resource);";

async fn list(client: &Client, query: &str) -> Vec<Value> {
    client.get(&format!("{VERSIONS}{query}")).await.expect(StatusCode::OK).as_array().unwrap().clone()
}

async fn detail(client: &Client, version: &str) -> Value {
    client.get(&format!("{VERSIONS}/{version}")).await.expect(StatusCode::OK)
}

fn triggers(detail: &Value) -> Vec<(&str, &Value, &Value)> {
    let activations = detail["activations"].as_array().unwrap().iter();
    activations
        .map(|entry| (entry["trigger"].as_str().unwrap(), &entry["actor"], &entry["credential"]))
        .collect()
}

/// The settings with which a command finds the database and the policies of a service.
fn settings(app: &TestApp) -> Vec<(&'static str, String)> {
    let paths = |paths: &[std::path::PathBuf]| {
        paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(",")
    };
    vec![
        ("CEDARGATE_DATABASE_URL", app.url().to_owned()),
        ("CEDARGATE_POLICIES", paths(&app.config.policies)),
        ("CEDARGATE_SCHEMA", paths(&app.config.schema)),
    ]
}

/// Runs a command of the binary, and returns its exit code, standard output and standard error.
fn command(directory: &Path, settings: &[(&str, String)], arguments: &[&str]) -> (i32, String, String) {
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let output = block_in_place(|| run(directory, &settings, arguments));
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_active_version_is_kept_with_its_files_and_its_activations() {
    let files = PolicyFiles::new();
    files.write("policies/extra.cedar", FORBID);
    std::fs::create_dir(files.path("policies/claims")).unwrap();
    files.write("policies/claims/one.cedar", FORBID);
    let app = files.serve_with(use_guarded_reload).await;
    let admin = app.admin().await;
    let first = version(&admin).await;
    assert_eq!(first.len(), 64);
    let found = detail(&admin, &first).await;
    assert_eq!((found["version"].as_str(), &found["isActive"]), (Some(&*first), &json!(true)));
    assert_eq!(triggers(&found), [("start", &Value::Null, &Value::Null)]);
    let kinds = ["schema", "policies", "data", "claims"];
    for file in found["files"].as_array().unwrap() {
        assert!(kinds.contains(&file["kind"].as_str().unwrap()), "{file}");
        let on_disk = std::fs::read_to_string(file["path"].as_str().unwrap()).unwrap();
        assert_eq!(file["text"], on_disk.as_str());
    }
    let count = found["files"].as_array().unwrap().len();
    assert_eq!((&found["fileCount"], found["bytes"].as_i64().unwrap() > 1000), (&json!(count), true));

    // By the periodic scan.
    files.write("policies/extra.cedar", &format!("{FORBID}\n"));
    app.clock.advance(1_000);
    for _ in 0..2 {
        scan(&app).await.unwrap();
    }
    let second = version(&admin).await;
    assert_eq!(triggers(&detail(&admin, &second).await), [("poll", &Value::Null, &Value::Null)]);
    assert_eq!(detail(&admin, &first).await["isActive"], false);

    // By a request, and back by a signal.
    files.write("policies/extra.cedar", FORBID);
    app.clock.advance(1_000);
    admin.post(RELOAD, json!({})).await.expect(StatusCode::OK);
    let (admin_id, session) = (json!(admin.id), json!("session"));
    let found = detail(&admin, &first).await;
    assert_eq!(triggers(&found), [("request", &admin_id, &session), ("start", &Value::Null, &Value::Null)]);
    files.write("policies/extra.cedar", &format!("{FORBID}\n"));
    app.clock.advance(1_000);
    let actor = AuditActor::service(app.clock.now());
    reload::reload(Arc::clone(&app.state), actor, Trigger::Signal).await.unwrap();
    let found = detail(&admin, &second[..8]).await;
    assert_eq!(found["version"], second.as_str());
    assert_eq!(triggers(&found).iter().map(|entry| entry.0).collect::<Vec<_>>(), ["signal", "poll"]);

    // By a confirmation with a part of the version.
    std::fs::remove_file(files.path("policies/extra.cedar")).unwrap();
    admin.post(RELOAD, json!({})).await.expect_problem(409, "confirmation_required");
    let pending = policy_status(&admin).await["pending"]["version"].as_str().unwrap().to_owned();
    assert_eq!(list(&admin, &format!("?version={pending}")).await, [] as [Value; 0], "it is not active yet");
    app.clock.advance(1_000);
    admin.post(RELOAD, json!({ "version": &pending[..8] })).await.expect(StatusCode::OK);
    assert_eq!(triggers(&detail(&admin, &pending).await), [("request", &admin_id, &session)]);

    let versions = |all: &[Value]| all.iter().map(|one| one["version"].clone()).collect::<Vec<_>>();
    assert_eq!(versions(&list(&admin, "").await), [&*first, &*second, &*pending]);
    assert_eq!(versions(&list(&admin, "?sort=-lastActivatedAt").await), [&*pending, &*second, &*first]);
    let printed = command(app.directory(), &settings(&app), &["policy", "versions", "--format", "json"]).1;
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), json!(list(&admin, "").await));
    let page = admin.get(&format!("{VERSIONS}?limit=2")).await;
    assert_eq!((page.header("x-total-count"), page.header("link").contains("offset=2")), ("3", true));
    assert_eq!(versions(&list(&admin, "?trigger=signal").await), [&*second]);
    let stored = app.count("SELECT COUNT(*) FROM policy_version_files").await;
    assert_eq!(stored, i64::try_from(3 * count - 1).unwrap(), "the files of a version are stored once");
}

#[tokio::test]
async fn a_restart_and_a_second_process_with_the_same_version_add_no_activation() {
    let files = PolicyFiles::new();
    let app = files.serve_with(use_guarded_reload).await;
    let admin = app.admin().await;
    let _other = app.start_replica(|_| ()).await;
    let active = version(&admin).await;
    assert_eq!(detail(&admin, &active).await["activations"].as_array().unwrap().len(), 1);
    files.write("policies/extra.cedar", FORBID);
    let other = app.start_replica(|_| ()).await;
    for _ in 0..2 {
        scan(&app).await.unwrap();
    }
    let second = version(&admin).await;
    assert_eq!(second, other.state.policies.current().bundle().version());
    assert_eq!(triggers(&detail(&admin, &second).await), [("start", &Value::Null, &Value::Null)]);
}

#[tokio::test]
async fn the_versions_that_were_active_longest_ago_are_deleted() {
    let files = PolicyFiles::new();
    let app = files
        .serve_with(|config| {
            config.policy_versions_kept = 2;
            config.policy_reload = PolicyReload::Auto;
        })
        .await;
    let admin = app.admin().await;
    let mut versions = vec![version(&admin).await];
    let original = read(&files, "policies/tenancy.cedar");
    for number in 1..4 {
        files.write("policies/tenancy.cedar", &format!("// {number}\n{original}"));
        app.clock.advance(1_000);
        admin.post(RELOAD, json!({})).await.expect(StatusCode::OK);
        versions.push(version(&admin).await);
        // Not the oldest, but the one that was active longest ago.
        if number == 2 {
            files.write("policies/tenancy.cedar", &format!("// 1\n{original}"));
            app.clock.advance(1_000);
            admin.post(RELOAD, json!({})).await.expect(StatusCode::OK);
        }
    }
    let kept: Vec<Value> = list(&admin, "").await.iter().map(|one| one["version"].clone()).collect();
    assert_eq!(kept, [&*versions[1], &*versions[3]]);
    for deleted in [&versions[0], &versions[2]] {
        admin.get(&format!("{VERSIONS}/{deleted}")).await.expect_problem(404, "not_found");
    }
    for table in ["policy_versions", "policy_version_files", "policy_activations"] {
        let query = format!("SELECT COUNT(DISTINCT version) FROM {table}");
        assert_eq!(app.count(&query).await, 2, "{table}");
    }
}

#[tokio::test]
async fn only_admins_of_the_root_organization_read_the_versions() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let active = version(&admin).await;
    let (_, tenant) = app.tenant("acme").await;
    let bot = app.user(Scope::Bot).await;
    for client in [&tenant, &bot] {
        for path in [VERSIONS.to_owned(), format!("{VERSIONS}/{active}"), format!("{VERSIONS}/0123abcd")] {
            client.get(&path).await.expect_problem(403, "forbidden");
        }
    }
    for path in ["0123abcd", "xyz", &active[..7], &format!("{active}0")] {
        admin.get(&format!("{VERSIONS}/{path}")).await.expect_problem(404, "not_found");
    }
    for query in ["?sort=version", "?kind=start", "?trigger=later"] {
        admin.get(&format!("{VERSIONS}{query}")).await.expect_problem(400, "invalid_fields");
    }
    let insert = |version: &str| {
        format!(
            "INSERT INTO policy_versions SELECT '{version}', first_activated_at, files, bytes, last_activation + 7, \
             last_activated_at, \"trigger\", actor, credential FROM policy_versions"
        )
    };
    app.sql(&insert(&format!("{}{}", &active[..10], "0".repeat(54)))).await;
    let ambiguous = admin.get(&format!("{VERSIONS}/{}", &active[..8])).await;
    ambiguous.expect_problem(400, "ambiguous_version");
    admin.get(&format!("{VERSIONS}/{active}")).await.expect(StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_version_passes_the_check_with_the_same_version() {
    let files = PolicyFiles::new();
    std::fs::create_dir_all(files.path("policies/claims")).unwrap();
    files.write("policies/claims/one.cedar", FORBID);
    // A second policy directory, with a file of the same name.
    std::fs::create_dir(files.path("more")).unwrap();
    files.write("more/tenancy.cedar", &FORBID.replace("extra", "other"));
    let more = files.path("more");
    let app = files.serve_with(|config| config.policies.push(more)).await;
    let admin = app.admin().await;
    let active = version(&admin).await;
    let (directory, mut settings) = (app.directory(), settings(&app));
    let target = directory.join("export");
    let target = target.to_str().unwrap();

    let (code, listed, error) = command(directory, &settings, &["policy", "versions"]);
    assert!(
        code == 0 && listed.starts_with(&active[..12]) && listed.contains("start, active"),
        "{listed}{error}"
    );
    let (code, listed, error) = command(directory, &settings, &["policy", "versions", "--format", "json"]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap(), json!(list(&admin, "").await));
    let (code, shown, _) = command(directory, &settings, &["policy", "show", &active[..8]]);
    assert!(code == 0 && shown.contains(&active) && shown.contains("Nobody lists forms."), "{shown}");
    let (code, shown, error) =
        command(directory, &settings, &["policy", "show", &active, "--format", "json"]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), detail(&admin, &active).await);

    // The policies are lost: the commands read the database only.
    for name in ["policies", "more"] {
        std::fs::remove_dir_all(files.path(name)).unwrap();
    }
    let (code, exported, error) = command(directory, &settings, &["policy", "export", &active[..8], target]);
    assert!(code == 0 && exported.contains(&active[..12]), "{exported}{error}");
    for (name, value) in &mut settings {
        match *name {
            "CEDARGATE_SCHEMA" => *value = format!("{target}/schema"),
            "CEDARGATE_POLICIES" => *value = format!("{target}/policies,{target}/policies-2"),
            _ => {}
        }
    }
    let (code, checked, error) = command(directory, &settings, &["policy", "check"]);
    assert!(code == 0 && checked.contains(&active[..12]), "{checked}{error}");
    let config = Config {
        schema: vec![format!("{target}/schema").into()],
        policies: vec![format!("{target}/policies-2").into(), format!("{target}/policies").into()],
        ..app.config.clone()
    };
    let restored = App::open(&config, app.clock.clone()).await.unwrap();
    assert_eq!(restored.state.policies.current().bundle().version(), active);

    let (code, _, error) = command(directory, &settings, &["policy", "export", &active, target]);
    assert!(code == 1 && error.contains("is not empty"), "{error}");
    let elsewhere = directory.join("elsewhere");
    let elsewhere = elsewhere.to_str().unwrap();
    for (named, expected) in [("01234567", "no policy version"), ("0123456", "8 to 64 hex digits")] {
        let (code, _, error) = command(directory, &settings, &["policy", "export", named, elsewhere]);
        assert!(code == 1 && error.contains(expected) && !Path::new(elsewhere).exists(), "{error}");
    }
    app.sql("UPDATE policy_version_files SET text = 'changed' WHERE position = 0").await;
    let (code, _, error) = command(directory, &settings, &["policy", "export", &active, elsewhere]);
    assert!(code == 1 && error.contains("were changed") && !Path::new(elsewhere).exists(), "{error}");
}

/// The version that releases before the archive gave to the policy files: 16 digits, over names and texts.
fn legacy_version(files: &PolicyFiles) -> String {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for (directory, extension) in [("schema", "cedarschema"), ("policies", "cedar"), ("policies", "json")] {
        let entries = std::fs::read_dir(files.path(directory)).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|actual| actual == extension));
        // The record of the proof is no data file.
        paths.retain(|path| path.file_name().is_some_and(|name| name != "PROOF.json"));
        paths.sort();
        for path in paths {
            for part in [path.file_name().unwrap().as_encoded_bytes(), &std::fs::read(&path).unwrap()] {
                hash.update(&part.len().to_be_bytes());
                hash.update(part);
            }
        }
    }
    hex::encode(hash.finish())[..16].to_owned()
}

#[tokio::test]
async fn a_database_with_a_version_of_16_digits_is_upgraded_at_the_next_start() {
    let files = PolicyFiles::new();
    let app = files.serve_with(use_guarded_reload).await;
    let admin = app.admin().await;
    let active = version(&admin).await;
    let legacy = legacy_version(&files);
    // As an earlier release left it: the version in 16 digits, confirmed, and no archive.
    for table in ["policy_versions", "policy_activations", "policy_version_files"] {
        app.sql(&format!("DELETE FROM {table}")).await;
    }
    let set = format!("UPDATE policy_state SET version = '{legacy}'");
    app.sql(&set).await;
    // Every change would need a confirmation, so the version must be recognized.
    let restarted = app.start_replica(|config| config.policy_reload = PolicyReload::Manual).await;
    assert_eq!(restarted.state.policies.current().bundle().version(), active);
    assert_eq!(triggers(&detail(&admin, &active).await), [("start", &Value::Null, &Value::Null)]);
    let stored = format!("SELECT COUNT(*) FROM policy_state WHERE version = '{active}'");
    assert_eq!(app.count(&stored).await, 1);

    // A confirmation of an earlier release holds, too.
    let tenancy = read(&files, "policies/tenancy.cedar");
    std::fs::remove_file(files.path("policies/tenancy.cedar")).unwrap();
    let error = App::open(&app.config, app.clock.clone()).await.unwrap_err().to_string();
    assert!(error.contains(&format!("is not the version {} ", &active[..12])), "{error}");
    admin.post(RELOAD, json!({})).await.expect_problem(409, "confirmation_required");
    let pending = policy_status(&admin).await["pending"]["version"].as_str().unwrap().to_owned();
    admin.post(RELOAD, json!({ "version": pending })).await.expect(StatusCode::OK);
    files.write("policies/tenancy.cedar", &tenancy);
    admin.post(RELOAD, json!({})).await.expect(StatusCode::OK);
    std::fs::remove_file(files.path("policies/tenancy.cedar")).unwrap();
    assert!(App::open(&app.config, app.clock.clone()).await.is_err());
    let inventory = serde_json::to_string(restarted.state.policies.current().bundle().inventory()).unwrap();
    assert!(inventory.contains("tenancy"), "the forbid is what would be lost");
    let confirm = |inventory: &str| {
        format!(
            "UPDATE policy_state SET confirmed_version = '{}', confirmed_at = 0, confirmed_inventory = '{}'",
            legacy_version(&files),
            inventory.replace('\'', "''")
        )
    };
    let sources = cedargate::authz::Sources {
        schema: app.config.schema.clone(),
        policies: app.config.policies.clone(),
        stored: vec![],
    };
    let without = cedargate::authz::Bundle::read(&sources).unwrap();
    app.sql(&confirm(&serde_json::to_string(without.inventory()).unwrap())).await;
    assert!(App::open(&app.config, app.clock.clone()).await.is_ok());
}
