use super::*;
use crate::authz::{
    AuthzRequest, DecisionContext, Principal, ResourceEntity, Scope, ScopeSet, UserAttributes,
};
use crate::types::{Id, OrgPath, UserStatus};
use std::path::Path;
use std::time::Instant;

/// Repeats a probe until it returns a value.
async fn wait_for<T>(mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The details of the audit events about differences.
async fn differences(base: &str, token: &str) -> Vec<serde_json::Value> {
    let url = format!("{base}/v2/audit?event=decision.differs");
    let response = reqwest::Client::new().get(url).bearer_auth(token).send().await.unwrap();
    let events: Vec<serde_json::Value> = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    events.into_iter().map(|event| event["details"].clone()).collect()
}

#[tokio::test]
async fn a_wrong_decision_of_the_cache_is_counted_and_in_the_audit_log() {
    let directory = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let url = format!("sqlite://{}", directory.path().join("test.db").display());
    let config = Config {
        database_url: url.into(),
        policies: vec![root.join("policies")],
        schema: vec![root.join("schema")],
        admin_password: Some("t0pZ3kR3t".into()),
        policy_tests: PolicyTests::Off,
        verify_every: 1,
        workers: Some(1),
        ..Config::default()
    };
    let clock = Clock::manual("2026-01-31T12:00:00Z".parse().unwrap());
    let app = App::open(&config, clock.clone()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let server = app.serve(listener).await.unwrap();
    let handle = server.handle();
    tokio::spawn(server);
    let login = serde_json::json!({ "email": config.admin_email, "password": "t0pZ3kR3t" }).to_string();
    let request = reqwest::Client::new().post(format!("{base}/v2/auth/token")).body(login);
    let response = request.header("content-type", "application/json").send().await.unwrap();
    let tokens: serde_json::Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    let token = tokens["token"].as_str().unwrap();

    let engine = app.state.policies.current();
    let path = OrgPath::root(Id::EXAMPLE);
    let attributes = UserAttributes {
        organization: Id::EXAMPLE,
        role: Scope::Guest,
        status: UserStatus::Active,
        email: None,
    };
    let scopes = engine.effective_scopes(&ScopeSet::from(Scope::Guest), Scope::Guest);
    let principal = Principal::new(Id::EXAMPLE, &path, attributes, scopes.as_ref());
    let (context, resource) = (DecisionContext::default(), ResourceEntity::organization(&path));
    let request =
        AuthzRequest { principal: &principal, action: "listForms", context: &context, recorder: None };
    engine.cache_allow(&request, &resource);
    let verifier = app.state.policies.verifier().unwrap();
    let before = verifier.counts().verified;
    for count in 1..=3 {
        assert!(engine.decide(&request, &resource).allowed);
        wait_for(async || (verifier.counts().verified >= before + count).then_some(())).await;
    }
    let details =
        wait_for(async || Some(differences(&base, token).await).filter(|all| !all.is_empty())).await;
    let expected = serde_json::json!({
        "action": "listForms", "principal": format!("User {}", Id::EXAMPLE),
        "resource": format!("Organization {}", Id::EXAMPLE), "engine": "allow (no policy)",
        "cedar": "deny (no policy)", "version": engine.bundle().version(),
    });
    assert_eq!(details, [expected], "one entry a minute for an action");
    let metrics = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("\ncedargate_decision_verification_differences_total 3\n"), "{metrics}");

    clock.advance(60_000);
    engine.decide(&request, &resource);
    wait_for(async || (differences(&base, token).await.len() == 2).then_some(())).await;
    drop(handle.stop(false));
}
