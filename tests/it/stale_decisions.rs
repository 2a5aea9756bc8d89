//! While PostgreSQL is unavailable, decisions on cached data continue for cached callers, for a limited time, and are marked.

use crate::authzen::{EVALUATION, entity, evaluation_request};
use crate::database_outage::DatabaseOutage;
use crate::support::{ADMIN, Client, PASSWORD, Reply, TestApp, wait_until};
use cedargate::authz::Scope;
use cedargate::config::{Config, DecisionLogFilter};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const STALE: &str = "x-decision-stale";
const AUTHORIZE: &str = "/v2/authorize";

/// Starts the service on PostgreSQL with a decision log. None on SQLite, which has no such outage.
async fn start(change: impl FnOnce(&mut Config)) -> Option<TestApp> {
    crate::without_database::postgres_server()?;
    let directory = tempfile::tempdir().unwrap().keep();
    let app = TestApp::start_with(|config| {
        config.decision_log = DecisionLogFilter::All;
        config.decision_log_path = directory.join("decisions.ndjson").display().to_string();
        change(config);
    });
    Some(app.await)
}

/// Closes the decision log, and returns the records about this subject.
fn logged(app: &TestApp, subject: &str) -> Vec<Value> {
    app.state.decision_log.close();
    let text = std::fs::read_to_string(Path::new(&app.config.decision_log_path)).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["subject"]["id"] == subject).collect()
}

/// Repeats a request until its response is as expected.
async fn repeat(what: &str, ask: impl AsyncFn() -> Reply, is_expected: impl Fn(&Reply) -> bool) -> Reply {
    wait_until(async || {
        let reply = ask().await;
        if is_expected(&reply) { Ok(reply) } else { Err(format!("{what}: {}", reply.text)) }
    })
    .await
}

/// Waits until responses are not marked: the notification connection is restored.
async fn wait_until_current(client: &Client, question: &Value) {
    let ask = async || client.post(EVALUATION, question.clone()).await;
    repeat("decisions are current", ask, |reply| {
        reply.status == StatusCode::OK && reply.header(STALE).is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_decisions_continue_for_a_limited_time_and_are_marked_stale() {
    let Some(app) = start(|_| ()).await else { return };
    let (admin, agent) = (app.admin().await, app.user(Scope::Agent).await);
    let conversation = agent.post("/v2/conversations", json!({})).await.id();
    let conversation_path = format!("/v2/conversations/{conversation}");
    let question = evaluation_request(
        entity("User", &agent.id),
        "fetchConversation",
        entity("Conversation", &conversation),
    );
    let denied = evaluation_request(
        entity("User", &agent.id),
        "deleteConversation",
        entity("Conversation", &conversation),
    );
    let own = json!({ "action": question["action"], "resource": question["resource"] });
    // Both workers cache the caller and the resource.
    for _ in 0..20 {
        assert_eq!(admin.post(EVALUATION, question.clone()).await.expect(StatusCode::OK)["decision"], true);
        assert_eq!(agent.post(AUTHORIZE, own.clone()).await.expect(StatusCode::OK)["decision"], true);
    }
    // After the time at which a cached caller is normally reloaded.
    app.clock.advance(30_000);
    let ask = async || admin.post(EVALUATION, question.clone()).await;
    repeat("contact", ask, |_| app.state.store.time_since_contact() < Duration::from_secs(1)).await;

    let outage = DatabaseOutage::begin(app.url(), app.postgres()).await;
    let reply = repeat("stale", ask, |reply| !reply.header(STALE).is_empty()).await;
    assert_eq!(reply.expect_decisions(StatusCode::OK), json!({ "decision": true }));
    for seconds in [0, 30, 59] {
        app.clock.advance(if seconds == 59 { 29_000 } else { seconds * 1_000 });
        let reply = admin.post(EVALUATION, question.clone()).await;
        let marked: i64 = reply.header(STALE).parse().unwrap();
        assert!((seconds - 1..=seconds).contains(&marked), "{marked} after {seconds} seconds");
        assert_eq!(reply.expect(StatusCode::OK)["decision"], true);
        let reply = admin.post(EVALUATION, denied.clone()).await;
        assert!(!reply.header(STALE).is_empty());
        assert_eq!(reply.expect(StatusCode::OK)["decision"], false);
        let reply = agent.post(AUTHORIZE, own.clone()).await;
        assert!(!reply.header(STALE).is_empty());
        assert_eq!(reply.expect(StatusCode::OK)["decision"], true);
    }
    let metrics = app.anonymous().get("/metrics").await.text;
    let count = metrics.lines().find_map(|line| line.strip_prefix("cedargate_stale_decisions_total "));
    assert!(count.unwrap().parse::<u64>().unwrap() >= 9, "{metrics}");

    // All other requests are rejected immediately.
    let login = json!({ "email": ADMIN, "password": PASSWORD });
    let unknown = app.bearer("cg_94c70d470e391bdc16a8d8363b5d48910a67162d");
    let other = evaluation_request(
        entity("User", &admin.id),
        "fetchUser",
        entity("User", "599e1fcd9da1c72645c95886"),
    );
    for reply in [
        expect_within_a_second(agent.get(&conversation_path)).await,
        expect_within_a_second(agent.get("/v2/users/me")).await,
        expect_within_a_second(agent.patch(&conversation_path, json!({ "name": "other" }))).await,
        expect_within_a_second(unknown.post(EVALUATION, question.clone())).await,
        expect_within_a_second(admin.post(EVALUATION, other)).await,
        expect_within_a_second(app.anonymous().post("/v2/auth/token", login)).await,
        expect_within_a_second(app.anonymous().get("/health/ready")).await,
    ] {
        reply.expect_problem(503, "database_unavailable");
        assert!(reply.header(STALE).is_empty());
    }

    app.clock.advance(1_000);
    admin.post(EVALUATION, question.clone()).await.expect_problem(503, "database_unavailable");
    outage.end_outage().await;
    wait_until_current(&admin, &question).await;
    let lines = logged(&app, &agent.id);
    let (stale, current): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["stale"] == true);
    assert!(stale.len() >= 6 && !current.is_empty(), "{} and {}", stale.len(), current.len());
    assert!(current.iter().all(|line| line["stale"] == Value::Null));
}

/// The response to a request, which must take at most a second.
async fn expect_within_a_second(request: impl Future<Output = Reply>) -> Reply {
    let started = Instant::now();
    let reply = request.await;
    assert!(started.elapsed() < Duration::from_millis(1_500), "{:?}: {}", started.elapsed(), reply.text);
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn without_stale_decisions_nothing_is_decided_during_an_outage() {
    let Some(app) = start(|config| config.stale_decisions = 0).await else { return };
    let admin = app.admin().await;
    let question = evaluation_request(entity("User", &admin.id), "fetchUser", entity("User", &admin.id));
    for _ in 0..20 {
        admin.post(EVALUATION, question.clone()).await.expect(StatusCode::OK);
    }
    let outage = DatabaseOutage::begin(app.url(), app.postgres()).await;
    let ask = async || admin.post(EVALUATION, question.clone()).await;
    let refused = repeat("refused", ask, |reply| reply.status != StatusCode::OK).await;
    refused.expect_problem(503, "database_unavailable");
    for _ in 0..10 {
        admin.post(EVALUATION, question.clone()).await.expect_problem(503, "database_unavailable");
    }
    outage.end_outage().await;
    wait_until_current(&admin, &question).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_revoked_during_an_outage_are_rejected_afterwards() {
    let Some(app) = start(|_| ()).await else { return };
    let (admin, agent) = (app.admin().await, app.user(Scope::Agent).await);
    let question = evaluation_request(entity("User", &agent.id), "fetchUser", entity("User", &agent.id));
    for _ in 0..20 {
        agent.post(EVALUATION, question.clone()).await.expect(StatusCode::OK);
    }
    let outage = DatabaseOutage::begin(app.url(), app.postgres()).await;
    let ask = async || agent.post(EVALUATION, question.clone()).await;
    repeat("stale", ask, |reply| !reply.header(STALE).is_empty()).await;
    outage.end_outage().await;
    // As by another process: the notification is received, or the cache is cleared at the reconnection.
    let ended = format!("UPDATE sessions SET ended_at = 1 WHERE \"user\" = '{}'", agent.id);
    app.sql(&format!("BEGIN; {ended}; SELECT pg_notify('cedargate_cache', 'v2 all'); COMMIT")).await;
    let refused = repeat("refused", ask, |reply| reply.status == StatusCode::UNAUTHORIZED).await;
    refused.expect_problem(401, "invalid_token");
    wait_until_current(
        &admin,
        &evaluation_request(entity("User", &admin.id), "fetchUser", entity("User", &admin.id)),
    )
    .await;
}
