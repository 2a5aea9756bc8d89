//! A database that is gone, and comes back.

use crate::support::TestApp;
use reqwest::StatusCode;
use sea_orm::ConnectionTrait;
use serde_json::json;

#[tokio::test]
async fn while_the_database_is_away_the_answer_is_503_and_afterwards_everything_works() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let form = json!({ "name": "form" });
    let made = admin.post("/v2/forms", form.clone()).await;
    let path = format!("/v2/forms/{}", made.id());

    // PostgreSQL ends all connections and takes no new ones. Of SQLite somebody else holds the only place for a writer,
    // which is as much as a file can be away.
    let server = app.postgres();
    let holder = match &server {
        Some((server, name)) => {
            let away = format!(
                "ALTER DATABASE {name} ALLOW_CONNECTIONS false; \
                 SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            );
            crate::support::run_sql(server, &away).await;
            let read = admin.get(&path).await;
            read.expect_problem(503, "database_unavailable");
            assert_eq!(read.header("retry-after"), "1");
            // What cannot be looked at is neither permitted nor denied to a proxy.
            let asked = crate::forward::forward(&admin, "GET", &path).await;
            asked.expect_problem(503, "database_unavailable");
            let login = json!({ "email": "admin@example.com", "password": crate::support::PASSWORD });
            app.anonymous().post("/v2/auth/token", login).await.expect_problem(503, "database_unavailable");
            None
        }
        None => {
            let holder = sea_orm::Database::connect(app.url()).await.unwrap();
            holder.execute_unprepared("BEGIN IMMEDIATE").await.unwrap();
            assert_eq!(admin.get(&path).await.status, StatusCode::OK, "it can still be read");
            Some(holder)
        }
    };
    admin.patch(&path, json!({ "name": "other" })).await.expect_problem(503, "database_unavailable");

    if let Some((server, name)) = &server {
        crate::support::run_sql(server, &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
    }
    if let Some(holder) = holder {
        holder.execute_unprepared("ROLLBACK").await.unwrap();
        holder.close().await.unwrap();
    }
    assert_eq!(admin.get(&path).await.expect(StatusCode::OK)["name"], "form", "nothing was half done");
    admin.patch(&path, json!({ "name": "other" })).await.expect(StatusCode::OK);
    assert_eq!(admin.get("/v2/forms").await.expect(StatusCode::OK)[0]["name"], "other");
}
