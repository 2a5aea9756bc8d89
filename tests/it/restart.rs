//! A PostgreSQL that is stopped and started again under load: while it is away everybody is told so, no answer is wrong,
//! nothing that was answered is lost, and afterwards everything goes on without a restart of the service.

use crate::access::{EVALUATION, EVALUATIONS, may, thing};
use crate::cluster::{Cluster, DATABASE_PASSWORD};
use crate::command_line::{Running, client, run, start, text};
use crate::families::access;
use crate::processes::{count, known_at, until_ended};
use crate::refresh::{expect_refused, refresh_token};
use crate::support::{ADMIN, Client, PASSWORD, Reply, jwt};
use futures_util::future::join;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::{JoinSet, block_in_place};

/// What the test waits for at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is done all the time.
#[derive(Clone, Copy)]
enum Kind {
    LogIn,
    Refresh,
    Write,
    Decide,
    /// What has ended is tried again.
    Ended,
    /// What is somebody else's is asked for.
    Foreign,
}

const KINDS: usize = 6;
/// How the server is stopped, one time after the other: at once as in a crash, and in order.
const STOPS: [&str; 5] = ["immediate", "fast", "immediate", "fast", "immediate"];

/// How much of it was answered, and how often the database was away.
#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    answered: [AtomicU64; KINDS],
    away: [AtomicU64; KINDS],
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::SeqCst)
    }

    /// The answer, which has this status; or none where it says that the database is away. There is no other one.
    #[track_caller]
    fn take(&self, kind: Kind, reply: Reply, expected: u16) -> Option<Value> {
        if reply.status == StatusCode::SERVICE_UNAVAILABLE {
            reply.expect_problem(503, "database_unavailable");
            assert_eq!(reply.header("retry-after"), "1");
            self.away[kind as usize].fetch_add(1, Ordering::SeqCst);
            return None;
        }
        let answer = reply.expect(StatusCode::from_u16(expected).unwrap());
        self.answered[kind as usize].fetch_add(1, Ordering::SeqCst);
        Some(answer)
    }
}

fn bearer(base: &str, token: &str) -> Client {
    Client { bearer: Some(token.to_owned()), ..client(base) }
}

async fn log_in(base: &str, email: &str) -> Reply {
    client(base).post("/v2/auth/token", json!({ "email": email, "password": PASSWORD })).await
}

async fn present(base: &str, token: &str, email: &str) -> Reply {
    client(base).post("/v2/auth/token", json!({ "refreshToken": token, "clientId": email })).await
}

/// Logs in on and on; gives the access tokens.
async fn logging_in(load: Arc<Load>, base: String, email: String) -> Vec<String> {
    let mut tokens = Vec::new();
    while load.goes_on() {
        let Some(pair) = load.take(Kind::LogIn, log_in(&base, &email).await, 200) else { continue };
        let own = bearer(&base, access(&pair)).get("/v2/users/me").await;
        if let Some(own) = load.take(Kind::LogIn, own, 200) {
            assert_eq!((&own["email"], &own["id"]), (&json!(email), &pair["user"]));
        }
        tokens.push(access(&pair).to_owned());
    }
    tokens
}

/// Refreshes on and on, at both processes at once; gives all tokens of the family.
async fn refreshing(load: Arc<Load>, bases: [String; 2], email: String, first: String) -> Vec<String> {
    let mut family = vec![first];
    while load.goes_on() {
        let token = family.last().unwrap();
        let replies = join(present(&bases[0], token, &email), present(&bases[1], token, &email)).await;
        let [one, two] = [replies.0, replies.1]
            .map(|reply| load.take(Kind::Refresh, reply, 200).map(|pair| refresh_token(&pair)));
        if let (Some(one), Some(two)) = (&one, &two) {
            assert_eq!(one, two, "a token is good twice");
        }
        let Some(next) = one.or(two) else { continue };
        assert!(!family.contains(&next));
        // A client that has lost the answer asks again.
        let again = present(&bases[family.len() % 2], token, &email).await;
        if let Some(again) = load.take(Kind::Refresh, again, 200) {
            assert_eq!(refresh_token(&again), next, "a token is good twice");
        }
        family.push(next);
    }
    family
}

/// Makes things and changes one; gives those that were made, by id and name.
async fn writing(load: Arc<Load>, admin: Client, counter: String) -> Vec<(String, String)> {
    let mut made = Vec::new();
    let path = format!("/v2/forms/{counter}");
    // What it may be: what was answered last, or anything since of which there was no answer.
    let mut possible = vec!["0".to_owned()];
    for number in 1.. {
        if !load.goes_on() {
            break;
        }
        let name = number.to_string();
        let reply = admin.post("/v2/forms", json!({ "name": name })).await;
        if let Some(form) = load.take(Kind::Write, reply, 201) {
            made.push((form["id"].as_str().unwrap().to_owned(), name.clone()));
        }
        let reply = admin.patch(&path, json!({ "name": name })).await;
        match load.take(Kind::Write, reply, 200) {
            Some(form) => {
                assert_eq!(form["name"], name);
                possible = vec![name];
            }
            None => possible.push(name),
        }
        if let Some(form) = load.take(Kind::Write, admin.get(&path).await, 200) {
            let found = form["name"].as_str().unwrap().to_owned();
            assert!(possible.contains(&found), "it is {found}, and was {possible:?}");
            possible = vec![found];
        }
    }
    made.push((counter, possible.pop().unwrap()));
    made
}

/// Changes the role of a user, and asks what follows from it.
async fn deciding(load: Arc<Load>, admin: Client, user: String, conversation: String) {
    let subject = || thing("User", &user);
    let fetch = may(subject(), "fetchConversation", thing("Conversation", &conversation));
    let delete = may(subject(), "deleteConversation", thing("Conversation", &conversation));
    let update = may(subject(), "updateMessage", thing("Conversation", &conversation));
    let list = may(subject(), "listContacts", thing("Organization", &organization_of(&admin).await));
    for role in ["guest", "agent"].into_iter().cycle() {
        if !load.goes_on() {
            break;
        }
        let changed = admin.patch(&format!("/v2/users/{user}"), json!({ "role": role })).await;
        let is_known = load.take(Kind::Decide, changed, 200).is_some();
        for _ in 0..3 {
            if let Some(answer) = load.take(Kind::Decide, admin.post(EVALUATION, list.clone()).await, 200) {
                let is_right = !is_known || answer == json!({ "decision": role == "agent" });
                assert!(is_right, "{role}: {answer}");
            }
            let batch = json!({ "evaluations": [fetch, delete, update] });
            if let Some(answers) = load.take(Kind::Decide, admin.post(EVALUATIONS, batch).await, 200) {
                let answers = &answers["evaluations"];
                assert_eq!(answers[0], json!({ "decision": true }), "{answers}");
                assert_eq!(
                    (&answers[1]["decision"], &answers[2]["decision"]),
                    (&json!(false), &json!(false))
                );
            }
        }
    }
}

async fn organization_of(client: &Client) -> String {
    let own = client.get("/v2/users/me").await.expect(StatusCode::OK);
    own["organization"].as_str().unwrap().to_owned()
}

/// Tries what has ended: bearers, and a refresh token.
async fn trying(load: Arc<Load>, bases: [String; 2], bearers: Vec<String>, token: String, email: String) {
    while load.goes_on() {
        for base in &bases {
            for ended in &bearers {
                load.take(Kind::Ended, bearer(base, ended).get("/v2/users/me").await, 401);
            }
            load.take(Kind::Ended, present(base, &token, &email).await, 401);
        }
    }
}

/// Asks for what is somebody else's, and for all that there is.
async fn reaching(load: Arc<Load>, admin: Client, own: String, foreign: String) {
    while load.goes_on() {
        load.take(Kind::Foreign, admin.get(&format!("/v2/forms/{foreign}")).await, 404);
        if let Some(all) = load.take(Kind::Foreign, admin.get("/v2/forms").await, 200) {
            let ids: Vec<_> = all.as_array().unwrap().iter().map(|form| &form["id"]).collect();
            assert_eq!(ids, [&json!(own)]);
        }
    }
}

/// Logs out as soon as the database is there.
async fn log_out(client: &Client) {
    let begun = Instant::now();
    loop {
        let reply = client.post("/v2/auth/logout", json!({})).await;
        if reply.status == StatusCode::NO_CONTENT {
            return;
        }
        reply.expect_problem(503, "database_unavailable");
        assert!(begun.elapsed() < PATIENCE, "it is still away");
    }
}

/// Waits until a session that has been ended at another process is refused, and not for long while it is good.
async fn until_refused(client: &Client) {
    let begun = Instant::now();
    loop {
        let reply = client.get("/v2/users/me").await;
        match reply.status {
            StatusCode::UNAUTHORIZED => return,
            StatusCode::OK => assert!(begun.elapsed() < Duration::from_secs(20), "it is good still"),
            _ => drop(reply.expect_problem(503, "database_unavailable")),
        }
    }
}

/// Both services, and what the test has made there.
struct World {
    services: [Running; 2],
    admin: Client,
}

impl World {
    fn base(&self, at: usize) -> String {
        self.services[at % 2].base.clone()
    }

    fn bases(&self) -> [String; 2] {
        [self.base(0), self.base(1)]
    }

    /// A new user, by email and id.
    async fn user(&self, name: &str, role: &str, organization: Option<&str>) -> (String, String) {
        let email = format!("{name}@example.com");
        let mut body = json!({ "email": email, "password": PASSWORD, "role": role });
        if let Some(organization) = organization {
            body["organization"] = json!(organization);
        }
        (email, self.admin.post("/v2/users", body).await.id())
    }

    /// A new organization with an admin, who has logged in at one of the two, and a form.
    async fn tenant(&self, name: &str, at: usize) -> (Client, String) {
        let organization = self.admin.post("/v2/organizations", json!({ "name": name })).await.id();
        let (email, _) = self.user(name, "admin", Some(&organization)).await;
        let pair = log_in(&self.base(at), &email).await.expect(StatusCode::OK);
        let admin = bearer(&self.base(at), access(&pair));
        let form = admin.post("/v2/forms", json!({ "name": "0" })).await.id();
        (admin, form)
    }

    /// What both say of whether they are ready.
    async fn readiness(&self) -> [u16; 2] {
        let [one, two] = self.bases().map(|base| client(&base));
        let (one, two) = join(one.get("/health/ready"), two.get("/health/ready")).await;
        [one.status.as_u16(), two.status.as_u16()]
    }

    /// Waits until something is so, while the work goes on.
    async fn until<T: 'static>(&self, work: &mut JoinSet<T>, what: &str, is_so: impl Fn([u16; 2]) -> bool) {
        let begun = Instant::now();
        while !is_so(self.readiness().await) {
            assert!(begun.elapsed() < PATIENCE, "{what}");
            if let Some(ended) = work.try_join_next() {
                drop(ended.unwrap());
                panic!("somebody has ended early");
            }
        }
    }
}

fn counts(of: &[AtomicU64; KINDS]) -> [u64; KINDS] {
    std::array::from_fn(|at| of[at].load(Ordering::SeqCst))
}

fn all_above(now: &[AtomicU64; KINDS], before: [u64; KINDS], by: u64) -> bool {
    counts(now).iter().zip(before).all(|(now, before)| *now >= before + by)
}

/// What a client keeps of its work.
enum Kept {
    Tokens(Vec<String>),
    Family(String, Vec<String>),
    Forms(Client, Vec<(String, String)>),
    Nothing,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_is_restarted_under_load_costs_errors_and_no_wrong_answer() {
    if std::env::var_os("TEST_POSTGRES_URL").is_none() {
        return; // SQLite is a file, and cannot be restarted.
    }
    let cluster = Cluster::new();
    let directory = TempDir::new().unwrap();
    let settings = [
        ("CEDARGATE_DATABASE_URL", cluster.url.as_str()),
        ("CEDARGATE_ADMIN_PASSWORD", PASSWORD),
        ("CEDARGATE_WORKERS", "2"),
        // However long it is away: who has lost an answer gets it again.
        ("CEDARGATE_REFRESH_GRACE", "600"),
        ("CEDARGATE_LOG", "trace"),
        ("CEDARGATE_DRAIN", "0"),
    ];
    let services = [0, 1].map(|_| block_in_place(|| start(directory.path(), &settings)));
    let pair = log_in(&services[0].base, ADMIN).await.expect(StatusCode::OK);
    let admin = bearer(&services[0].base, access(&pair));
    let world = World { services, admin };

    let load = Arc::new(Load::default());
    let mut work = JoinSet::new();
    for at in 0..2 {
        let load = || Arc::clone(&load);
        let (email, _) = world.user(&format!("login{at}"), "guest", None).await;
        let logins = logging_in(load(), world.base(at), email);
        work.spawn(async { Kept::Tokens(logins.await) });

        let (email, _) = world.user(&format!("refresh{at}"), "guest", None).await;
        let first = refresh_token(&log_in(&world.base(at), &email).await.expect(StatusCode::OK));
        let refreshes = refreshing(load(), world.bases(), email.clone(), first);
        work.spawn(async { Kept::Family(email, refreshes.await) });

        let (ours, form) = world.tenant(&format!("ours{at}"), at).await;
        let writes = writing(load(), ours.clone(), form.clone());
        work.spawn(async { Kept::Forms(ours, writes.await) });

        let (theirs, own) = world.tenant(&format!("theirs{at}"), at).await;
        let foreign = reaching(load(), theirs, own, form);
        work.spawn(async {
            foreign.await;
            Kept::Nothing
        });

        let (_, user) = world.user(&format!("decide{at}"), "guest", None).await;
        let asking = Client { base: world.base(at), ..world.admin.clone() };
        let conversation = asking.post("/v2/conversations", json!({})).await.id();
        let decisions = deciding(load(), asking, user, conversation);
        work.spawn(async {
            decisions.await;
            Kept::Nothing
        });
    }
    // A family that was ended by reuse, and a key that was deleted.
    let (email, _) = world.user("ended", "guest", None).await;
    let first = log_in(&world.base(0), &email).await.expect(StatusCode::OK);
    let owner = bearer(&world.base(0), access(&log_in(&world.base(0), &email).await.json));
    let second = present(&world.base(0), &refresh_token(&first), &email).await.expect(StatusCode::OK);
    let third = present(&world.base(0), &refresh_token(&second), &email).await.expect(StatusCode::OK);
    expect_refused(&present(&world.base(0), &refresh_token(&first), &email).await);
    let key = owner.post("/v2/users/me/keys", json!({ "name": "key", "scopes": ["guest"] })).await.json;
    owner.delete(&format!("/v2/users/me/keys/{}", key["id"].as_str().unwrap())).await;
    let bearers = [access(&first), access(&third), key["key"].as_str().unwrap()].map(str::to_owned);
    let tried = trying(Arc::clone(&load), world.bases(), bearers.into(), refresh_token(&third), email);
    work.spawn(async {
        tried.await;
        Kept::Nothing
    });

    for how in STOPS {
        let answered = counts(&load.answered);
        world.until(&mut work, "it goes on", |_| all_above(&load.answered, answered, 4)).await;
        let pair = log_in(&world.base(0), ADMIN).await.expect(StatusCode::OK);
        let here = bearer(&world.base(0), access(&pair));
        let there = known_at(&world.base(1), access(&pair)).await;
        let away = counts(&load.away);
        cluster.stop(how);
        world
            .until(&mut work, "everybody is told", |ready| {
                ready == [503, 503] && all_above(&load.away, away, 1)
            })
            .await;
        for base in world.bases() {
            let live = client(&base).get("/health/live").await;
            assert_eq!(live.status, StatusCode::NO_CONTENT, "it is the database that is away");
        }
        cluster.start();
        // What one ends as soon as it can, the other one sees, though it does not listen again yet.
        log_out(&here).await;
        until_refused(&there).await;
        world.until(&mut work, "it is back", |ready| ready == [200, 200]).await;
    }
    let answered = counts(&load.answered);
    world.until(&mut work, "it works again", |_| all_above(&load.answered, answered, 4)).await;
    load.is_over.store(true, Ordering::SeqCst);
    let kept = tokio::time::timeout(PATIENCE, work.join_all()).await.expect("everybody ends");
    println!("answered {:?}, away {:?}", counts(&load.answered), counts(&load.away));

    // Those sessions have ended that were to.
    let ended = "SELECT COUNT(*) FROM sessions WHERE ended_at IS NOT NULL";
    assert_eq!(count(&cluster.url, ended).await, 1 + i64::try_from(STOPS.len()).unwrap());
    // What was answered is there, whatever came between.
    let mut sessions = HashSet::new();
    for kept in kept {
        match kept {
            Kept::Tokens(tokens) => {
                for token in tokens {
                    let me = bearer(&world.base(1), &token).get("/v2/users/me").await;
                    me.expect(StatusCode::OK);
                    sessions.insert(jwt(&token).1["sid"].as_str().unwrap().to_owned());
                }
            }
            Kept::Forms(admin, forms) => {
                for (id, name) in forms {
                    let form = admin.get(&format!("/v2/forms/{id}")).await.expect(StatusCode::OK);
                    assert_eq!(form["name"], name);
                }
            }
            Kept::Family(email, family) => {
                let (last, spent) = family.split_last().unwrap();
                present(&world.base(0), last, &email).await.expect(StatusCode::OK);
                expect_refused(&present(&world.base(1), &spent[spent.len() / 2], &email).await);
            }
            Kept::Nothing => {}
        }
    }
    let twice =
        "SELECT COUNT(*) - COUNT(DISTINCT predecessor) FROM refresh_tokens WHERE predecessor IS NOT NULL";
    assert_eq!(count(&cluster.url, twice).await, 0);
    // The audit trail is whole, and tells of all of them.
    let verified = block_in_place(|| run(directory.path(), &settings[..1], &["audit", "verify"]));
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified.stderr));
    let mut offset = 0;
    loop {
        let path = format!("/v2/audit?event=login.succeeded&limit=1000&offset={offset}");
        let page = world.admin.get(&path).await.expect(StatusCode::OK);
        for entry in page.as_array().unwrap() {
            sessions.remove(entry["details"]["session"].as_str().unwrap());
        }
        offset += page.as_array().unwrap().len();
        if page.as_array().unwrap().is_empty() {
            break;
        }
    }
    assert_eq!(sessions, HashSet::new(), "logins of which the trail does not tell");

    // Both hear each other again.
    let listening = "SELECT COUNT(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %' OR query = 'SELECT 1'";
    let begun = Instant::now();
    while count(&cluster.url, listening).await != 2 {
        assert!(begun.elapsed() < PATIENCE, "one of them does not listen");
    }
    for at in 0..2 {
        let pair = log_in(&world.base(at), ADMIN).await.expect(StatusCode::OK);
        let there = known_at(&world.base(at + 1), access(&pair)).await;
        let here = bearer(&world.base(at), access(&pair));
        here.post("/v2/auth/logout", json!({})).await.expect(StatusCode::NO_CONTENT);
        until_ended(&there).await;
    }
    for service in world.services {
        let said = service.end();
        assert!(said.contains("the database cannot be reached"), "it tells the log what is the matter");
        assert!(!said.contains(DATABASE_PASSWORD), "the password of the database is in the log");
        let is_other = |line: &&str| line.contains("ERROR") && !line.contains("the database is unavailable");
        let errors: Vec<_> = said.lines().filter(is_other).collect();
        assert_eq!(errors, [] as [&str; 0]);
    }
}
