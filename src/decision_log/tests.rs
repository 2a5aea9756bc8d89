use super::*;
use crate::types::{EvaluationId, Id, Timestamp, to_raw_json};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

mod disk;
mod mask;
mod rotation;

/// JSON that lives until the process ends.
fn leak_json(value: &impl Serialize) -> &'static serde_json::value::RawValue {
    Box::leak(to_raw_json(value))
}

/// A record of a decision on the conversation with this id.
fn record(id: &str) -> Record<'_> {
    Record {
        time: Timestamp::from_millis(1_767_225_600_000),
        request: Some("r-1"),
        evaluation_id: EvaluationId::generate(),
        purpose: Purpose::Question,
        caller: leak_json(&Caller {
            user: Id::EXAMPLE,
            credential: "apiKey",
            credential_id: Some(Id::EXAMPLE),
        }),
        subject: leak_json(&Subject {
            kind: "User",
            id: "599e1fcd9da1c72645c95886",
            scopes: &["guest"],
            claimed: &["guest"],
        }),
        action: leak_json(&"fetchConversation"),
        resource: leak_json(&ResourceUid { kind: "Conversation", id }),
        decision: true,
        policies: leak_json(&["guest"]),
        errors: &[],
        policy_version: leak_json(&"v1"),
        latency: Duration::from_nanos(12_345),
        is_stale: false,
        is_missing: false,
        is_masked: false,
        inputs: None,
        search: None,
    }
}

/// Inputs with these entities and this context.
fn inputs(entities: [&Value; 2], context: &Value) -> Option<Inputs<'static>> {
    let entities = entities.map(|entity| Some(leak_json(entity)));
    Some(Inputs { entities, context: leak_json(context), resource: None, is_new: false })
}

/// Records a decision on the conversation with this number as its id.
fn record_number(log: &DecisionLog, number: u64) {
    assert!(log.record(&record(&number.to_string())));
}

/// The line of the record of [`record_number`].
fn line(number: u64) -> Vec<u8> {
    let mut line = Vec::new();
    Mask::new(&[]).write(&record(&number.to_string()), &mut line);
    line
}

fn settings(path: &Path) -> Settings {
    Settings {
        decisions: DecisionLogFilter::All,
        target: LogTarget::File(path.to_owned()),
        max_bytes: u64::MAX,
        max_files: 3,
        queue_length: 64,
        overflow: Overflow::Block,
        max_wait: Duration::from_secs(20),
        mask: Vec::new(),
    }
}

fn parsed(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

fn lines(path: &Path) -> Vec<Value> {
    parsed(&std::fs::read_to_string(path).unwrap())
}

/// The conversation numbers in these lines.
fn numbers(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["resource"]["id"].as_str().unwrap().parse().unwrap()).collect()
}

/// The total number of dropped records that these lines report.
fn reported_drops(lines: &[Value]) -> u64 {
    lines.iter().filter_map(|line| line["dropped"].as_u64()).sum()
}

/// A writer that blocks at every write until `resume` receives a message or is disconnected.
struct BlockingWriter {
    entered: mpsc::Sender<()>,
    resume: mpsc::Receiver<()>,
    file: std::fs::File,
}

impl Write for BlockingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Both fail once the test has dropped its ends, and the writer no longer blocks.
        let _ = self.entered.send(());
        let _ = self.resume.recv();
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A log whose writer blocks at the first line, number 0, until the returned sender is dropped.
fn blocked_log(settings: &Settings) -> (DecisionLog, mpsc::Sender<()>) {
    let LogTarget::File(path) = &settings.target else { panic!("the target must be a file") };
    let (entered, has_entered) = mpsc::channel();
    let (release, resume) = mpsc::channel();
    let writer = BlockingWriter { entered, resume, file: std::fs::File::create(path).unwrap() };
    let counts = Arc::<LogCounters>::default();
    let lines = LineWriter::to_writer(Box::new(writer), Arc::clone(&counts));
    let log = DecisionLog::start(settings, lines, counts).unwrap();
    record_number(&log, 0);
    has_entered.recv().unwrap();
    (log, release)
}

#[test]
fn a_line_has_its_fields_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&settings(&path)).unwrap();
    let inputs = inputs([&json!({"uid": 1}), &json!({"uid": 2})], &json!({"ip": "127.0.0.1"}));
    let record = Record { inputs, ..record("7") };
    assert!(log.record(&record));
    log.close();
    let expected = r#"{"time":"2026-01-01T00:00:00.000Z","requestId":"r-1",
        "evaluation_id":"ID","purpose":"question",
        "caller":{"user":"599e1fcd9da1c72645c95886","credential":"apiKey","credentialId":"599e1fcd9da1c72645c95886"},
        "subject":{"type":"User","id":"599e1fcd9da1c72645c95886","scopes":["guest"],"claimed":["guest"]},
        "action":"fetchConversation","resource":{"type":"Conversation","id":"7"},"decision":true,
        "policies":["guest"],"errors":[],"policyVersion":"v1","latencyMicros":12.345,
        "inputs":{"entities":[{"uid":1},{"uid":2}],"context":{"ip":"127.0.0.1"}}}"#;
    let expected: String = expected.lines().map(str::trim_start).collect();
    let expected = expected.replace("ID", &record.evaluation_id.to_string());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected + "\n");
}

#[test]
fn request_ids_are_escaped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&settings(&path)).unwrap();
    let ids = [
        "plain",
        "",
        "\"",
        "\\",
        "a\",\"decision\":true,\"b\":\"",
        "tab\tnew\nline",
        "\u{1f}",
        "größer \u{1f600}",
    ];
    for id in ids {
        assert!(log.record(&Record { request: Some(id), decision: false, ..record("1") }));
    }
    assert!(log.record(&Record { request: None, ..record("1") }));
    log.close();
    let lines = lines(&path);
    let found: Vec<&Value> = lines.iter().map(|line| &line["requestId"]).collect();
    assert_eq!(
        found,
        ids.iter().map(|id| json!(id)).chain([Value::Null]).collect::<Vec<_>>().iter().collect::<Vec<_>>()
    );
    assert!(lines[..ids.len()].iter().all(|line| line["decision"] == false));
}

#[test]
fn records_of_many_threads_are_written_once_and_in_order() {
    const THREADS: u64 = 8;
    const EACH: u64 = 10_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    // With this capacity, some batches fit as a whole, and others are queued line by line.
    let log = DecisionLog::open(&Settings { queue_length: 100, ..settings(&path) }).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope.spawn(move || {
                // Every other thread records in batches.
                let batch = (thread % 2 == 1).then(|| log.batch_recorder(|| panic!("no record is refused")));
                for number in thread * EACH..(thread + 1) * EACH {
                    match &batch {
                        Some(batch) => batch.record(&record(&number.to_string())),
                        None => record_number(log, number),
                    }
                }
            });
        }
    });
    log.close();
    assert_eq!((log.written(), log.dropped()), (THREADS * EACH, 0));
    let found = numbers(&lines(&path));
    for thread in 0..THREADS {
        let own: Vec<u64> = found.iter().copied().filter(|number| number / EACH == thread).collect();
        assert!(own.into_iter().eq(thread * EACH..(thread + 1) * EACH));
    }
    assert_eq!(found.len() as u64, THREADS * EACH);
}

#[test]
fn records_beyond_capacity_are_dropped_and_reported_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (log, release) =
        blocked_log(&Settings { queue_length: 4, overflow: Overflow::Drop, ..settings(&path) });
    (1..=10).for_each(|number| record_number(&log, number));
    assert_eq!(log.dropped(), 6);
    drop(release);
    log.close();
    assert_eq!(log.written(), 5);
    let lines = lines(&path);
    assert_eq!(numbers(&lines[..5]), [0, 1, 2, 3, 4]);
    assert_eq!(lines[5..], [json!({"dropped": 6, "time": "2026-01-01T00:00:00.000Z"})]);
}

#[test]
fn a_batch_is_flushed_on_drop_or_dropped_when_full() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (log, release) =
        blocked_log(&Settings { queue_length: 4, overflow: Overflow::Drop, ..settings(&path) });
    let batch = log.batch_recorder(|| panic!("no record is refused"));
    (1..=3).for_each(|number| batch.record(&record(&number.to_string())));
    record_number(&log, 4);
    drop(batch);
    let batch = log.batch_recorder(|| panic!("no record is refused"));
    (5..=6).for_each(|number| batch.record(&record(&number.to_string())));
    assert_eq!(log.dropped(), 0);
    drop(batch);
    assert_eq!(log.dropped(), 2);
    drop(release);
    log.close();
    let batch = log.batch_recorder(|| panic!("no record is refused"));
    batch.record(&record("7"));
    drop(batch);
    assert_eq!((log.written(), log.dropped()), (5, 3));
    let lines = lines(&path);
    assert_eq!(numbers(&lines[..5]), [0, 4, 1, 2, 3]);
    assert_eq!(lines[5..], [json!({"dropped": 2, "time": "2026-01-01T00:00:00.000Z"})]);
}

#[test]
fn written_and_dropped_records_add_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&Settings { queue_length: 8, overflow: Overflow::Drop, ..settings(&path) })
        .unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5_000).for_each(|number| record_number(&log, number)));
        }
    });
    log.close();
    assert_eq!(log.written() + log.dropped(), 20_000);
    let lines = lines(&path);
    assert_eq!(reported_drops(&lines), log.dropped());
    assert_eq!(lines.iter().filter(|line| line.get("action").is_some()).count() as u64, log.written());
}

#[tokio::test]
async fn a_full_queue_delays_requests_without_blocking_a_thread() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let wait = Duration::from_millis(20);
    let (log, release) = blocked_log(&Settings { queue_length: 2, max_wait: wait, ..settings(&path) });
    record_number(&log, 1);
    assert!(!log.is_full() && log.wait_for_room().await);
    // A request that was admitted records all of its decisions.
    (2..=9).for_each(|number| record_number(&log, number));
    assert!(log.is_full() && !log.wait_for_room().await);
    drop(release);
    while log.is_full() {
        tokio::task::yield_now().await;
    }
    assert!(log.wait_for_room().await);
    log.close();
    record_number(&log, 10);
    assert!(numbers(&lines(&path)).into_iter().eq(0..=9));
    assert_eq!((log.written(), log.dropped()), (10, 1));
}

#[tokio::test]
async fn a_waiting_request_continues_when_there_is_space() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (log, release) = blocked_log(&Settings { queue_length: 1, ..settings(&path) });
    record_number(&log, 1);
    let waiting = (0..50).map(|_| log.wait_for_room());
    let release_writer = async {
        tokio::task::yield_now().await;
        drop(release);
    };
    let (found, ()) = tokio::join!(futures_util::future::join_all(waiting), release_writer);
    assert!(found.into_iter().all(|has_room| has_room));
}

#[test]
fn memory_is_bounded_and_refused_records_are_counted_and_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (log, release) = blocked_log(&settings(&path));
    let long = "7".repeat(1 << 20);
    let taken = (0..100).take_while(|_| log.record(&record(&long))).count();
    assert!((60..=64).contains(&taken), "{taken}");
    drop(release);
    log.close();
    assert_eq!((log.written(), log.dropped()), (taken as u64 + 1, 1));
    assert_eq!(reported_drops(&lines(&path)), 1);
}

#[test]
fn dropping_the_last_handle_closes_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&settings(&path)).unwrap();
    let copy = log.clone();
    drop(log);
    record_number(&copy, 1);
    drop(copy);
    assert_eq!(numbers(&lines(&path)), [1]);
}

#[test]
fn a_full_file_is_rotated_and_old_files_are_limited() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let size = {
        let log = DecisionLog::open(&settings(&path)).unwrap();
        record_number(&log, 100);
        log.close();
        std::fs::metadata(&path).unwrap().len()
    };
    // Ten lines fit into a file. The log is reopened in between.
    for numbers in [101..125, 125..150] {
        let log = DecisionLog::open(&Settings { max_bytes: 10 * size + 5, ..settings(&path) }).unwrap();
        numbers.for_each(|number| record_number(&log, number));
    }
    let rotated = |suffix: &str| directory.path().join(format!("log{suffix}"));
    for (suffix, first) in [("", 140), (".1", 130), (".2", 120), (".3", 110)] {
        let found = numbers(&lines(&rotated(suffix)));
        assert!(found.iter().copied().eq(first..first + 10), "{suffix}: {found:?}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 4);
}

#[test]
fn a_line_longer_than_the_limit_gets_its_own_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&Settings { max_bytes: 10, ..settings(&path) }).unwrap();
    (1..=3).for_each(|number| record_number(&log, number));
    log.close();
    assert_eq!(numbers(&lines(&path)), [3]);
    assert_eq!(numbers(&lines(&directory.path().join("log.1"))), [2]);
    assert_eq!(numbers(&lines(&directory.path().join("log.2"))), [1]);
}

#[test]
fn writing_continues_when_rotation_fails() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    std::fs::create_dir(directory.path().join("log.new")).unwrap();
    let log = DecisionLog::open(&Settings { max_bytes: 10, ..settings(&path) }).unwrap();
    (1..=3).for_each(|number| record_number(&log, number));
    log.close();
    assert_eq!(numbers(&lines(&path)), [1, 2, 3]);
}

#[test]
fn allowed_prerequisites_are_recorded_in_the_full_log_only() {
    for (decisions, expected) in
        [(DecisionLogFilter::All, &[2, 3][..]), (DecisionLogFilter::Full, &[1, 2, 3])]
    {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = DecisionLog::open(&Settings { decisions, ..settings(&path) }).unwrap();
        let purpose = Purpose::Prerequisite;
        assert!(log.record(&Record { purpose, ..record("1") }));
        assert!(log.record(&Record { purpose, decision: false, ..record("2") }));
        assert!(log.record(&record("3")));
        log.close();
        assert_eq!(numbers(&lines(&path)), expected, "{decisions:?}");
    }
}

#[test]
fn the_filter_selects_denials_or_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log =
        DecisionLog::open(&Settings { decisions: DecisionLogFilter::Denials, ..settings(&path) }).unwrap();
    let purpose = Purpose::Question;
    assert!(log.should_record(false, purpose) && !log.should_record(true, purpose));
    record_number(&log, 1);
    assert!(log.record(&Record { decision: false, ..record("2") }));
    log.close();
    assert_eq!(numbers(&lines(&path)), [2]);
    assert_eq!((log.written(), log.dropped()), (1, 0));

    let path = directory.path().join("none");
    let off = DecisionLog::open(&Settings { decisions: DecisionLogFilter::Off, ..settings(&path) }).unwrap();
    assert!(!off.should_record(false, purpose) && !off.should_record(true, purpose));
    assert!(!DecisionLog::off().should_record(false, purpose));
    record_number(&off, 1);
    off.close();
    // A disabled log creates neither a file nor a thread.
    assert!(!path.exists() && off.0.is_none());
}

#[test]
fn an_open_error_names_the_file() {
    let error = DecisionLog::open(&settings(Path::new("/no/such/directory/log"))).unwrap_err().to_string();
    assert!(error.contains("/no/such/directory/log"), "{error}");
}

#[test]
fn a_partial_line_is_not_continued() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    std::fs::write(&path, "{\"time\":").unwrap();
    let log = DecisionLog::open(&settings(&path)).unwrap();
    record_number(&log, 1);
    log.close();
    let text = std::fs::read_to_string(&path).unwrap();
    let (partial, rest) = text.split_once('\n').unwrap();
    assert_eq!(partial, "{\"time\":");
    assert_eq!(numbers(&parsed(rest)), [1]);
}

#[test]
fn settings_are_taken_from_the_config() {
    let config = Config { decision_log_path: "stdout".into(), ..Config::default() };
    let settings = Settings::from(&config);
    assert_eq!((settings.decisions, settings.target), (DecisionLogFilter::Off, LogTarget::Stdout));
    let config = Config { decision_log_path: "a/log".into(), ..config };
    assert_eq!(Settings::from(&config).target, LogTarget::File("a/log".into()));
}

#[test]
fn recording_does_not_wait_for_the_disk() {
    const RECORDS: u32 = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (log, release) = blocked_log(&Settings { queue_length: RECORDS as usize, ..settings(&path) });
    (1..RECORDS).for_each(|number| record_number(&log, number.into()));
    // No line is written yet.
    assert_eq!(log.written(), 0);
    drop(release);
    log.close();
    assert_eq!(log.written(), u64::from(RECORDS));
}
