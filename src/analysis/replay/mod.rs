//! Decides the lines of the decision log again, with the policies that made the decisions or with others.
//!
//! The files are read in blocks by one thread and decided by the others, with a bounded amount of memory. Requests that a
//! policy cannot distinguish are decided once ([`Engine::logged_request_key`]).

mod consistency;
mod line;
mod reader;
mod report;
mod tally;

pub use report::{Counted, FlipGroupReport, Flips, ReplayReport};
pub use tally::{Example, InvalidLine, ReplayedDecision};

use crate::authz::{AuthzDecision, Engine, LoggedUid};
use crate::types::Fingerprint;
use line::{LineKind, LoggedDecision};
use reader::Block;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use tally::{GroupKey, Position, Tally};

/// How many decisions a thread keeps. When there are more, it starts anew.
const MAX_KEPT_DECISIONS: usize = 50_000;

/// How many versions are kept. When there are more, they are looked up again.
const MAX_KEPT_VERSIONS: usize = 32;

/// A function that returns the policies of a version; none if the version is not known.
pub type VersionLookup<'a> = dyn Fn(&str) -> Option<Engine> + Sync + 'a;

/// The policies that decide the lines again.
#[derive(Clone, Copy)]
pub enum ReplayPolicies<'a> {
    /// The version of each line, so that every line must give what it says.
    OwnVersion(&'a VersionLookup<'a>),
    /// These policies, to see which decisions they change.
    Against(&'a Engine),
}

/// A log file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct ReplayError {
    path: PathBuf,
    error: io::Error,
}

/// Decides the lines of these files again, rotated files in the order in which they were written. Calls `on_progress` with the
/// bytes that were read, and with the bytes of all files.
///
/// # Errors
/// A file cannot be read.
pub fn replay(
    files: &[PathBuf],
    policies: ReplayPolicies<'_>,
    on_progress: &dyn Fn(u64, u64),
) -> Result<ReplayReport, ReplayError> {
    let files = reader::in_order(files);
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (sender, receiver) = sync_channel::<Block>(2 * threads);
    let receiver = Mutex::new(receiver);
    let versions = Mutex::default();
    let mut tally = Tally::default();
    let mut oversized = 0;
    let outcome = std::thread::scope(|scope| {
        let worker = || {
            let mut worker = Worker::new(policies, &names, &versions);
            while let Some(block) = next_block(&receiver) {
                worker.decide_block(&block);
            }
            worker.tally
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let outcome = send_files(&files, on_progress, |block| drop(sender.send(block)));
        drop(sender);
        for worker in workers {
            match worker.join() {
                Ok(part) => tally.merge(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcome
    });
    oversized += outcome?;
    Ok(ReplayReport::new(names, tally, oversized, matches!(policies, ReplayPolicies::Against(_))))
}

/// Reads the files. Returns the number of lines that are too long.
fn send_files(
    files: &[PathBuf],
    on_progress: &dyn Fn(u64, u64),
    mut on_block: impl FnMut(Block),
) -> Result<u64, ReplayError> {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let total: u64 = files.iter().map(|file| size(file)).sum();
    let (mut done, mut oversized) = (0, 0);
    for (index, path) in files.iter().enumerate() {
        let on_bytes = |bytes: usize| {
            done += bytes as u64;
            on_progress(done, total);
        };
        oversized += reader::read_file(path, index, on_bytes, &mut on_block)
            .map_err(|error| ReplayError { path: path.clone(), error })?;
    }
    Ok(oversized)
}

fn next_block(receiver: &Mutex<Receiver<Block>>) -> Option<Block> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// The policies of versions, as far as they were looked up.
type KnownVersions = Mutex<HashMap<String, Option<Arc<Engine>>>>;

/// A thread that decides lines.
struct Worker<'a> {
    policies: ReplayPolicies<'a>,
    files: &'a [String],
    versions: &'a KnownVersions,
    /// The version of the last line and its policies. Most lines have the same version as the one before.
    last_version: Option<(String, Option<Arc<Engine>>)>,
    /// Decisions by the id of their engine and the key of the request.
    decisions: HashMap<(u64, Fingerprint), Arc<ReplayedDecision>>,
    tally: Tally,
}

impl<'a> Worker<'a> {
    fn new(policies: ReplayPolicies<'a>, files: &'a [String], versions: &'a KnownVersions) -> Self {
        let (last_version, decisions, tally) = (None, HashMap::new(), Tally::default());
        Self { policies, files, versions, last_version, decisions, tally }
    }

    fn decide_block(&mut self, block: &Block) {
        let lines = block.text.split(|byte| *byte == b'\n').enumerate();
        let last = block.text.iter().filter(|byte| **byte == b'\n').count();
        for (index, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
            let is_cut = block.is_cut && index == last;
            self.decide_line((block.file, block.first_line + index), line, is_cut);
        }
    }

    /// Decides a line. `is_cut`: it does not end with a newline.
    fn decide_line(&mut self, position: Position, line: &[u8], is_cut: bool) {
        self.tally.lines += 1;
        match line::parse(line) {
            Ok(LineKind::Dropped(dropped)) => self.tally.dropped += dropped,
            Ok(LineKind::Search) => self.tally.searches += 1,
            Ok(LineKind::Masked) => self.tally.masked += 1,
            Ok(LineKind::NotEvaluated) => self.tally.not_evaluated += 1,
            Ok(LineKind::Decision(logged)) => self.decide(position, &logged),
            Err(_) if is_cut => self.tally.cut += 1,
            Err(message) => self.add_invalid(position, message),
        }
    }

    fn add_invalid(&mut self, position: Position, message: String) {
        let file = self.file_name(position);
        self.tally.add_invalid(|| InvalidLine { position, file, line: position.1, message });
    }

    fn file_name(&self, (file, _): Position) -> String {
        self.files.get(file).cloned().unwrap_or_default()
    }

    fn decide(&mut self, position: Position, logged: &LoggedDecision<'_>) {
        match self.policies {
            ReplayPolicies::Against(engine) => {
                let decided = self.decision(engine, logged);
                self.tally.count_replayed(logged.allowed);
                if decided.allowed != logged.allowed {
                    let example = example(position, self.file_name(position), logged, &decided);
                    self.tally.add_flip(group_key(logged, &decided), || example);
                } else if !is_same(logged, &decided) {
                    self.tally.other_policies += 1;
                }
            }
            ReplayPolicies::OwnVersion(lookup) => {
                let Some(engine) = self.engine_of(lookup, &logged.version) else {
                    return self.tally.add_unknown_version(&logged.version);
                };
                if !engine.implies_scopes(&logged.request, &logged.scopes) {
                    let message =
                        "the scopes of the subject are not those of its entity, its credential and its role";
                    return self.add_invalid(position, message.to_owned());
                }
                let decided = self.decision(&engine, logged);
                self.tally.count_replayed(logged.allowed);
                if !is_same(logged, &decided) {
                    let file = self.file_name(position);
                    self.tally.add_difference(|| example(position, file, logged, &decided));
                }
            }
        }
    }

    fn decision(&mut self, engine: &Engine, logged: &LoggedDecision<'_>) -> Arc<ReplayedDecision> {
        let key = (engine.instance_id(), engine.logged_request_key(&logged.request));
        if let Some(decision) = self.decisions.get(&key) {
            return Arc::clone(decision);
        }
        let decision = Arc::new(ReplayedDecision::from(&engine.decide_logged(&logged.request)));
        // A failure can depend on parts of the request that the key leaves out.
        if !decision.is_failed {
            if self.decisions.len() >= MAX_KEPT_DECISIONS {
                self.decisions.clear();
            }
            self.decisions.insert(key, Arc::clone(&decision));
        }
        decision
    }

    fn engine_of(&mut self, lookup: &VersionLookup<'_>, version: &str) -> Option<Arc<Engine>> {
        if let Some((last, engine)) = self.last_version.as_ref().filter(|(last, _)| last == version) {
            let _ = last;
            return engine.clone();
        }
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = match versions.get(version) {
            Some(engine) => engine.clone(),
            None => {
                let engine = lookup(version).map(Arc::new);
                if versions.len() >= MAX_KEPT_VERSIONS {
                    versions.clear();
                }
                versions.insert(version.to_owned(), engine.clone());
                engine
            }
        };
        self.last_version = Some((version.to_owned(), engine.clone()));
        engine
    }
}

impl From<&AuthzDecision> for ReplayedDecision {
    fn from(decision: &AuthzDecision) -> Self {
        Self {
            allowed: decision.allowed,
            policies: decision.policies.iter().map(|policy| policy.id.clone()).collect(),
            is_failed: !decision.errors.is_empty(),
        }
    }
}

/// Whether a line says what the policies decide.
fn is_same(logged: &LoggedDecision<'_>, decided: &ReplayedDecision) -> bool {
    (logged.allowed, logged.is_failed) == (decided.allowed, decided.is_failed)
        && logged.policies.iter().map(|policy| &**policy).eq(decided.policies.iter().map(String::as_str))
}

/// The group of a flip: by the policies that decide now, or else by those that decided before.
fn group_key(logged: &LoggedDecision<'_>, decided: &ReplayedDecision) -> GroupKey {
    let policies = match decided.policies.is_empty() {
        false => decided.policies.clone(),
        true => logged.policies.iter().map(|policy| policy.clone().into_owned()).collect(),
    };
    let action = logged.request.action.clone().into_owned();
    GroupKey { action, is_allowed_now: decided.allowed, policies }
}

fn example(
    position: Position,
    file: String,
    logged: &LoggedDecision<'_>,
    decided: &ReplayedDecision,
) -> Example {
    let uid = |uid: &LoggedUid<'_>| format!("{}::{:?}", uid.kind, uid.id);
    let text = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().unwrap_or_default().to_owned();
    Example {
        position,
        file,
        line: position.1,
        evaluation_id: text(&logged.evaluation_id),
        time: text(&logged.time),
        principal: uid(&logged.request.principal),
        action: logged.request.action.clone().into_owned(),
        resource: uid(&logged.resource),
        logged: ReplayedDecision {
            allowed: logged.allowed,
            policies: logged.policies.iter().map(|policy| policy.clone().into_owned()).collect(),
            is_failed: logged.is_failed,
        },
        decided: decided.clone(),
    }
}
