//! Clock steps forward and backward: no wait and no grace period exceeds its maximum.

use crate::audit::events;
use crate::command_line::run;
use crate::refresh::{expect_refresh_rejected, refresh, refresh_token};
use crate::support::{ADMIN, PASSWORD, Reply, TestApp};
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::json;

const DAY: i64 = 86_400_000;

async fn attempt(app: &TestApp, email: &str, password: &str) -> Reply {
    app.anonymous().post("/v2/auth/token", json!({ "email": email, "password": password })).await
}

/// Fails logins until the longest wait is reached. Returns that wait in seconds.
async fn guess(app: &TestApp, email: &str, longest: u64) -> u64 {
    loop {
        let reply = attempt(app, email, "not-the-s3cret").await;
        if reply.status == StatusCode::TOO_MANY_REQUESTS {
            let wait: u64 = reply.header("retry-after").parse().unwrap();
            if wait >= longest {
                return wait;
            }
            app.clock.advance(i64::try_from(wait * 1_000).unwrap());
        }
    }
}

#[tokio::test]
async fn a_clock_step_does_not_extend_the_login_back_off_beyond_its_maximum() {
    for ahead in [DAY, 3_600_000, 365 * DAY] {
        let app = TestApp::start_with(|config| config.login_backoff_max = 20).await;
        app.clock.step(ahead);
        assert_eq!(guess(&app, ADMIN, 20).await, 20);
        app.clock.step(-ahead);
        let reply = attempt(&app, ADMIN, PASSWORD).await;
        reply.expect_problem(429, "too_many_attempts");
        assert_eq!(reply.header("retry-after"), "20");
        // The wait ends as time passes.
        app.clock.advance(19_000);
        assert_eq!(attempt(&app, ADMIN, PASSWORD).await.header("retry-after"), "1");
        app.clock.advance(1_000);
        attempt(&app, ADMIN, PASSWORD).await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn a_clock_step_does_not_reopen_the_refresh_grace_period() {
    let app = TestApp::start().await;
    let first = refresh_token(&app.log_in(ADMIN).await);
    let second = refresh_token(&refresh(&app, &first, ADMIN).await.expect(StatusCode::OK));
    app.clock.step(-7_200_000);
    expect_refresh_rejected(&refresh(&app, &first, ADMIN).await);
    // The token was reused, so its session has been revoked.
    expect_refresh_rejected(&refresh(&app, &second, ADMIN).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cli_unlocks_a_user() {
    let app = TestApp::start().await;
    let user = app.user(Scope::Agent).await;
    let email = crate::tokens::email(&user).await;
    guess(&app, &email, 40).await;
    guess(&app, "nobody@example.com", 40).await;
    // The command uses the system time, which is later. The waits must not depend on it.
    attempt(&app, &email, PASSWORD).await.expect_problem(429, "too_many_attempts");
    let settings = [("CEDARGATE_DATABASE_URL", app.url())];
    let unlocked = run(app.directory(), &settings, &["user", "unlock", &email]);
    assert!(unlocked.status.success(), "{unlocked:?}");
    attempt(&app, &email, PASSWORD).await.expect(StatusCode::OK);
    attempt(&app, "nobody@example.com", PASSWORD).await.expect_problem(429, "too_many_attempts");
    let found = events(&app.admin().await, "event=user.unlocked").await;
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0]["target"], &found[0]["credential"]), (&json!(user.id), &json!("terminal")));
    let unknown = run(app.directory(), &settings, &["user", "unlock", "nobody@example.com"]);
    assert_eq!(unknown.status.code(), Some(1));
}
