use super::*;
use crate::values::{Id, Timestamp};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

#[derive(Debug)]
struct Answer {
    policies: Vec<String>,
    errors: Vec<String>,
}

impl Grounds for Answer {
    fn policies(&self) -> Vec<&str> {
        self.policies.iter().map(String::as_str).collect()
    }

    fn errors(&self) -> &[String] {
        &self.errors
    }
}

fn grounds(errors: &[&str]) -> Arc<dyn Grounds> {
    let errors = errors.iter().map(|error| (*error).to_owned()).collect();
    Arc::new(Answer { policies: vec!["guest".into()], errors })
}

/// The record of a decision about the thing with this number.
fn record(number: u64, grounds: &Arc<dyn Grounds>) -> Record {
    Record {
        time: Timestamp::from_millis(1_767_225_600_000),
        request: Some(Arc::<str>::from("r-1").into()),
        caller: Caller { user: Id::EXAMPLE, credential: "apiKey", credential_id: Some(Id::EXAMPLE) },
        subject: Subject { kind: "User".into(), id: Id::EXAMPLE.into(), scopes: vec!["guest"] },
        action: "fetchConversation".into(),
        resource: Thing { kind: "Conversation".into(), id: number.to_string().into() },
        decision: true,
        grounds: Arc::clone(grounds),
        policy_version: "v1".into(),
        latency: Duration::from_nanos(12_345),
        inputs: Inputs::None,
    }
}

fn settings(path: &Path) -> Settings {
    Settings {
        decisions: Decisions::All,
        to: Target::File(path.to_owned()),
        max_bytes: u64::MAX,
        keep: 3,
        queue: 64,
        overflow: Overflow::Block,
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

/// The numbers of the things in these lines.
fn numbers(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["resource"]["id"].as_str().unwrap().parse().unwrap()).collect()
}

/// How many records the lines say are missing.
fn told(lines: &[Value]) -> u64 {
    lines.iter().filter_map(|line| line["dropped"].as_u64()).sum()
}

/// A record at which the writer stands still until it is told to go on, and a sign that it got there.
fn stop() -> (Record, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (arrived, is_there) = mpsc::channel();
    let (go_on, told) = mpsc::channel::<()>();
    let mut stop = record(0, &grounds(&[]));
    stop.inputs = Inputs::made(move || {
        arrived.send(()).unwrap();
        let _ = told.recv();
        Value::Null
    });
    (stop, is_there, go_on)
}

#[test]
fn a_line_has_its_fields_in_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&settings(&path)).unwrap();
    let inputs = json!({"context": {"ip": "127.0.0.1"}});
    log.record(Record { inputs: Inputs::Known(inputs), ..record(7, &grounds(&[])) });
    log.close();
    let expected = r#"{"time":"2026-01-01T00:00:00.000Z","requestId":"r-1",
        "caller":{"user":"599e1fcd9da1c72645c95886","credential":"apiKey","credentialId":"599e1fcd9da1c72645c95886"},
        "subject":{"type":"User","id":"599e1fcd9da1c72645c95886","scopes":["guest"]},
        "action":"fetchConversation","resource":{"type":"Conversation","id":"7"},"decision":true,
        "policies":["guest"],"errors":[],"policyVersion":"v1","latencyMicros":12.345,
        "inputs":{"context":{"ip":"127.0.0.1"}}}"#;
    let expected: String = expected.lines().map(str::trim_start).collect();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected + "\n");
}

#[test]
fn every_record_of_many_threads_is_written_once_and_in_its_order() {
    const THREADS: u64 = 8;
    const EACH: u64 = 10_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&settings(&path)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope.spawn(move || {
                let grounds = grounds(&[]);
                for number in 0..EACH {
                    log.record(record(thread * EACH + number, &grounds));
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
fn what_finds_no_room_is_dropped_and_told_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&Settings { queue: 4, overflow: Overflow::Drop, ..settings(&path) }).unwrap();
    let (stop, is_there, go_on) = stop();
    log.record(stop);
    is_there.recv().unwrap();
    for number in 1..=10 {
        log.record(record(number, &grounds(&[])));
    }
    assert_eq!(log.dropped(), 6);
    go_on.send(()).unwrap();
    log.close();
    assert_eq!(log.written(), 5);
    let lines = lines(&path);
    assert_eq!(numbers(&lines[..5]), [0, 1, 2, 3, 4]);
    assert_eq!(lines[5..], [json!({"dropped": 6, "time": "2026-01-01T00:00:00.000Z"})]);
}

#[test]
fn what_is_written_and_what_is_dropped_is_all_that_was_sent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&Settings { queue: 8, overflow: Overflow::Drop, ..settings(&path) }).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let grounds = grounds(&[]);
                (0..5_000).for_each(|number| log.record(record(number, &grounds)));
            });
        }
    });
    log.close();
    assert_eq!(log.written() + log.dropped(), 20_000);
    let lines = lines(&path);
    assert_eq!(told(&lines), log.dropped());
    assert_eq!(lines.iter().filter(|line| line.get("action").is_some()).count() as u64, log.written());
}

#[test]
fn closing_writes_the_records_of_those_who_are_blocked_and_no_later_ones() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&Settings { queue: 1, ..settings(&path) }).unwrap();
    let open = log.0.as_ref().unwrap();
    let (stop, is_there, go_on) = stop();
    log.record(stop);
    is_there.recv().unwrap();
    std::thread::scope(|scope| {
        for number in 1..=4 {
            let log = &log;
            scope.spawn(move || log.record(record(number, &grounds(&[]))));
        }
        while open.queue.blocked() < 3 {
            std::thread::yield_now();
        }
        open.queue.close();
        go_on.send(()).unwrap();
    });
    log.close();
    log.close();
    log.record(record(5, &grounds(&[])));
    let mut found = numbers(&lines(&path));
    found.sort_unstable();
    assert_eq!(found, [0, 1, 2, 3, 4]);
    assert_eq!((log.written(), log.dropped()), (5, 1));
}

#[test]
fn the_last_copy_closes_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&settings(&path)).unwrap();
    let copy = log.clone();
    drop(log);
    copy.record(record(1, &grounds(&[])));
    drop(copy);
    assert_eq!(numbers(&lines(&path)), [1]);
}

#[test]
fn a_full_file_makes_room_and_so_many_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let size = {
        let log = DecisionLog::open(&settings(&path)).unwrap();
        log.record(record(100, &grounds(&[])));
        log.close();
        std::fs::metadata(&path).unwrap().len()
    };
    // Ten lines a file, and the log is opened again in between.
    for numbers in [101..125, 125..150] {
        let log = DecisionLog::open(&Settings { max_bytes: 10 * size + 5, ..settings(&path) }).unwrap();
        numbers.for_each(|number| log.record(record(number, &grounds(&[]))));
    }
    let beside = |ending: &str| directory.path().join(format!("log{ending}"));
    for (ending, first) in [("", 140), (".1", 130), (".2", 120), (".3", 110)] {
        let found = numbers(&lines(&beside(ending)));
        assert!(found.iter().copied().eq(first..first + 10), "{ending}: {found:?}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 4);
}

#[test]
fn a_line_that_is_longer_than_a_file_has_one_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&Settings { max_bytes: 10, ..settings(&path) }).unwrap();
    (1..=3).for_each(|number| log.record(record(number, &grounds(&[]))));
    log.close();
    assert_eq!(numbers(&lines(&path)), [3]);
    assert_eq!(numbers(&lines(&directory.path().join("log.1"))), [2]);
    assert_eq!(numbers(&lines(&directory.path().join("log.2"))), [1]);
}

#[test]
fn where_the_next_file_cannot_be_begun_the_lines_go_on_in_this_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    std::fs::create_dir(directory.path().join("log.new")).unwrap();
    let log = DecisionLog::open(&Settings { max_bytes: 10, ..settings(&path) }).unwrap();
    (1..=3).for_each(|number| log.record(record(number, &grounds(&[]))));
    log.close();
    assert_eq!(numbers(&lines(&path)), [1, 2, 3]);
}

#[test]
fn masked_attributes_show_their_names_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mask = vec!["email".into(), "address".into()];
    let log = DecisionLog::open(&Settings { mask, ..settings(&path) }).unwrap();
    let inputs = || {
        json!({"principal": {"attrs": {"email": "ada@example.com", "role": "agent"}},
            "context": {"named": [{"address": {"street": "\"Elm\" 1"}}, {"mail": "email"}]}})
    };
    let grounds = grounds(&["guest: no date: ada@example.com", r#"guest: "\"Elm\" 1""#]);
    log.record(Record { inputs: Inputs::made(inputs), ..record(1, &grounds) });
    log.close();
    let [line] = lines(&path).try_into().unwrap();
    let shown = json!({"principal": {"attrs": {"email": "***", "role": "agent"}},
        "context": {"named": [{"address": "***"}, {"mail": "email"}]}});
    assert_eq!(line["inputs"], shown);
    assert_eq!(line["errors"], json!(["guest: no date: ***", "guest: \"***\""]));
}

#[test]
fn denials_only_are_wanted_if_so_set_and_nothing_if_off() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&Settings { decisions: Decisions::Denials, ..settings(&path) }).unwrap();
    assert!(log.wants(false) && !log.wants(true));
    log.record(record(1, &grounds(&[])));
    log.record(Record { decision: false, ..record(2, &grounds(&[])) });
    log.close();
    assert_eq!(numbers(&lines(&path)), [2]);
    assert_eq!((log.written(), log.dropped()), (1, 0));

    let path = directory.path().join("none");
    let off = DecisionLog::open(&Settings { decisions: Decisions::Off, ..settings(&path) }).unwrap();
    assert!(!off.wants(false) && !off.wants(true) && !DecisionLog::off().wants(false));
    off.record(record(1, &grounds(&[])));
    off.close();
    // Neither a file nor a thread.
    assert!(!path.exists() && off.0.is_none());
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let error = DecisionLog::open(&settings(Path::new("/no/such/directory/log"))).unwrap_err().to_string();
    assert!(error.contains("/no/such/directory/log"), "{error}");
}

#[test]
fn a_line_that_was_left_half_written_is_not_continued() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    std::fs::write(&path, "{\"time\":").unwrap();
    let log = DecisionLog::open(&settings(&path)).unwrap();
    log.record(record(1, &grounds(&[])));
    log.close();
    let text = std::fs::read_to_string(&path).unwrap();
    let (half, rest) = text.split_once('\n').unwrap();
    assert_eq!(half, "{\"time\":");
    assert_eq!(numbers(&parsed(rest)), [1]);
}

/// A disk on which there is room for so many bytes, and then, after so many failures, for everything.
struct Disk {
    content: Arc<Mutex<Vec<u8>>>,
    room: usize,
    failures: usize,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.room == 0 {
            if self.failures > 0 {
                self.failures -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room = usize::MAX;
        }
        let taken = bytes.len().min(self.room);
        self.room -= taken;
        self.content.lock().unwrap().extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_loses_lines_but_neither_the_count_nor_the_next_ones() {
    let settings = settings(Path::new("unused"));
    let counts = Arc::<Counts>::default();
    let content = Arc::<Mutex<Vec<u8>>>::default();
    let one = serde_json::to_string(&record(1, &grounds(&[])).caller).unwrap().len();
    let disk = Disk { content: Arc::clone(&content), room: one, failures: 3 };
    let mut lines = Lines::to_writer(Box::new(disk), &settings, Arc::clone(&counts));
    for number in 1..=10 {
        lines.add(record(number, &grounds(&[])));
        lines.flush();
    }
    lines.end();
    let text = String::from_utf8(content.lock().unwrap().clone()).unwrap();
    let (half, rest) = text.split_once('\n').unwrap();
    assert_eq!(half.len(), one);
    let lines = parsed(rest);
    let dropped = counts.dropped.load(Ordering::Relaxed);
    assert_eq!(dropped, 3);
    assert_eq!(lines[0]["dropped"], dropped);
    assert_eq!(numbers(&lines[1..]), [4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(counts.written.load(Ordering::Relaxed), 7);
}

#[test]
#[cfg(target_os = "linux")]
fn a_device_that_takes_nothing_stops_nobody() {
    let log = DecisionLog::open(&Settings { queue: 2, ..settings(Path::new("/dev/full")) }).unwrap();
    (1..=1_000).for_each(|number| log.record(record(number, &grounds(&[]))));
    log.close();
    assert_eq!((log.written(), log.dropped()), (0, 1_000));
}

#[test]
fn inputs_that_cannot_be_made_cost_their_own_line_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&settings(&path)).unwrap();
    log.record(Record { inputs: Inputs::made(|| panic!("made to fail")), ..record(1, &grounds(&[])) });
    log.record(record(2, &grounds(&[])));
    log.close();
    let lines = lines(&path);
    assert_eq!((told(&lines), numbers(&lines[1..])), (1, vec![2]));
    assert_eq!((log.written(), log.dropped()), (1, 1));
}

#[test]
fn the_settings_are_those_of_the_service() {
    let config = Config { decision_log_to: "stdout".into(), ..Config::default() };
    let settings = Settings::from(&config);
    assert_eq!((settings.decisions, settings.to), (Decisions::Off, Target::Stdout));
    let config = Config { decision_log_to: "a/log".into(), ..config };
    assert_eq!(Settings::from(&config).to, Target::File("a/log".into()));
}

/// To hand a record over costs a fraction of a microsecond. This bound holds without optimization on a busy machine, too,
/// and would not if it made the line or waited for the disk.
#[test]
fn a_record_is_handed_over_without_waiting_for_its_line() {
    const RECORDS: u32 = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&Settings { queue: RECORDS as usize, ..settings(&path) }).unwrap();
    let grounds = grounds(&[]);
    let (stop, is_there, go_on) = stop();
    log.record(stop);
    is_there.recv().unwrap();
    let start = Instant::now();
    (1..RECORDS).for_each(|number| log.record(record(number.into(), &grounds)));
    let each = start.elapsed() / RECORDS;
    // Not one line was made so far.
    assert_eq!(log.written(), 0);
    go_on.send(()).unwrap();
    log.close();
    assert!(each < Duration::from_micros(50), "{each:?}");
    assert_eq!(log.written(), u64::from(RECORDS));
}
