//! Measures peak resident memory while clients try to exhaust the process. Each attack runs against its own service with the
//! default settings, except for the connection limit per address, since all clients have the same address.

use super::{Server, insert_rows, log_in, service_command, start};
use sea_orm::ConnectionTrait;
use serde_json::json;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The number of large messages.
const MESSAGES: usize = 1000;
/// The number of concurrent requests.
const CONCURRENCY: usize = 8;
/// The number of clients that send half of a body, and of those that read no response.
const CLIENTS: usize = 1100;
/// How long memory is observed while the clients are idle.
const WATCH_DURATION: Duration = Duration::from_secs(8);

/// Inserts messages of 250 KiB of one conversation directly into the database.
async fn insert_messages(directory: &Path) {
    let url = format!("sqlite://{}", directory.join("cedargate.db").display());
    let db = sea_orm::Database::connect(url).await.unwrap();
    let series =
        format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MESSAGES})");
    // Many small values, which need the most memory when parsed.
    let numbers = format!("replace(printf('%.*c', {}, '0'), '0', '0,')", 30_000);
    db.execute_unprepared(&format!(
        "INSERT INTO messages (id, organization, conversation, text, type, user, is_backchannel, actions, meta, created_at, updated_at) \
         {series} SELECT printf('cccc%020x', i), organization, id, printf('%.*c', 90000, 'x'), 'chat', \
         (SELECT id FROM users LIMIT 1), 0, '[' || {object} || ',' || {object} || ']', {object}, 0, 0 \
         FROM n, (SELECT * FROM conversations LIMIT 1)",
        object = format!("'{{\"a\":[' || {numbers} || '0]}}'"),
    ))
    .await
    .unwrap();
    db.close().await.unwrap();
}

fn serve(directory: &Path) -> Server {
    let mut command =
        service_command(directory, "off", &Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"));
    command.env("CEDARGATE_MAX_CONNECTIONS_PER_ADDRESS", "0").env("CEDARGATE_WORKERS", "4");
    start(command)
}

impl Server {
    /// The peak resident memory in MiB.
    fn peak_memory_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }
}

/// Sends [`CONCURRENCY`] requests concurrently. Returns the number of successful responses.
async fn run_concurrently(request: impl Fn(&reqwest::Client) -> reqwest::RequestBuilder) -> usize {
    let client = reqwest::Client::new();
    let answers = (0..CONCURRENCY).map(|_| async {
        let answer = request(&client).send().await.unwrap();
        let is_ok = answer.status().is_success();
        answer.bytes().await.unwrap();
        is_ok
    });
    futures_util::future::join_all(answers).await.into_iter().filter(|is_ok| *is_ok).count()
}

/// Opens [`CLIENTS`] connections and sends these bytes on each. Refused connections are left out.
fn open_connections(server: &Server, bytes: &[u8]) -> Vec<TcpStream> {
    let address = server.base.strip_prefix("http://").unwrap();
    let send = |_| {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_write_timeout(Some(Duration::from_secs(1))).ok()?;
        // The service may close the connection while the bytes are sent.
        let _ = stream.write_all(bytes);
        Some(stream)
    };
    (0..CLIENTS).filter_map(send).collect()
}

/// The longest response time of the liveness probe while these clients hold their connections.
async fn watch_health(server: &Server, clients: Vec<TcpStream>) -> Duration {
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < WATCH_DURATION {
        let request_began = Instant::now();
        reqwest::get(format!("{}/health/live", server.base)).await.unwrap();
        longest = longest.max(request_began.elapsed());
        actix_web::rt::time::sleep(Duration::from_millis(100)).await;
    }
    drop(clients);
    longest
}

pub(crate) async fn run_benchmark() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let directory = tempfile::tempdir().unwrap();
    drop(serve(directory.path()));
    insert_rows(directory.path(), 1).await;
    insert_messages(directory.path()).await;

    println!("{:52} {:>10}", "", "peak, MiB");
    let server = serve(directory.path());
    println!("{:52} {:10}", "resident memory, idle", server.peak_memory_mib());

    let token: Arc<str> = log_in(&server.base).await.into();
    let user = reqwest::Client::new().get(format!("{}/v2/users/me", server.base)).bearer_auth(&token);
    let user: serde_json::Value = user.send().await.unwrap().json().await.unwrap();
    let search = json!({
        "subject": { "type": "User", "id": user["id"] },
        "action": { "name": "fetchMessage" },
        "resource": { "type": "Message" },
        "page": { "limit": 1000 }
    });
    let url = format!("{}/access/v1/search/resource", server.base);
    let ok = run_concurrently(|client| client.post(&url).bearer_auth(&token).json(&search)).await;
    println!(
        "{:52} {:10}",
        format!("{CONCURRENCY} searches of {MESSAGES} large messages, {ok} answered"),
        server.peak_memory_mib()
    );
    drop(server);

    let server = serve(directory.path());
    let url = format!("{}/v2/messages?limit=1000", server.base);
    let ok = run_concurrently(|client| client.get(&url).bearer_auth(&token)).await;
    println!(
        "{:52} {:10}",
        format!("{CONCURRENCY} lists of {MESSAGES} large messages, {ok} answered"),
        server.peak_memory_mib()
    );
    drop(server);

    let server = serve(directory.path());
    let head = format!(
        "POST /access/v1/evaluation HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
    );
    let mut body = head.into_bytes();
    body.extend(std::iter::repeat_n(b'[', 900_000));
    let clients = open_connections(&server, &body);
    let health = watch_health(&server, clients).await;
    let name = format!("{CLIENTS} half-sent bodies, health within {} ms", health.as_millis());
    println!("{name:52} {:10}", server.peak_memory_mib());
    drop(server);

    let server = serve(directory.path());
    let head =
        format!("GET /v2/messages?limit=1000 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n");
    let clients = open_connections(&server, head.as_bytes());
    let health = watch_health(&server, clients).await;
    let name = format!("{CLIENTS} clients that do not read, health within {} ms", health.as_millis());
    println!("{name:52} {:10}", server.peak_memory_mib());
}
