//! Refresh-token families against a model: random sequences of events, each verified against the model.

use crate::multi_process::TIMEOUT;
use crate::refresh::{expect_refresh_rejected, refresh, refresh_as, refresh_token};
use crate::support::{PASSWORD, TestApp, decode_jwt};
use crate::token_families::access_token;
use crate::tokens::email;
use cedargate::authz::Scope;
use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, TestRunner};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::time::Instant;

/// An event in the life of a family.
#[derive(Debug, Clone)]
enum Step {
    /// A refresh token is presented: the one with this index, counted from the newest.
    Refresh { back: usize, by_get: bool },
    /// A refresh token is presented with a wrong `clientId`.
    WrongClientId { back: usize },
    /// Time passes, in seconds.
    Wait(i64),
    /// A refresh token is revoked.
    RevokeRefresh { back: usize },
    /// An access token is revoked.
    RevokeAccess { back: usize },
    /// The user deletes the session from another session.
    Delete,
    /// The user logs out.
    LogOut,
    /// An admin sets a new password, which ends all sessions of the user.
    Password,
    /// The user is blocked, which ends all of its sessions and keys, and unblocked again.
    Block,
    /// The cleanup job runs.
    CleanUp,
}

fn step() -> impl Strategy<Value = Step> {
    let back = || prop_oneof![4 => Just(0_usize), 3 => Just(1), 1 => 2_usize..5];
    let waits = vec![0, 1, 5_000, 29_999, 30_000, 3_600_000, 86_400_000, 2 * 86_400_000];
    prop_oneof![
        12 => (back(), any::<bool>()).prop_map(|(back, by_get)| Step::Refresh { back, by_get }),
        2 => back().prop_map(|back| Step::WrongClientId { back }),
        8 => prop::sample::select(waits).prop_map(Step::Wait),
        1 => back().prop_map(|back| Step::RevokeRefresh { back }),
        1 => back().prop_map(|back| Step::RevokeAccess { back }),
        1 => Just(Step::Delete),
        1 => Just(Step::LogOut),
        1 => Just(Step::Password),
        1 => Just(Step::Block),
        2 => Just(Step::CleanUp),
    ]
}

const HOUR: i64 = 3_600_000;
pub(crate) const DAY: i64 = 86_400_000;

/// A refresh token in the model.
struct TokenRecord {
    text: String,
    expires_at: i64,
    spent_at: Option<i64>,
}

/// The model of a family. Access tokens expire after an hour, refresh tokens after two days, the session after a week.
struct Model {
    sid: String,
    refresh: Vec<TokenRecord>,
    /// The access tokens and the times of their expiry.
    access: Vec<(String, i64)>,
    ends_at: i64,
    is_ended: bool,
}

/// The expected result of a refresh.
#[derive(Debug, PartialEq)]
enum Expected {
    Next,
    Same,
    Refused,
}

impl Model {
    fn new(tokens: &Value, now: i64) -> Self {
        let sid = decode_jwt(access_token(tokens)).1["sid"].as_str().unwrap().to_owned();
        let mut model =
            Self { sid, refresh: vec![], access: vec![], ends_at: now + 7 * DAY, is_ended: false };
        model.record_tokens(tokens, now);
        model
    }

    fn record_tokens(&mut self, tokens: &Value, now: i64) {
        let expires_at = (now + 2 * DAY).min(self.ends_at);
        self.refresh.push(TokenRecord { text: refresh_token(tokens), expires_at, spent_at: None });
        self.record_access_token(tokens, now);
    }

    fn record_access_token(&mut self, tokens: &Value, now: i64) {
        let ends = (now + HOUR).min(self.ends_at) / 1_000 * 1_000;
        self.access.push((access_token(tokens).to_owned(), ends));
    }

    fn token_index(&self, back: usize) -> usize {
        self.refresh.len() - 1 - back.min(self.refresh.len() - 1)
    }

    fn is_live(&self, now: i64) -> bool {
        !self.is_ended && now < self.ends_at
    }

    /// The expected result of presenting a token, with its effects on the model.
    fn present(&mut self, index: usize, now: i64) -> Expected {
        let last = self.refresh.len() - 1;
        let token = &mut self.refresh[index];
        if self.is_ended || now >= self.ends_at {
            return Expected::Refused;
        }
        match token.spent_at {
            None if now < token.expires_at => {
                token.spent_at = Some(now);
                Expected::Next
            }
            None => Expected::Refused,
            Some(spent) if index + 1 == last && now < spent + 30_000 => Expected::Same,
            Some(_) => {
                self.is_ended = true;
                Expected::Refused
            }
        }
    }
}

/// Runs the steps on a new family, each at one of the services, and asserts after each that all services agree with the model.
async fn run_steps(apps: &[TestApp], user: &str, steps: &[(usize, Step)]) {
    let first = &apps[0];
    let now = || first.clock.now().millis();
    let mut model = Model::new(&first.log_in(user).await, now());
    let (bystander, mut is_undisturbed) = (first.log_in(user).await, true);
    // This key is independent of the family.
    let mut key = first.client(user).await.key(&[Scope::Agent]).await;
    let started_at = now();
    for (at, step) in steps {
        let app = &apps[at % apps.len()];
        let watcher = app.bearer(&key);
        match step {
            Step::Refresh { back, by_get } => {
                let at = model.token_index(*back);
                let text = &model.refresh[at].text;
                let reply =
                    if *by_get { refresh_as(&watcher, text).await } else { refresh(app, text, user).await };
                match model.present(at, now()) {
                    Expected::Next => {
                        let tokens = reply.expect(StatusCode::OK);
                        assert!(model.refresh.iter().all(|known| known.text != refresh_token(&tokens)));
                        model.record_tokens(&tokens, now());
                    }
                    Expected::Same => {
                        let tokens = reply.expect(StatusCode::OK);
                        assert_eq!(refresh_token(&tokens), model.refresh.last().unwrap().text);
                        model.record_access_token(&tokens, now());
                    }
                    Expected::Refused => expect_refresh_rejected(&reply),
                }
            }
            Step::WrongClientId { back } => {
                let text = &model.refresh[model.token_index(*back)].text;
                expect_refresh_rejected(&refresh(app, text, "somebody@else.example").await);
            }
            Step::Wait(millis) => app.clock.advance(*millis),
            Step::RevokeRefresh { back } => {
                crate::revocation::revoke(app, &model.refresh[model.token_index(*back)].text).await;
                model.is_ended = true;
            }
            Step::RevokeAccess { back } => {
                let (token, ends) =
                    &model.access[model.access.len() - 1 - back.min(&(model.access.len() - 1))];
                crate::revocation::revoke(app, token).await;
                model.is_ended |= now() < *ends;
            }
            Step::Delete => {
                let path = format!("/v2/users/me/sessions/{}", model.sid);
                // An API key of the user cannot end a session.
                watcher.delete(&path).await.expect_problem(403, "forbidden");
                let other = app.client(user).await;
                let reply = other.delete(&path).await;
                assert!([204, 404].contains(&reply.status.as_u16()), "{}", reply.text);
                model.is_ended = true;
            }
            Step::LogOut => {
                // Also with an expired token, and if the session has ended.
                let (token, _) = model.access.last().unwrap();
                let reply = app.bearer(token).post("/v2/auth/logout", json!({})).await;
                assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}", reply.text);
                model.is_ended = true;
            }
            Step::Password | Step::Block => {
                let admin = app.admin().await;
                let path = format!("/v2/users/{}", bystander["user"].as_str().unwrap());
                let changes = match step {
                    Step::Password => vec![json!({ "password": PASSWORD })],
                    _ => vec![json!({ "status": "blocked" }), json!({ "status": "active" })],
                };
                for change in changes {
                    admin.patch(&path, change).await.expect(StatusCode::OK);
                }
                key = app.client(user).await.key(&[Scope::Agent]).await;
                (model.is_ended, is_undisturbed) = (true, false);
            }
            Step::CleanUp => drop(app.state.clean_up().await.unwrap()),
        }
        let tail = model.access.len().saturating_sub(3);
        for (token, ends) in &model.access[tail..] {
            let expected = if now() >= *ends {
                403
            } else if model.is_live(now()) {
                200
            } else {
                401
            };
            for app in apps {
                // Another service has to receive the notification.
                let started = Instant::now();
                let mut reply = app.bearer(token).get("/v2/users/me").await;
                while reply.status == StatusCode::OK && expected != 200 && started.elapsed() < TIMEOUT {
                    reply = app.bearer(token).get("/v2/users/me").await;
                }
                assert_eq!(reply.status.as_u16(), expected, "{step:?}: {}", reply.text);
            }
        }
    }
    // Another session of the same user is not affected.
    if is_undisturbed && now() < started_at + 2 * DAY {
        refresh(first, &refresh_token(&bystander), user).await.expect(StatusCode::OK);
    }
}

#[test]
fn token_families_match_the_model_under_random_steps() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (apps, user) = runtime.block_on(async {
        let app = TestApp::start_with(|config| {
            (config.access_ttl, config.refresh_ttl, config.session_ttl) = (3_600, 2 * 86_400, 7 * 86_400);
        })
        .await;
        let user = email(&app.user(Scope::Agent).await).await;
        // Two services on PostgreSQL. A SQLite database is served by one process.
        let other = if app.postgres().is_some() { Some(app.start_replica(|_| ()).await) } else { None };
        (std::iter::once(app).chain(other).collect::<Vec<_>>(), user)
    });
    let cases = std::env::var("PROPTEST_CASES").map_or(64, |cases| cases.parse().unwrap());
    let mut runner =
        TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..Default::default() });
    let steps = prop::collection::vec((0..2_usize, step()), 1..24);
    let outcome = runner.run(&steps, |steps| {
        runtime.block_on(run_steps(&apps, &user, &steps));
        Ok(())
    });
    let _guard = runtime.enter();
    outcome.unwrap();
}
