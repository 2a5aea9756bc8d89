//! Clients that load two service processes while their database restarts, and check each response.

use crate::authzen::{EVALUATION, EVALUATIONS, entity, evaluation_request};
use crate::command_line::client;
use crate::refresh::refresh_token;
use crate::support::{Client, PASSWORD, Reply};
use crate::token_families::access_token;
use futures_util::future::join;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The maximum time that the test waits for a condition.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// The kinds of requests under load.
#[derive(Clone, Copy)]
pub(crate) enum RequestKind {
    LogIn,
    Refresh,
    Write,
    Decide,
    /// A request with a revoked credential.
    Ended,
    /// A request for a resource of another tenant.
    Foreign,
}

pub(crate) const KINDS: usize = 6;

/// The number of responses, and of rejections because of the outage.
#[derive(Default)]
pub(crate) struct Load {
    pub(crate) is_over: AtomicBool,
    pub(crate) answered: [AtomicU64; KINDS],
    pub(crate) unavailable: [AtomicU64; KINDS],
}

impl Load {
    pub(crate) fn is_running(&self) -> bool {
        !self.is_over.load(Ordering::SeqCst)
    }

    /// The body of a response with this status, or none if the database is unavailable. Fails for any other response.
    #[track_caller]
    pub(crate) fn expect_status(&self, kind: RequestKind, reply: Reply, expected: u16) -> Option<Value> {
        if reply.status == StatusCode::SERVICE_UNAVAILABLE {
            reply.expect_problem(503, "database_unavailable");
            assert_eq!(reply.header("retry-after"), "1");
            self.unavailable[kind as usize].fetch_add(1, Ordering::SeqCst);
            return None;
        }
        let answer = reply.expect(StatusCode::from_u16(expected).unwrap());
        self.answered[kind as usize].fetch_add(1, Ordering::SeqCst);
        Some(answer)
    }
}

pub(crate) fn bearer(base: &str, token: &str) -> Client {
    Client { bearer: Some(token.to_owned()), ..client(base) }
}

pub(crate) async fn log_in(base: &str, email: &str) -> Reply {
    client(base).post("/v2/auth/token", json!({ "email": email, "password": PASSWORD })).await
}

pub(crate) async fn present(base: &str, token: &str, email: &str) -> Reply {
    client(base).post("/v2/auth/token", json!({ "refreshToken": token, "clientId": email })).await
}

/// Logs in repeatedly, and returns the access tokens.
pub(crate) async fn log_in_repeatedly(load: Arc<Load>, base: String, email: String) -> Vec<String> {
    let mut tokens = Vec::new();
    while load.is_running() {
        let Some(pair) = load.expect_status(RequestKind::LogIn, log_in(&base, &email).await, 200) else {
            continue;
        };
        let own = bearer(&base, access_token(&pair)).get("/v2/users/me").await;
        if let Some(own) = load.expect_status(RequestKind::LogIn, own, 200) {
            assert_eq!((&own["email"], &own["id"]), (&json!(email), &pair["user"]));
        }
        tokens.push(access_token(&pair).to_owned());
    }
    tokens
}

/// Refreshes repeatedly, at both processes concurrently, and returns all tokens of the family.
pub(crate) async fn refresh_repeatedly(
    load: Arc<Load>,
    bases: [String; 2],
    email: String,
    first: String,
) -> Vec<String> {
    let mut family = vec![first];
    while load.is_running() {
        let token = family.last().unwrap();
        let replies = join(present(&bases[0], token, &email), present(&bases[1], token, &email)).await;
        let [one, two] = [replies.0, replies.1].map(|reply| {
            load.expect_status(RequestKind::Refresh, reply, 200).map(|pair| refresh_token(&pair))
        });
        if let (Some(one), Some(two)) = (&one, &two) {
            assert_eq!(one, two, "a refresh token was accepted twice");
        }
        let Some(next) = one.or(two) else { continue };
        assert!(!family.contains(&next));
        // A client that has lost the response retries.
        let again = present(&bases[family.len() % 2], token, &email).await;
        if let Some(again) = load.expect_status(RequestKind::Refresh, again, 200) {
            assert_eq!(refresh_token(&again), next, "a retry must return the same successor");
        }
        family.push(next);
    }
    family
}

/// Creates forms and changes one. Returns the created ones by id and name.
pub(crate) async fn write_repeatedly(
    load: Arc<Load>,
    admin: Client,
    counter: String,
) -> Vec<(String, String)> {
    let mut created = Vec::new();
    let path = format!("/v2/forms/{counter}");
    // The possible values: the last acknowledged one, and those that were sent since without a response.
    let mut possible = vec!["0".to_owned()];
    for number in 1.. {
        if !load.is_running() {
            break;
        }
        let name = number.to_string();
        let reply = admin.post("/v2/forms", json!({ "name": name })).await;
        if let Some(form) = load.expect_status(RequestKind::Write, reply, 201) {
            created.push((form["id"].as_str().unwrap().to_owned(), name.clone()));
        }
        let reply = admin.patch(&path, json!({ "name": name })).await;
        match load.expect_status(RequestKind::Write, reply, 200) {
            Some(form) => {
                assert_eq!(form["name"], name);
                possible = vec![name];
            }
            None => possible.push(name),
        }
        if let Some(form) = load.expect_status(RequestKind::Write, admin.get(&path).await, 200) {
            let found = form["name"].as_str().unwrap().to_owned();
            assert!(possible.contains(&found), "got {found}, expected one of {possible:?}");
            possible = vec![found];
        }
    }
    created.push((counter, possible.pop().unwrap()));
    created
}

/// Changes the role of a user, and evaluates decisions that depend on it.
pub(crate) async fn decide_repeatedly(load: Arc<Load>, admin: Client, user: String, conversation: String) {
    let subject = || entity("User", &user);
    let fetch = evaluation_request(subject(), "fetchConversation", entity("Conversation", &conversation));
    let delete = evaluation_request(subject(), "deleteConversation", entity("Conversation", &conversation));
    let update = evaluation_request(subject(), "updateMessage", entity("Conversation", &conversation));
    let list =
        evaluation_request(subject(), "listContacts", entity("Organization", &organization_of(&admin).await));
    for role in ["guest", "agent"].into_iter().cycle() {
        if !load.is_running() {
            break;
        }
        let changed = admin.patch(&format!("/v2/users/{user}"), json!({ "role": role })).await;
        let is_known = load.expect_status(RequestKind::Decide, changed, 200).is_some();
        for _ in 0..3 {
            if let Some(answer) =
                load.expect_status(RequestKind::Decide, admin.post(EVALUATION, list.clone()).await, 200)
            {
                let is_right = !is_known || answer["decision"] == json!(role == "agent");
                assert!(is_right, "{role}: {answer}");
            }
            let batch = json!({ "evaluations": [fetch, delete, update] });
            if let Some(answers) =
                load.expect_status(RequestKind::Decide, admin.post(EVALUATIONS, batch).await, 200)
            {
                let answers = &answers["evaluations"];
                assert_eq!(answers[0]["decision"], true, "{answers}");
                assert_eq!(
                    (&answers[1]["decision"], &answers[2]["decision"]),
                    (&json!(false), &json!(false))
                );
            }
        }
    }
}

pub(crate) async fn organization_of(client: &Client) -> String {
    let own = client.get("/v2/users/me").await.expect(StatusCode::OK);
    own["organization"].as_str().unwrap().to_owned()
}

/// Uses revoked credentials: bearer tokens and a refresh token.
pub(crate) async fn use_ended_credentials(
    load: Arc<Load>,
    bases: [String; 2],
    bearers: Vec<String>,
    token: String,
    email: String,
) {
    while load.is_running() {
        for base in &bases {
            for ended in &bearers {
                load.expect_status(RequestKind::Ended, bearer(base, ended).get("/v2/users/me").await, 401);
            }
            load.expect_status(RequestKind::Ended, present(base, &token, &email).await, 401);
        }
    }
}

/// Requests a resource of another tenant, and lists.
pub(crate) async fn access_other_tenant(load: Arc<Load>, admin: Client, own: String, foreign: String) {
    while load.is_running() {
        load.expect_status(RequestKind::Foreign, admin.get(&format!("/v2/forms/{foreign}")).await, 404);
        if let Some(all) = load.expect_status(RequestKind::Foreign, admin.get("/v2/forms").await, 200) {
            let ids: Vec<_> = all.as_array().unwrap().iter().map(|form| &form["id"]).collect();
            assert_eq!(ids, [&json!(own)]);
        }
    }
}

/// Logs out as soon as the database is available.
pub(crate) async fn log_out(client: &Client) {
    let started = Instant::now();
    loop {
        let reply = client.post("/v2/auth/logout", json!({})).await;
        if reply.status == StatusCode::NO_CONTENT {
            return;
        }
        reply.expect_problem(503, "database_unavailable");
        assert!(started.elapsed() < TIMEOUT, "the database is still unavailable");
    }
}
