//! Policy reloads: which changes become active, which need a confirmation, and which are rejected.

use crate::command_line::{client, run, text};
use crate::multi_process::{TIMEOUT, count, serve_with};
use crate::reload::PolicyFiles;
use crate::support::{Client, Database, PASSWORD, TestApp, project_file};
use cedargate::application::policy_reload::{self, LastConfirmation, ReloadError, ReloadOutcome, Trigger};
use cedargate::authz::Scope;
use cedargate::config::{Config, PolicyReload, PolicyTests};
use cedargate::server::App;
use cedargate::store::AuditActor;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;
use tokio::task::block_in_place;

/// A permit that no shipped policy needs, in its own file.
pub(crate) const MORE: &str = "@id(\"more\")\npermit (principal, action == Action::\"fetchForm\", resource);";

pub(crate) const RELOAD: &str = "/v2/policies/reload";

/// A forbid that no shipped policy needs.
const EXTRA: &str = "@id(\"extra\")\nforbid (principal, action == Action::\"listForms\", resource);";

pub(crate) fn use_guarded_reload(config: &mut Config) {
    config.policy_reload = PolicyReload::Guarded;
}

/// Runs a periodic scan of the files.
pub(crate) async fn scan(app: &TestApp) -> Result<ReloadOutcome, ReloadError> {
    trigger(app, Trigger::Scan).await
}

async fn trigger(app: &TestApp, trigger: Trigger) -> Result<ReloadOutcome, ReloadError> {
    policy_reload::reload(Arc::clone(&app.state), AuditActor::service(app.clock.now()), trigger).await
}

pub(crate) async fn policy_status(client: &Client) -> Value {
    client.get("/v2/policies").await.expect(StatusCode::OK)
}

pub(crate) async fn version(client: &Client) -> String {
    policy_status(client).await["version"].as_str().unwrap().to_owned()
}

pub(crate) fn read(files: &PolicyFiles, name: &str) -> String {
    std::fs::read_to_string(files.path(name)).unwrap()
}

/// Writes one of the shipped policy tests to `cases/one.json`: a guest does not list forms. Returns its name.
pub(crate) fn write_case(files: &PolicyFiles) -> String {
    let cases = std::fs::read_to_string(project_file("policies/cases/permission-table.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
    let denies_list_forms =
        |case: &&Value| case["request"]["action"] == "Action::\"listForms\"" && case["decision"] == "deny";
    let case = cases.iter().find(denies_list_forms).unwrap();
    std::fs::create_dir_all(files.path("policies/cases")).unwrap();
    files.write("policies/cases/one.json", &json!([case]).to_string());
    case["name"].as_str().unwrap().to_owned()
}

/// A permit with which that test fails.
const FORMS: &str = "@id(\"forms\")\npermit (principal, action == Action::\"listForms\", resource);";

/// A forbid that applies to every user, in its own file.
const OWN: &str = "@id(\"own\")\nforbid (principal is User, action == Action::\"listForms\", resource);";

/// A change that needs a confirmation: its name, how it changes the files, and the lost policies, changed policies and files.
type Loss = (&'static str, fn(&PolicyFiles), [&'static [&'static str]; 3]);

const LOSSES: [Loss; 7] = [
    (
        "a file is missing",
        |files| std::fs::remove_file(files.path("policies/own.cedar")).unwrap(),
        [&["own"], &[], &["own.cedar"]],
    ),
    ("a file is empty", |files| files.write("policies/own.cedar", ""), [&["own"], &[], &["own.cedar"]]),
    (
        "a file has only comments",
        |files| files.write("policies/own.cedar", &format!("// {}\n", OWN.replace('\n', " "))),
        [&["own"], &[], &["own.cedar"]],
    ),
    (
        "a forbid permits",
        |files| files.write("policies/own.cedar", &OWN.replace("forbid", "permit")),
        [&["own"], &[], &[]],
    ),
    (
        "a forbid has another condition",
        |files| {
            let weaker = OWN.replace(';', "\nunless { principal in Scope::\"admin\" };");
            files.write("policies/own.cedar", &weaker);
        },
        [&[], &["own"], &[]],
    ),
    (
        "a file of permits has disappeared",
        |files| std::fs::remove_file(files.path("policies/more.cedar")).unwrap(),
        [&[], &[], &["more.cedar"]],
    ),
    (
        "a policy test file is empty",
        |files| {
            files.write("policies/cases/one.json", "[]");
            files.write("policies/extra.cedar", EXTRA);
        },
        [&[], &[], &["cases/one.json"]],
    ),
];

/// The policy files to which these changes can be applied.
pub(crate) fn lossy_files() -> PolicyFiles {
    let files = PolicyFiles::new();
    write_case(&files);
    files.write("policies/own.cedar", OWN);
    files.write("policies/more.cedar", MORE);
    files
}

fn restore(files: &PolicyFiles) {
    write_case(files);
    files.write("policies/own.cedar", OWN);
    files.write("policies/more.cedar", MORE);
    let _ = std::fs::remove_file(files.path("policies/extra.cedar"));
}

#[tokio::test]
async fn a_version_that_loses_a_forbid_or_a_file_is_held_as_pending() {
    let files = lossy_files();
    let app = files.serve_with(use_guarded_reload).await;
    let admin = app.admin().await;
    let active = version(&admin).await;
    for (what, change, [lost, changed, lost_files]) in LOSSES {
        change(&files);
        for _ in 0..3 {
            scan(&app).await.unwrap();
            admin.get("/v2/forms").await.expect_problem(403, "forbidden");
        }
        let found = policy_status(&admin).await;
        assert_eq!(found["version"], active.as_str(), "{what}");
        let pending = &found["pending"];
        let losses = json!([pending["lostPolicies"], pending["changedPolicies"], pending["lostFiles"]]);
        assert_eq!(losses, json!([lost, changed, lost_files]), "{what}");
        let ready = app.anonymous().get("/health/ready").await.expect(StatusCode::OK);
        assert_eq!((&ready["ready"], &ready["policyPending"]), (&json!(true), pending), "{what}");
        let metrics = app.anonymous().get("/metrics").await.text;
        for name in lost.iter().chain(changed) {
            let sample = format!("policy=\"{name}\"}} 1");
            assert!(
                metrics
                    .lines()
                    .any(|line| line.starts_with("cedargate_policy_pending_losses{")
                        && line.ends_with(&sample)),
                "{what}"
            );
        }
        assert!(metrics.contains("\ncedargate_policy_pending 1\n"), "{what}");
        let refused = admin.post(RELOAD, json!({})).await;
        refused.expect_problem(409, "confirmation_required");
        for name in [lost, changed, lost_files].into_iter().flatten() {
            assert!(refused.json["detail"].as_str().unwrap().contains(name), "{what}: {}", refused.text);
        }
        // Once, regardless of how often the files are read.
        let held = admin.get("/v2/audit?event=policies.held&sort=-seq").await.expect(StatusCode::OK);
        assert_eq!(held[0]["details"]["version"], pending["version"], "{what}");

        restore(&files);
        for _ in 0..2 {
            scan(&app).await.unwrap();
        }
        let found = policy_status(&admin).await;
        assert_eq!((&found["version"], &found["pending"]), (&json!(active), &Value::Null), "{what}");
    }
    let held = admin.get("/v2/audit?event=policies.held").await.expect(StatusCode::OK);
    assert_eq!(held.as_array().unwrap().len(), LOSSES.len());
}

#[tokio::test]
async fn a_version_that_loses_nothing_needs_no_confirmation() {
    let files = PolicyFiles::new();
    let app = files.serve_with(use_guarded_reload).await;
    let admin = app.admin().await;
    let tenancy = read(&files, "policies/tenancy.cedar");
    for (name, text) in [
        ("policies/extra.cedar", EXTRA.to_owned()),
        ("policies/tenancy.cedar", format!("// Why.\n{}", tenancy.replace("@doc(\"", "@doc(\"In short: "))),
        ("policies/tenancy.cedar", tenancy.replace('\n', "\r\n")),
        (
            "policies/more.cedar",
            "@id(\"more\")\npermit (principal, action == Action::\"listForms\", resource);".into(),
        ),
        (
            "policies/more.cedar",
            "@id(\"less\")\npermit (principal, action == Action::\"fetchForm\", resource);".into(),
        ),
    ] {
        let before = version(&admin).await;
        files.write(name, &text);
        scan(&app).await.unwrap();
        assert_eq!(version(&admin).await, before, "one scan must not be enough: {name}");
        assert_eq!(scan(&app).await.unwrap(), ReloadOutcome::Active(true), "{name}: {text}");
        assert_ne!(version(&admin).await, before, "{name}");
    }
}

#[tokio::test]
async fn a_confirmation_names_the_version_and_is_audited() {
    let files = PolicyFiles::new();
    let app = files.serve_with(use_guarded_reload).await;
    let admin = app.admin().await;
    let (_, tenant) = app.tenant("acme").await;
    std::fs::remove_file(files.path("policies/tenancy.cedar")).unwrap();
    admin.post(RELOAD, json!({})).await.expect_problem(409, "confirmation_required");
    let found = policy_status(&admin).await;
    let (active, pending) = (&found["version"], found["pending"]["version"].clone());

    let wrong = admin.post(RELOAD, json!({ "version": active })).await;
    wrong.expect_problem(409, "policy_version_mismatch");
    let digits = pending.as_str().unwrap();
    assert!(wrong.text.contains(&digits[..12]), "{}", wrong.text);
    let wrong = admin.post(RELOAD, json!({ "version": &active.as_str().unwrap()[..8] })).await;
    wrong.expect_problem(409, "policy_version_mismatch");
    for malformed in [&digits[..7], "0123456g", &format!("{digits}0")] {
        let refused = admin.post(RELOAD, json!({ "version": malformed })).await;
        refused.expect_problem(400, "invalid_fields");
    }
    admin.post(RELOAD, json!({ "versoin": pending })).await.expect_problem(400, "invalid_fields");
    tenant.post(RELOAD, json!({ "version": pending })).await.expect_problem(403, "forbidden");
    let bot = app.user(Scope::Bot).await;
    bot.post(RELOAD, json!({ "version": pending })).await.expect_problem(403, "forbidden");
    assert_eq!(&policy_status(&admin).await["version"], active);

    let confirmed = admin.post(RELOAD, json!({ "version": pending })).await.expect(StatusCode::OK);
    assert_eq!(confirmed, json!({ "changed": true, "version": pending }));
    assert!(policy_status(&admin).await["pending"].is_null());
    let events = admin.get("/v2/audit?event=policies.confirmed").await.expect(StatusCode::OK);
    assert_eq!(events.as_array().unwrap().len(), 1, "{events}");
    let event = &events[0];
    assert_eq!((&event["actor"], &event["details"]["version"]), (&json!(admin.id), &pending), "{event}");
    assert!(event["details"]["losses"].as_str().unwrap().contains("tenancy"), "{event}");
}

#[tokio::test]
async fn a_confirmation_holds_for_every_process_until_another_version_is_active() {
    let files = PolicyFiles::new();
    let app = files.serve_with(use_guarded_reload).await;
    let other = app.start_replica(|_| ()).await;
    let admin = app.admin().await;
    let at_other = Client { base: other.base.clone(), ..admin.clone() };
    let tenancy = read(&files, "policies/tenancy.cedar");
    let first = version(&admin).await;
    let mut followed = LastConfirmation::default();
    for _ in 0..2 {
        std::fs::remove_file(files.path("policies/tenancy.cedar")).unwrap();
        for _ in 0..2 {
            for process in [&app, &other] {
                scan(process).await.unwrap();
            }
        }
        // The version was active before, and needs a confirmation nevertheless.
        let pending = policy_status(&at_other).await["pending"]["version"].as_str().unwrap().to_owned();
        policy_reload::apply_confirmations(&other.state, &mut followed).await;
        assert_eq!(version(&at_other).await, first);
        admin.post(RELOAD, json!({ "version": pending })).await.expect(StatusCode::OK);
        policy_reload::apply_confirmations(&other.state, &mut followed).await;
        assert_eq!([version(&admin).await, version(&at_other).await], [pending.as_str(), pending.as_str()]);

        files.write("policies/tenancy.cedar", &tenancy);
        for _ in 0..2 {
            for process in [&app, &other] {
                scan(process).await.unwrap();
            }
        }
        assert_eq!([version(&admin).await, version(&at_other).await], [first.as_str(), first.as_str()]);
    }
}

#[tokio::test]
async fn a_confirmed_version_is_activated_where_its_files_arrive_later() {
    let (files, late) = (PolicyFiles::new(), PolicyFiles::new());
    let app = files.serve_with(use_guarded_reload).await;
    let other = app.start_replica(|config| config.policies = vec![late.path("policies")]).await;
    let admin = app.admin().await;
    std::fs::remove_file(files.path("policies/tenancy.cedar")).unwrap();
    admin.post(RELOAD, json!({})).await.expect_problem(409, "confirmation_required");
    let pending = policy_status(&admin).await["pending"]["version"].as_str().unwrap().to_owned();
    admin.post(RELOAD, json!({ "version": pending })).await.expect(StatusCode::OK);
    policy_reload::apply_confirmations(&other.state, &mut LastConfirmation::default()).await;
    let at_other = Client { base: other.base.clone(), ..admin };
    assert_ne!(version(&at_other).await, pending);
    std::fs::remove_file(late.path("policies/tenancy.cedar")).unwrap();
    for _ in 0..2 {
        scan(&other).await.unwrap();
    }
    assert_eq!(version(&at_other).await, pending);
}

#[tokio::test]
async fn the_reload_mode_determines_which_changes_need_a_confirmation() {
    for mode in [PolicyReload::Guarded, PolicyReload::Auto, PolicyReload::Manual] {
        let files = PolicyFiles::new();
        let app = files.serve_with(|config| config.policy_reload = mode).await;
        let admin = app.admin().await;
        let is_manual = mode == PolicyReload::Manual;
        let is_held = async || !policy_status(&admin).await["pending"].is_null();

        files.write("policies/extra.cedar", EXTRA);
        for _ in 0..2 {
            scan(&app).await.unwrap();
        }
        assert_eq!(is_held().await, is_manual, "{mode}: a harmless change, by a scan");
        trigger(&app, Trigger::Signal).await.unwrap();
        assert_eq!(is_held().await, is_manual, "{mode}: a harmless change, by a signal");
        admin.post(RELOAD, json!({})).await.expect(StatusCode::OK);
        assert!(!is_held().await, "{mode}: a harmless change, by a request");

        std::fs::remove_file(files.path("policies/tenancy.cedar")).unwrap();
        for _ in 0..2 {
            scan(&app).await.unwrap();
        }
        assert_eq!(is_held().await, mode != PolicyReload::Auto, "{mode}: a loss, by a scan");
        trigger(&app, Trigger::Signal).await.unwrap();
        assert_eq!(is_held().await, mode != PolicyReload::Auto, "{mode}: a loss, by a signal");
        let status = admin.post(RELOAD, json!({})).await.status.as_u16();
        assert_eq!(
            status,
            if mode == PolicyReload::Auto { 200 } else { 409 },
            "{mode}: a loss, by a request"
        );
    }
}

/// The error of a start with these settings; none if it succeeds.
pub(crate) async fn start_error(config: &Config, app: &TestApp) -> Option<String> {
    App::open(config, app.clock.clone()).await.err().map(|error| error.to_string())
}

#[tokio::test]
async fn a_start_that_lost_a_forbid_or_a_file_is_refused() {
    let files = lossy_files();
    let app = files.serve_with(use_guarded_reload).await;
    for (what, change, losses) in LOSSES {
        change(&files);
        let error =
            start_error(&app.config, &app).await.unwrap_or_else(|| panic!("{what}: the service has started"));
        assert!(error.contains("cedargate policy reload --confirm"), "{what}: {error}");
        for name in losses.into_iter().flatten() {
            assert!(error.contains(name), "{what}: {error}");
        }
        restore(&files);
        assert_eq!(start_error(&app.config, &app).await, None, "{what}");
    }
    // The version covers no policy tests: it is the same without them.
    std::fs::remove_file(files.path("policies/cases/one.json")).unwrap();
    let error = start_error(&app.config, &app).await.unwrap();
    assert!(error.contains("is incomplete") && error.contains("cases/one.json"), "{error}");
    restore(&files);
    let mode = |policy_reload| Config { policy_reload, ..app.config.clone() };
    files.write("policies/extra.cedar", EXTRA);
    assert_eq!(start_error(&app.config, &app).await, None, "nothing would be lost");
    let error = start_error(&mode(PolicyReload::Manual), &app).await.unwrap();
    assert!(error.contains("every change needs a confirmation"), "{error}");
    std::fs::remove_file(files.path("policies/tenancy.cedar")).unwrap();
    assert_eq!(start_error(&mode(PolicyReload::Auto), &app).await, None);
}

#[tokio::test]
async fn policies_whose_own_tests_fail_are_rejected() {
    let files = PolicyFiles::new();
    let name = write_case(&files);
    let with = |tests| {
        move |config: &mut Config| {
            use_guarded_reload(config);
            config.policy_tests = tests;
        }
    };
    let app = files.serve_with(with(Config::default().policy_tests)).await;
    let admin = app.admin().await;
    let active = version(&admin).await;
    files.write("policies/forms.cedar", FORMS);
    let refused = admin.post(RELOAD, json!({})).await;
    refused.expect_problem(409, "invalid_policies");
    assert!(refused.text.contains(&name) && refused.text.contains("one.json"), "{}", refused.text);
    for _ in 0..2 {
        let _ = scan(&app).await;
    }
    let found = policy_status(&admin).await;
    assert_eq!(found["version"], active.as_str());
    assert!(found["fault"].as_str().unwrap().contains(&name), "{found}");
    // A confirmation does not help either.
    let candidate =
        Config { policy_tests: PolicyTests::Off, policy_reload: PolicyReload::Auto, ..app.config.clone() };
    let candidate = App::open(&candidate, app.clock.clone()).await.unwrap().state.policies.current();
    let body = json!({ "version": candidate.bundle().version() });
    admin.post(RELOAD, body).await.expect_problem(409, "invalid_policies");
    let error = start_error(&app.config, &app).await.unwrap();
    assert!(error.contains(&name), "{error}");

    for tests in [PolicyTests::Warn, PolicyTests::Off] {
        let app = files.serve_with(with(tests)).await;
        assert_eq!(version(&app.admin().await).await, candidate.bundle().version(), "{tests}");
    }
    files.write("policies/cases/one.json", "{}");
    let error = start_error(&app.config, &app).await.unwrap();
    assert!(error.contains("one.json") && error.contains("not a list of policy tests"), "{error}");
}

/// Waits until the readiness response of a running service meets a condition, and returns it.
async fn wait_for_readiness(base: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let ready = client(base).get("/health/ready").await.expect(StatusCode::OK);
        if is_so(&ready) {
            return ready;
        }
        assert!(started.elapsed() < TIMEOUT, "{what}: {ready}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cli_confirms_a_version() {
    let (database, files) = (Database::new().await, PolicyFiles::new());
    let [policies, schema] = ["policies", "schema"].map(|name| files.path(name).display().to_string());
    let settings = [
        ("CEDARGATE_DATABASE_URL", database.url.as_str()),
        ("CEDARGATE_ADMIN_PASSWORD", PASSWORD),
        ("CEDARGATE_POLICIES", &policies),
        ("CEDARGATE_SCHEMA", &schema),
        ("CEDARGATE_LISTEN", "127.0.0.1:0"),
        ("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "0"),
    ];
    let directory = database.directory.path();
    let command = |arguments: &[&str]| {
        let output = block_in_place(|| run(directory, &settings, arguments));
        (output.status.code(), text(&output.stderr))
    };
    let confirm = |version: &str| command(&["policy", "reload", "--confirm", version]);
    let tenancy = read(&files, "policies/tenancy.cedar");

    let running = block_in_place(|| serve_with(&database, &settings));
    std::fs::remove_file(files.path("policies/tenancy.cedar")).unwrap();
    let ready = wait_for_readiness(&running.base, "a candidate is pending", |ready| {
        !ready["policyPending"].is_null()
    })
    .await;
    let pending = ready["policyPending"]["version"].as_str().unwrap();
    let (code, error) = confirm("0123456789abcdef");
    let short = &pending[..12];
    assert!(code == Some(1) && error.contains(short), "{error}");
    assert_eq!(confirm(pending), (Some(0), String::new()));
    let confirmed =
        "SELECT COUNT(*) FROM audit WHERE event = 'policies.confirmed' AND credential = 'terminal'";
    assert_eq!(count(&database.url, confirmed).await, 1);
    wait_for_readiness(&running.base, "the candidate is active", |ready| ready["policyVersion"] == pending)
        .await;
    files.write("policies/tenancy.cedar", &tenancy);
    wait_for_readiness(&running.base, "the previous version is active", |ready| {
        ready["policyVersion"] != pending
    })
    .await;
    let log = block_in_place(|| running.stop());
    assert!(log.contains("need a confirmation") && log.contains("tenancy"), "{log}");

    // A start without a confirmation.
    std::fs::remove_file(files.path("policies/tenancy.cedar")).unwrap();
    let (code, error) = command(&[]);
    assert!(
        code == Some(1) && error.contains(&format!("cedargate policy reload --confirm {short}`")),
        "{error}"
    );
    assert_eq!(confirm(short), (Some(0), String::new()));
    let running = block_in_place(|| serve_with(&database, &settings));
    wait_for_readiness(&running.base, "the candidate is active", |ready| ready["policyVersion"] == pending)
        .await;
}
