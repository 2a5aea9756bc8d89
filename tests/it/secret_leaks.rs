//! Secrets of every kind are sent to every endpoint, with success and failure, at the most verbose log level, and must not
//! appear in any output, in any encoding.

use crate::command_line::{client, program, run, start, text};
use crate::refresh::refresh_token;
use crate::secret_search::Secrets;
use crate::support::{ADMIN, Client, Database, Reply, project_file, to_base64};
use crate::token_families::access_token;
use reqwest::{Method, StatusCode};
use sea_orm::{ConnectionTrait, Statement};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Output, Stdio};
use std::sync::Mutex;
use tempfile::TempDir;

/// The responses of the service, except for the tokens and keys that they issue.
#[derive(Default)]
struct RecordedResponses(Mutex<Vec<u8>>);

impl RecordedResponses {
    fn record(&self, reply: &Reply) {
        let text = format!("{} {:?} {}\n", reply.status, reply.headers, reply.text);
        self.0.lock().unwrap().extend(text.bytes());
    }

    fn record_output(&self, output: &Output) {
        assert!(output.status.success(), "{}", text(&output.stderr));
        self.0.lock().unwrap().extend([output.stdout.as_slice(), &output.stderr].concat());
    }

    async fn send(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let body = (!body.is_empty()).then(|| body.as_bytes().to_vec());
        let reply = client.send(method, path, headers, body).await;
        self.record(&reply);
        reply
    }

    async fn post(&self, client: &Client, path: &str, body: Value) -> Reply {
        let reply = client.post(path, body).await;
        self.record(&reply);
        reply
    }

    async fn get(&self, client: &Client, path: &str) -> Reply {
        let reply = client.get(path).await;
        self.record(&reply);
        reply
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const UNKNOWN_ID: &str = "599e1fcd9da1c72645c95886";

/// Sends requests to one service with the secrets that they use.
struct LeakProbe {
    base: String,
    secrets: Secrets,
    answers: RecordedResponses,
    /// The first admin with an API key, and the key.
    key: Client,
    admin: Client,
}

impl LeakProbe {
    fn bearer(&self, bearer: &str) -> Client {
        Client { bearer: Some(bearer.to_owned()), ..client(&self.base) }
    }

    async fn log_in(&mut self, email: &str, password: &str, request: &str) -> Value {
        let body = json!({ "email": email, "password": password }).to_string().into_bytes();
        let headers = [JSON, ("x-request-id", request)];
        let reply = client(&self.base).send(Method::POST, "/v2/auth/token", &headers, Some(body)).await;
        let tokens = reply.expect(StatusCode::OK);
        self.secrets.add_tokens(request, &tokens);
        tokens
    }

    /// Logs the first admin in with its password, and creates a key.
    async fn new(base: &str, mut secrets: Secrets, password: &str) -> Self {
        let anonymous = client(base);
        let body = json!({ "email": ADMIN, "password": password });
        let tokens = anonymous.post("/v2/auth/token", body).await.expect(StatusCode::OK);
        secrets.add_tokens("the first admin", &tokens);
        let admin = Client { bearer: Some(access_token(&tokens).to_owned()), ..anonymous };
        let body = json!({ "name": "key", "scopes": ["admin"] });
        let created = admin.post("/v2/users/me/keys", body).await.expect(StatusCode::CREATED);
        let key = created["key"].as_str().unwrap();
        secrets.add("key", key.strip_prefix("cg_").unwrap());
        let key = Client { bearer: Some(key.to_owned()), ..admin.clone() };
        Self { base: base.to_owned(), secrets, answers: RecordedResponses::default(), key, admin }
    }

    /// Logins and refreshes, successful and failed.
    async fn exercise_passwords_and_tokens(&mut self) {
        let nobody = client(&self.base);
        let (password, new) = (self.secrets.generate("password"), self.secrets.generate("new password"));
        let (address, email) = (self.secrets.generate("masked email"), "ada@example.com");
        let body = json!({ "email": format!("{address}@example.com"), "password": password });
        // Email addresses are not secret, except in the decision log, which masks them.
        self.admin.post("/v2/users", body).await.expect(StatusCode::CREATED);
        let body = json!({ "email": email, "password": password, "role": "agent" });
        self.answers.post(&self.admin, "/v2/users", body).await.expect(StatusCode::CREATED);

        let first = self.log_in(email, &password, "canary-login").await;
        let body = json!({ "refreshToken": first["refreshToken"], "clientId": email });
        let second = nobody.post("/v2/auth/token", body.clone()).await.expect(StatusCode::OK);
        let user = self.bearer(access_token(&second));
        let path = |tokens: &Value| format!("/v2/auth/token?refreshToken={}", refresh_token(tokens));
        let third = user.get(&path(&second)).await.expect(StatusCode::OK);
        for (name, tokens) in [("second", &second), ("third", &third)] {
            self.secrets.add_tokens(name, tokens);
        }
        // By another user, malformed, and repeated, which revokes the family.
        self.answers.get(&self.admin, &path(&third)).await.expect_problem(401, "invalid_refresh_token");
        self.answers.get(&user, &format!("{}&x=1", path(&third))).await.expect_problem(400, "invalid_fields");
        self.answers.post(&nobody, "/v2/auth/token", body).await.expect_problem(401, "invalid_refresh_token");
        self.answers.get(&user, "/v2/users/me").await.expect_problem(401, "invalid_token");

        // Wrong passwords for known and unknown users, and passwords in other fields.
        let (wrong, unknown) =
            (self.secrets.generate("wrong password"), self.secrets.generate("password of an unknown user"));
        let mistyped = self.secrets.generate("password typed as address");
        for body in [
            json!({ "email": email, "password": wrong }),
            json!({ "email": "nobody@example.com", "password": unknown }),
            json!({ "email": format!("{mistyped}@example.com"), "password": wrong }),
            json!({ "email": mistyped, "password": wrong }),
            json!({ "email": email, "password": [wrong] }),
            json!({ "email": email, "password": { "text": wrong } }),
            json!({ "email": email, "password": wrong, "refreshToken": unknown, "clientId": mistyped }),
            json!({ "email": [mistyped], "refreshToken": wrong, "clientId": unknown }),
            json!({ "refreshToken": format!("{UNKNOWN_ID}.{wrong}"), "clientId": email }),
            json!([email, wrong]),
            json!(wrong),
        ] {
            let reply = self.answers.post(&nobody, "/v2/auth/token", body.clone()).await;
            assert!(reply.status.is_client_error(), "{body}: {}", reply.text);
        }
        let cut = self.secrets.generate("password in malformed JSON");
        for body in [
            format!("{{\"email\": \"{email}\", \"password\": \"{cut}"),
            format!("{{\"email\": \"{email}\", \"password\": {cut}}}"),
            format!("{{\"email\": \"{email}\", \"password\": \"{cut}\", \"password\": \"{cut}\"}}"),
            format!("{{\"email\": \"{email}\", \"password\": \"\\x{cut}\"}}"),
            format!("email={email}&password={cut}"),
        ] {
            for kind in [JSON, FORM, ("content-type", "text/plain")] {
                let reply = self.answers.send(&nobody, Method::POST, "/v2/auth/token", &[kind], &body).await;
                assert!(reply.status.is_client_error(), "{body}: {}", reply.text);
            }
        }

        // Changes the password: with a wrong current one, with one that is too long, and successfully.
        let fourth = self.log_in(email, &password, "canary-change").await;
        let user = self.bearer(access_token(&fourth));
        let long = self.secrets.generate("password that is too long").repeat(60);
        for (current, new, status) in [(&wrong, &new, 400), (&password, &long, 400), (&password, &new, 200)] {
            let body = json!({ "currentPassword": current, "password": new });
            let reply = user.patch("/v2/users/me", body).await;
            self.answers.record(&reply);
            assert_eq!(reply.status, status, "{}", reply.text);
        }
        for path in ["/v2/users/me", "/v2/users/me/sessions", "/v2/users/me/permissions"] {
            self.answers.get(&user, path).await.expect(StatusCode::OK);
        }
    }

    /// API keys, decisions, and introspection.
    async fn exercise_keys_and_evaluations(&mut self) {
        let mut keys = Vec::new();
        for format in ["cg", "hex"] {
            let body = json!({ "name": format, "scopes": ["bot"], "format": format });
            let created = self.admin.post("/v2/users/me/keys", body).await.expect(StatusCode::CREATED);
            let key = created["key"].as_str().unwrap().to_owned();
            self.secrets.add("key", key.strip_prefix("cg_").unwrap_or(&key));
            keys.push((created["id"].as_str().unwrap().to_owned(), self.bearer(&key), key));
        }
        let own = self.log_in("ada@example.com", &self.secret("new password"), "canary-question").await;
        let user = self.bearer(access_token(&own));
        let form = self.answers.post(&self.admin, "/v2/forms", json!({ "name": "form" })).await.id();
        let mut tokens: Vec<String> = keys.iter().map(|(.., key)| key.clone()).collect();
        tokens.extend([access_token(&own).to_owned(), refresh_token(&own)]);
        for token in &tokens {
            for client in [&user, &self.admin, &client(&self.base)] {
                let body = format!("token={token}");
                self.answers.send(client, Method::POST, "/v2/auth/introspect", &[FORM], &body).await;
                for explain in ["false", "true"] {
                    let body = json!({
                        "subject": { "token": token }, "action": { "name": "fetchForm" },
                        "resource": { "type": "Form", "id": form }, "context": { "token": token },
                    });
                    let headers = [JSON, ("x-explain", explain), ("x-request-id", "canary-authorize")];
                    let body = body.to_string();
                    self.answers.send(client, Method::POST, "/v2/authorize", &headers, &body).await;
                    let body = json!({
                        "subject": { "type": "User", "id": token, "properties": { "token": token } },
                        "action": { "name": "fetchForm", "properties": { "token": token } },
                        "resource": { "type": "Form", "id": form, "properties": { "token": token } },
                        "context": { "token": token },
                    });
                    let body = body.to_string();
                    client.send(Method::POST, "/access/v1/evaluation", &headers, Some(body.into())).await;
                }
                let uri = format!("/v2/forms/{form}?access_token={token}");
                for names in
                    [["x-original-method", "x-original-uri"], ["x-forwarded-method", "x-forwarded-uri"]]
                {
                    let headers = [(names[0], "GET"), (names[1], uri.as_str())];
                    self.answers.send(client, Method::GET, "/v2/authorize/forward", &headers, "").await;
                }
                let path = format!("/v2/authorize/forward{uri}");
                self.answers.get(client, &path).await;
            }
        }
        for (id, with_key, key) in &keys {
            self.answers.get(with_key, "/v2/forms").await.expect(StatusCode::OK);
            self.answers.get(with_key, "/v2/audit").await.expect_problem(403, "forbidden");
            self.answers.get(&self.admin, "/v2/users/me/keys").await.expect(StatusCode::OK);
            let gone = self.admin.delete(&format!("/v2/users/me/keys/{id}")).await;
            self.answers.record(&gone);
            self.answers.get(with_key, "/v2/forms").await.expect_problem(401, "invalid_token");
            let body = format!("token={key}");
            let anonymous = client(&self.base);
            self.answers.send(&anonymous, Method::POST, "/v2/auth/revoke", &[FORM], &body).await;
        }
        let body = format!("token={}", refresh_token(&own));
        let revoked = self.answers.send(&user, Method::POST, "/v2/auth/revoke", &[FORM], &body).await;
        revoked.expect(StatusCode::OK);
        self.answers.get(&user, "/v2/users/me").await.expect_problem(401, "invalid_token");
    }

    /// Wrong bearers, other schemes, tokens in query strings and secrets in bodies, at every endpoint.
    async fn exercise_every_endpoint(&mut self) {
        let header = self.secrets.generate("Authorization header");
        let query = self.secrets.generate("token in a query string");
        let body = self.secrets.generate("secret in a body");
        let basic = format!("Basic {}", to_base64(format!("admin:{header}").as_bytes()));
        let schemes = [
            basic,
            format!("Bearer {header}"),
            format!("Bearer a.b.{header}"),
            format!("Bearer cg_{header}"),
            format!("Token {header}"),
            format!("Digest username=\"admin\", response=\"{header}\""),
            format!("{header} {header}"),
            format!("Bearer {header} \u{e4}"),
        ];
        let document = self.admin.get("/openapi.json").await;
        self.answers.record(&document);
        let mut endpoints = vec![("/no/such/path".to_owned(), "get".to_owned())];
        for (path, methods) in document.json["paths"].as_object().unwrap() {
            let methods = methods.as_object().unwrap().keys();
            let methods = methods.filter(|name| ["get", "post", "patch", "delete"].contains(&name.as_str()));
            endpoints.extend(methods.map(|method| (path.clone(), method.clone())));
        }
        assert!(endpoints.len() > 60, "{endpoints:?}");
        let anonymous = client(&self.base);
        for (path, method) in endpoints {
            let path = path
                .replace("{id}", UNKNOWN_ID)
                .replace("{sessionId}", UNKNOWN_ID)
                .replace("{keyId}", UNKNOWN_ID);
            let method: Method = method.to_uppercase().parse().unwrap();
            for scheme in &schemes {
                let headers = [("authorization", scheme.as_str()), JSON];
                self.answers.send(&anonymous, method.clone(), &path, &headers, "{}").await;
            }
            for client in [&anonymous, &self.key] {
                for name in ["access_token", "refreshToken", "token", "password"] {
                    let path = format!("{path}?{name}={query}");
                    self.answers.send(client, method.clone(), &path, &[JSON], "{}").await;
                }
                for (kind, text) in [
                    (JSON, json!({ "password": body, "currentPassword": body, "key": body }).to_string()),
                    (JSON, json!({ "password": [body], "token": { "x": body } }).to_string()),
                    (JSON, format!("{{\"password\": \"{body}")),
                    (JSON, format!("{{\"password\": {body}}}")),
                    (FORM, format!("password={body}&token={body}")),
                ] {
                    self.answers.send(client, method.clone(), &path, &[kind], &text).await;
                }
            }
        }
    }

    /// The secret that was generated under this name.
    fn secret(&self, name: &str) -> String {
        self.secrets.by_name.iter().find(|(known, _)| known == name).unwrap().1.clone()
    }

    /// All entries of the audit log as text.
    async fn audit_log(&self) -> String {
        let mut entries = String::new();
        for offset in (0..).step_by(1000) {
            let page = self.key.get(&format!("/v2/audit?limit=1000&offset={offset}")).await;
            if page.json == json!([]) {
                break;
            }
            entries += &page.text;
            page.expect(StatusCode::OK);
        }
        entries
    }
}

/// The texts that a query returns.
async fn query_texts(url: &str, query: &str) -> Vec<String> {
    let connection = sea_orm::Database::connect(url).await.unwrap();
    let statement = Statement::from_string(connection.get_database_backend(), query);
    let rows = connection.query_all_raw(statement).await.unwrap();
    connection.close().await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

/// Sends all requests, and searches all outputs. `more` are additional settings to those for the most verbose logs.
async fn search_all_outputs(format: &str, more: &[(&str, &str)], mut secrets: Secrets) {
    let database = Database::new().await;
    let directory = TempDir::new().unwrap();
    let admin_password = secrets.generate("password of the first admin");
    // The test server requires no password, and SQLite has none.
    let url =
        database.url.replace("cedargate@", &format!("cedargate:{}@", secrets.generate("database password")));
    let routes = project_file("tests/fixtures/own-routes.toml");
    let settings = [
        &[
            ("CEDARGATE_DATABASE_URL", url.as_str()),
            ("CEDARGATE_FORWARD_ROUTES", routes.to_str().unwrap()),
            ("CEDARGATE_ADMIN_PASSWORD", &admin_password),
            ("CEDARGATE_LOG", "trace"),
            ("CEDARGATE_LOG_FORMAT", format),
            ("CEDARGATE_SHUTDOWN_DRAIN_SECONDS", "0"),
            ("CEDARGATE_DECISION_LOG", "all"),
            ("CEDARGATE_DECISION_LOG_MASK", "email,phone"),
            ("CEDARGATE_ARGON2_MEMORY_KIB", "7168"),
        ],
        more,
    ]
    .concat();
    let service = tokio::task::block_in_place(|| start(directory.path(), &settings));
    let mut probe = LeakProbe::new(&service.base, secrets, &admin_password).await;
    probe.exercise_passwords_and_tokens().await;
    probe.exercise_keys_and_evaluations().await;
    probe.exercise_every_endpoint().await;
    let typed = probe.secrets.generate("password typed at the terminal");
    let mut command = program(directory.path(), &settings);
    command.args(["user", "set-password", "--email", "ada@example.com"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{typed}").unwrap();
    probe.answers.record_output(&child.wait_with_output().unwrap());
    for arguments in [["user", "list"], ["audit", "verify"], ["signing-key", "list"]] {
        probe.answers.record_output(&run(directory.path(), &settings, &arguments));
    }
    for path in ["/metrics", "/health/ready", "/health/live", "/v2/policies", "/.well-known/jwks.json"] {
        probe.answers.get(&probe.key, path).await;
    }
    let audit_log = probe.audit_log().await;
    let is_file = database.url.starts_with("sqlite");
    if is_file {
        probe.answers.record_output(&run(directory.path(), &settings, &["backup", "copy.db"]));
    }
    let LeakProbe { mut secrets, answers, .. } = probe;
    let (log, output) = tokio::task::block_in_place(|| service.stop_with_output());
    // Denials are appended to the audit log at the shutdown at the latest.
    let stored = database.dump().await;
    let printed = log + &output;

    // Known contents must be found, which shows that the search works on each output.
    let answers = String::from_utf8(answers.0.into_inner().unwrap()).unwrap();
    let level = if format == "json" { "\"level\":\"TRACE\"" } else { "TRACE" };
    let decisions = std::fs::read_to_string(directory.path().join("decisions.ndjson")).unwrap();
    for (place, text, known) in [
        ("the log", &printed, level),
        ("the log", &printed, "canary-login"),
        ("the log", &printed, "/v2/auth/introspect"),
        ("the trail", &audit_log, "canary-login"),
        ("the database", &stored, "access.denied"),
        ("the decisions", &decisions, "canary-authorize"),
        ("the decisions", &decisions, "\"email\":\"***\""),
        ("the database", &stored, "ada@example.com"),
        ("the answers", &answers, "cedargate_requests_total"),
        ("the answers", &answers, "malformed_json"),
        ("the answers", &answers, "not_found"),
    ] {
        assert!(text.contains(known), "{known:?} must be found in {place}");
    }

    // The database contains only hashes of them, and the addresses of its users.
    let address = secrets.by_name.iter().position(|(name, _)| name == "masked email").unwrap();
    let mut in_rows = Secrets::default();
    for (at, (name, secret)) in secrets.by_name.iter().enumerate().filter(|(at, _)| *at != address) {
        in_rows.add(&format!("{at}: {name}"), secret);
    }
    in_rows.expect_none("the database", stored.as_bytes());
    in_rows.expect_none("the answers", answers.as_bytes());
    if is_file {
        in_rows.expect_none("the backup", &std::fs::read(directory.path().join("copy.db")).unwrap());
    }
    // The signing keys are in the database, and nowhere else.
    for secret in query_texts(&database.url, "SELECT secret FROM signing_keys").await {
        assert!(stored.contains(&secret));
        secrets.add("key that signs", &secret);
    }
    secrets.expect_none("the log", printed.as_bytes());
    secrets.expect_none("the decision log", decisions.as_bytes());
    secrets.expect_none("the audit trail", audit_log.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_leaks_with_a_text_log_and_a_configured_key() {
    let mut secrets = Secrets::default();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("secret");
    let key = secrets.generate("configured key") + &secrets.generate("configured key");
    std::fs::write(&file, format!("{key}\n")).unwrap();
    search_all_outputs("text", &[("CEDARGATE_JWT_SECRET_FILE", file.to_str().unwrap())], secrets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_leaks_with_a_json_log_and_keys_in_the_database() {
    let more = [("CEDARGATE_TOKEN_ALGORITHM", "EdDSA")];
    search_all_outputs("json", &more, Secrets::default()).await;
}

#[test]
fn a_failed_start_leaks_no_secret() {
    let mut secrets = Secrets::default();
    let secret = secrets.generate("setting");
    let address = |rest: &str| ("CEDARGATE_DATABASE_URL", format!("postgres://user:{secret}@{rest}"));
    let (long, other) = (secret.repeat(60), format!("mysql://user:{secret}@127.0.0.1/name"));
    let settings = [
        address("127.0.0.1:1/name"),
        address("127.0.0.1:port/name"),
        address("[::1/name"),
        address("127.0.0.1:1/name?sslmode=perhaps"),
        address("127.0.0.1:1/name?unknown=parameter"),
        ("CEDARGATE_DATABASE_URL", other),
        ("CEDARGATE_DATABASE_URL", secret.clone()),
        ("CEDARGATE_JWT_SECRET", secret.clone()),
        ("CEDARGATE_JWT_SECRETS", secret.clone()),
        ("CEDARGATE_ADMIN_PASSWORD", long),
    ];
    for (name, value) in &settings {
        let directory = TempDir::new().unwrap();
        let all = [("CEDARGATE_LISTEN", "127.0.0.1:0"), ("CEDARGATE_LOG", "trace"), (name, value)];
        let output = run(directory.path(), &all, &[]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", text(&output.stderr));
        secrets.expect_none(name, &[output.stdout, output.stderr].concat());
    }
    let files = [
        format!("jwt_secret = \"{secret}"),
        format!("jwt_secret = {secret}"),
        format!("jwt_secret = [\"{secret}\"]"),
        format!("jwt_secret = {{ text = \"{secret}\" }}"),
        format!("jwt_secrets = \"{secret}\""),
        format!("jwt_secret: {secret}"),
        format!("database_url = \"mysql://user:{secret}@127.0.0.1/name\""),
        format!("[database]\nurl = \"{secret}\""),
        format!("admin_password = \"\\q{secret}\""),
    ];
    for file in &files {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("cedargate.toml"), file).unwrap();
        let output = run(directory.path(), &[("CEDARGATE_LISTEN", "127.0.0.1:0")], &[]);
        assert_eq!(output.status.code(), Some(1), "{file}: {}", text(&output.stderr));
        secrets.expect_none(file, &[output.stdout, output.stderr].concat());
    }
}
