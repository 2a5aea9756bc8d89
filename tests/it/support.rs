//! The test harness: a complete service with its own database per test, and HTTP clients.

use crate::multi_process::TIMEOUT;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use cedargate::authz::Scope;
use cedargate::config::{Config, PolicyTests};
use cedargate::server::App;
use cedargate::types::{Clock, Id};
use reqwest::{Method, StatusCode};
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The password of all test users, as in the specification.
pub const PASSWORD: &str = "t0pZ3kR3t";
/// The email of the first admin.
pub const ADMIN: &str = "admin@example.com";

/// A service under test.
pub struct TestApp {
    /// The base URL.
    pub base: String,
    /// The clock of the service, which stands still until a test moves it.
    pub clock: Clock,
    /// The settings that it was started with.
    pub config: Config,
    /// The state of the application.
    pub state: Arc<cedargate::application::AppState>,
    /// The state of the HTTP layer.
    pub http: Arc<cedargate::http::state::HttpState>,
    database: Arc<Database>,
    handle: actix_web::dev::ServerHandle,
}

/// Makes password hashing serial and as expensive as with the default settings.
pub fn slow_hashing(config: &mut Config) {
    let default = Config::default();
    config.password_workers = Some(1);
    config.argon2_memory_kib = default.argon2_memory_kib;
    config.argon2_iterations = default.argon2_iterations;
}

/// A client that does not reuse a connection that the service may be closing: the service keeps idle ones for 5 seconds.
pub fn http_client() -> reqwest::Client {
    let client = reqwest::Client::builder().pool_idle_timeout(Duration::from_secs(2));
    client.build().unwrap()
}

/// Repeats a probe until it succeeds. Fails with the probe's error after a timeout.
pub async fn wait_until<T>(mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(missing) => assert!(started.elapsed() < TIMEOUT, "{missing}"),
        }
        // Between two probes, so that the service gets processor time.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Encodes bytes in base64url without padding (RFC 7515, section 2).
pub fn to_base64(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes base64url without padding.
pub fn from_base64(text: &str) -> Vec<u8> {
    BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// The header and the claims of a JWT, without verification.
pub fn decode_jwt(token: &str) -> (Value, Value) {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "{token}");
    let read = |part| serde_json::from_slice(&from_base64(part)).unwrap();
    (read(parts[0]), read(parts[1]))
}

/// The path of a file of the project.
pub fn project_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The database of a test: a SQLite file, or with `TEST_POSTGRES_URL` a database on that server.
pub struct Database {
    pub url: String,
    pub directory: TempDir,
    /// The URL of the PostgreSQL server and the name of the database; none for SQLite.
    pub server: Option<(String, String)>,
}

impl Database {
    pub async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let Some(server) = crate::without_database::postgres_server() else {
            let url = format!("sqlite://{}", directory.path().join("test.db").display());
            return Self { url, directory, server: None };
        };
        Self::on_server(server, directory, "").await
    }

    /// The same; a database on PostgreSQL has a collation that orders texts like a dictionary.
    pub async fn with_linguistic_collation() -> Self {
        match crate::without_database::postgres_server() {
            Some(server) => {
                let options = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";
                Self::on_server(server, TempDir::new().unwrap(), options).await
            }
            None => Self::new().await,
        }
    }

    async fn on_server(server: String, directory: TempDir, options: &str) -> Self {
        let name = format!("t{}", Id::new(&Clock::system()));
        run_sql(&server, &format!("CREATE DATABASE {name} {options}")).await;
        let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        Self { url, directory, server: Some((server, name)) }
    }
}

impl Database {
    /// Executes a statement directly in the database.
    pub async fn sql(&self, statement: &str) {
        let url =
            if self.url.starts_with("sqlite") { format!("{}?mode=rwc", self.url) } else { self.url.clone() };
        run_sql(&url, statement).await;
    }

    /// The complete contents as text: the bytes of the files, or every row of every table.
    pub async fn dump(&self) -> String {
        if self.server.is_none() {
            let files = std::fs::read_dir(self.directory.path()).unwrap();
            let bytes = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
            return bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
        }
        let connection = sea_orm::Database::connect(&self.url).await.unwrap();
        let texts = async |sql: String| -> Vec<String> {
            let statement = Statement::from_string(DbBackend::Postgres, sql);
            let rows = connection.query_all_raw(statement).await.unwrap();
            rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
        };
        let mut stored = String::new();
        let tables = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'";
        for table in texts(tables.to_owned()).await {
            stored += &texts(format!("SELECT t::text FROM \"{table}\" t")).await.join("\n");
        }
        connection.close().await.unwrap();
        stored
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some((server, name)) = self.server.take() else { return };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run_sql(&server, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")));
        })
        .join()
        .unwrap();
    }
}

/// Executes statements on a separate connection.
pub async fn run_sql(url: &str, sql: &str) {
    let connection = sea_orm::Database::connect(url).await.unwrap();
    connection.execute_unprepared(sql).await.unwrap();
    connection.close().await.unwrap();
}

impl TestApp {
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// Starts the service with changed settings.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_on_with(Database::new().await, change).await
    }

    /// Starts the service on an existing database.
    pub async fn start_on(database: Database) -> Self {
        Self::start_on_with(database, |_| ()).await
    }

    /// The same, with other settings than the usual ones.
    pub async fn start_on_with(database: Database, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            database_url: database.url.clone().into(),
            database_connections: 4,
            policies: vec![project_file("policies")],
            schema: vec![project_file("schema")],
            admin_password: Some(PASSWORD.into()),
            workers: Some(2),
            // The minimum that Argon2 accepts: otherwise hashing would dominate the run time of the tests.
            argon2_memory_kib: 8,
            argon2_iterations: 1,
            // The tests of the policies run the policy tests.
            policy_tests: PolicyTests::Off,
            ..Config::default()
        };
        change(&mut config);
        let clock = Clock::manual("2026-01-31T12:00:00Z".parse().unwrap());
        Self::open(database.into(), config, clock).await
    }

    /// Starts a replica with the same database and clock, and changed settings.
    pub async fn start_replica(&self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = self.config.clone();
        change(&mut config);
        Self::open(Arc::clone(&self.database), config, self.clock.clone()).await
    }

    /// Starts a replica with the same database and settings, and a clock that is ahead by this many milliseconds.
    pub async fn start_replica_ahead(&self, millis: i64) -> Self {
        let clock = Clock::manual(self.clock.now());
        clock.advance(millis);
        Self::open(Arc::clone(&self.database), self.config.clone(), clock).await
    }

    async fn open(database: Arc<Database>, config: Config, clock: Clock) -> Self {
        let app = App::open(&config, clock.clone()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let server = app.serve(listener).await.unwrap();
        let handle = server.handle();
        tokio::spawn(server);
        Self {
            base,
            clock,
            config,
            state: Arc::clone(&app.state),
            http: Arc::clone(&app.http),
            database,
            handle,
        }
    }

    /// Executes a statement directly in the database.
    pub async fn sql(&self, statement: &str) {
        self.database.sql(statement).await;
    }

    /// The URL of the database.
    pub fn url(&self) -> &str {
        &self.database.url
    }

    /// The URL of the PostgreSQL server and the name of the database; none for SQLite.
    pub fn postgres(&self) -> Option<(String, String)> {
        self.database.server.clone()
    }

    /// The complete contents of the database as text: the bytes of the files, or every row of every table.
    pub async fn dump(&self) -> String {
        self.database.dump().await
    }

    /// The number that a query returns.
    pub async fn count(&self, query: &str) -> i64 {
        let connection = sea_orm::Database::connect(self.url()).await.unwrap();
        let statement = Statement::from_string(connection.get_database_backend(), query);
        let row = connection.query_one_raw(statement).await.unwrap().unwrap();
        let number = row.try_get_by_index(0).unwrap();
        connection.close().await.unwrap();
        number
    }

    /// A directory for the files of the test.
    pub fn directory(&self) -> &std::path::Path {
        self.database.directory.path()
    }

    /// A client without credentials.
    pub fn anonymous(&self) -> Client {
        Client { http: http_client(), base: self.base.clone(), bearer: None, id: String::new() }
    }

    /// A client with this bearer token or key.
    pub fn bearer(&self, bearer: &str) -> Client {
        Client { bearer: Some(bearer.to_owned()), ..self.anonymous() }
    }

    /// Logs a user in, and returns the token response.
    pub async fn log_in(&self, email: &str) -> Value {
        let body = json!({ "email": email, "password": PASSWORD });
        self.anonymous().post("/v2/auth/token", body).await.expect(StatusCode::OK)
    }

    /// A client that is logged in as this user.
    pub async fn client(&self, email: &str) -> Client {
        let tokens = self.log_in(email).await;
        let id = tokens["user"].as_str().unwrap().to_owned();
        Client { id, ..self.bearer(tokens["token"].as_str().unwrap()) }
    }

    /// A client for the first admin, of the root organization.
    pub async fn admin(&self) -> Client {
        self.client(ADMIN).await
    }

    /// Creates a user with this role in the root organization, and logs it in.
    pub async fn user(&self, role: Scope) -> Client {
        let email = format!("{role}-{}@example.com", Id::new(&Clock::system()));
        let body = json!({ "email": email, "password": PASSWORD, "role": role });
        self.admin().await.post("/v2/users", body).await.expect(StatusCode::CREATED);
        self.client(&email).await
    }

    /// Creates an organization below the root with one admin, who is logged in.
    pub async fn tenant(&self, name: &str) -> (String, Client) {
        let admin = self.admin().await;
        let organization = admin.post("/v2/organizations", json!({ "name": name })).await;
        let organization = organization.expect(StatusCode::CREATED)["id"].as_str().unwrap().to_owned();
        let email = format!("admin@{name}.example");
        let body =
            json!({ "email": email, "password": PASSWORD, "role": "admin", "organization": organization });
        admin.post("/v2/users", body).await.expect(StatusCode::CREATED);
        (organization, self.client(&email).await)
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

/// A client of the service, with or without credentials.
#[derive(Clone)]
pub struct Client {
    pub http: reqwest::Client,
    pub base: String,
    pub bearer: Option<String>,
    /// The id of its user, if it is logged in.
    pub id: String,
}

/// A response.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    pub json: Value,
    request_line: String,
}

impl Reply {
    /// The body. Fails unless the status is as expected.
    #[track_caller]
    pub fn expect(self, status: StatusCode) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.request_line, self.text);
        self.json
    }

    /// As [`Reply::expect`], without the ids of the evaluations: see [`without_evaluation_ids`].
    #[track_caller]
    pub fn expect_decisions(self, status: StatusCode) -> Value {
        without_evaluation_ids(self.expect(status))
    }

    /// Asserts that the response is a problem with this status and code, in the common form. Returns the names of the invalid
    /// fields.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, code: &str) -> Vec<String> {
        assert_eq!(
            (self.status.as_u16(), self.json["code"].as_str()),
            (status, Some(code)),
            "{}: {}",
            self.request_line,
            self.text
        );
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.request_line);
        assert_eq!(self.json["status"], status);
        assert_eq!(self.json["error"]["message"], self.json["detail"]);
        assert_eq!(self.json["requestId"], self.header("x-request-id"));
        assert_eq!(self.json["type"], "about:blank");
        assert!(self.json["title"].is_string());
        self.field_errors().into_iter().map(|(field, _)| field).collect()
    }

    /// The field errors of a problem: field and code.
    #[track_caller]
    pub fn field_errors(&self) -> Vec<(String, String)> {
        let errors = self.json["errors"].as_array().cloned().unwrap_or_default();
        let text = |error: &Value, member: &str| error[member].as_str().unwrap().to_owned();
        errors.iter().map(|error| (text(error, "field"), text(error, "code"))).collect()
    }

    /// The value of a header; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The id in the body.
    pub fn id(&self) -> String {
        self.json["id"]
            .as_str()
            .unwrap_or_else(|| panic!("{}: no id in {}", self.request_line, self.text))
            .to_owned()
    }
}

impl Client {
    /// Sends a request with additional headers and a body.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Reply {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    /// Sends a request. None if there is no response.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> reqwest::Result<Reply> {
        let request_line = format!("{method} {path}");
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(bearer) = &self.bearer {
            request = request.bearer_auth(bearer);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await?;
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Reply { status, headers, text, json, request_line })
    }

    /// Sends a JSON body, if any.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Reply {
        match body {
            Some(body) => {
                let bytes = serde_json::to_vec(&body).unwrap();
                self.send(method, path, &[("content-type", "application/json")], Some(bytes)).await
            }
            None => self.send(method, path, &[], None).await,
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.call(Method::POST, path, Some(body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Reply {
        self.call(Method::PATCH, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.call(Method::DELETE, path, None).await
    }

    /// Creates an API key with these scopes for the client's own user.
    pub async fn key(&self, scopes: &[Scope]) -> String {
        let reply = self.post("/v2/users/me/keys", json!({ "name": "test", "scopes": scopes })).await;
        reply.expect(StatusCode::CREATED)["key"].as_str().unwrap().to_owned()
    }
}

/// Removes the id of the evaluation from every decision of an answer. Fails if a decision has none.
#[track_caller]
pub fn without_evaluation_ids(mut answer: Value) -> Value {
    let is_single = answer["decision"].is_boolean();
    let decisions = match is_single {
        true => std::slice::from_mut(&mut answer),
        false => answer["evaluations"].as_array_mut().expect("no decision in the answer"),
    };
    for decision in decisions {
        let context = decision["context"].as_object_mut().expect("no context");
        let id = context.remove("evaluation_id");
        let id = id.as_ref().and_then(Value::as_str).expect("no evaluation_id");
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        if context.is_empty() {
            decision.as_object_mut().unwrap().remove("context");
        }
    }
    answer
}
