//! The archive of policy versions: the files of each version that became active, when, and on whose request.
//!
//! The files of a version are stored once, however often it becomes active. Old versions are deleted as new ones become active;
//! the active one is the newest, and stays.

use super::audit::AuditActor;
use super::list::ListedTable;
use super::{ListQuery, Page, SortKey, SortOrder, Store, StoreError, UnitOfWork};
use crate::authz::{FileKind, SnapshotFile, VersionPrefix};
use crate::resource::column::text_column;
use crate::types::{Id, Timestamp, string_enum};
use sea_orm::sea_query::{Condition, Expr, ExprTrait, Order, Query};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, TryGetable};

string_enum!(
    /// What made a policy version active: a start of the service, changed files, a signal, a request, or a confirmation that another process recorded.
    ActivationTrigger {
        Start = "start", Poll = "poll", Signal = "signal", Request = "request", Confirmation = "confirmation"
    }
);

text_column!(ActivationTrigger, FileKind);

/// Why a version became active, and on whose request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// What made it active.
    pub trigger: ActivationTrigger,
    /// The user who requested or confirmed it; none for the service itself and the command line.
    pub actor: Option<Id>,
    /// The kind of the user's credential, or `terminal`; none for the service itself.
    pub credential: Option<String>,
}

impl Activation {
    /// An activation that the service itself began.
    pub fn by_service(trigger: ActivationTrigger) -> Self {
        Self { trigger, actor: None, credential: None }
    }

    /// An activation on request of an actor.
    pub fn by_actor(trigger: ActivationTrigger, actor: &AuditActor) -> Self {
        Self { trigger, actor: actor.user, credential: actor.credential.map(str::to_owned) }
    }
}

/// A version in the archive.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct PolicyVersionRow {
    /// The version: 64 hex digits.
    pub version: String,
    /// When it became active for the first time.
    pub first_activated_at: Timestamp,
    /// When it became active for the last time.
    pub last_activated_at: Timestamp,
    /// What made it active for the last time.
    pub trigger: ActivationTrigger,
    /// The user who requested or confirmed the last activation.
    pub actor: Option<Id>,
    /// The kind of that user's credential, or `terminal`.
    pub credential: Option<String>,
    /// The number of its files.
    pub files: i64,
    /// The total size of its files in bytes.
    pub bytes: i64,
}

/// An activation of a version.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct PolicyActivationRow {
    /// When the version became active.
    pub time: Timestamp,
    /// What made it active.
    pub trigger: ActivationTrigger,
    /// The user who requested or confirmed it.
    pub actor: Option<Id>,
    /// The kind of that user's credential, or `terminal`.
    pub credential: Option<String>,
}

const VERSIONS: &str = "policy_versions";
const ACTIVATIONS: &str = "policy_activations";
const FILES: &str = "policy_version_files";

const VERSION_COLUMNS: [&str; 8] = [
    "version",
    "first_activated_at",
    "last_activated_at",
    "trigger",
    "actor",
    "credential",
    "files",
    "bytes",
];
const ACTIVATION_COLUMNS: [&str; 4] = ["time", "trigger", "actor", "credential"];
const FILE_COLUMNS: [&str; 5] = ["version", "position", "kind", "path", "text"];

/// The number of activations that are kept. A directory whose files change back and forth adds one with each change.
const MAX_ACTIVATIONS: i64 = 1_000;

/// The maximum number of files, and of bytes, of one INSERT statement.
const BATCH_FILES: usize = 100;
const BATCH_BYTES: usize = 1024 * 1024;

/// The maximum number of versions that are deleted at once.
const MAX_DELETED: u64 = 1_000;

impl Store {
    /// Returns the versions in the archive, by default in the order in which they became active first.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn policy_versions(&self, query: &ListQuery) -> Result<Page<PolicyVersionRow>, StoreError> {
        let table = ListedTable {
            name: VERSIONS,
            columns: VERSION_COLUMNS.map(str::to_owned).to_vec(),
            texts: &[],
            nullable: &[],
        };
        let ascending = |column: &str| SortKey::new(column, SortOrder::Ascending);
        let mut order = query.sort.clone();
        order.extend([ascending("first_activated_at"), ascending("version")]);
        table.page(&self.db, Condition::all(), &order, query).await
    }

    /// Returns the versions in the archive that begin with these digits, at most two of them.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn find_policy_versions(
        &self,
        prefix: &VersionPrefix,
    ) -> Result<Vec<PolicyVersionRow>, StoreError> {
        let mut select = Query::select();
        select
            .columns(VERSION_COLUMNS)
            .from(VERSIONS)
            // Digits and letters only: nothing to escape.
            .and_where(Expr::col("version").like(format!("{prefix}%")))
            .order_by("version", Order::Asc)
            .limit(2);
        let rows = self.db.query_all(&select).await?;
        let found = rows.iter().map(|row| PolicyVersionRow::from_query_result(row, ""));
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// Returns the activations of a version, the newest first.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub async fn policy_activations(&self, version: &str) -> Result<Vec<PolicyActivationRow>, StoreError> {
        let mut select = Query::select();
        select
            .columns(ACTIVATION_COLUMNS)
            .from(ACTIVATIONS)
            .and_where(Expr::col("version").eq(version))
            .order_by("number", Order::Desc);
        let rows = self.db.query_all(&select).await?;
        let found = rows.iter().map(|row| PolicyActivationRow::from_query_result(row, ""));
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// Returns the files of a version; none if the archive does not have it.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub(crate) async fn policy_version_files(&self, version: &str) -> Result<Vec<SnapshotFile>, StoreError> {
        let mut select = Query::select();
        select
            .columns(["kind", "path", "text"])
            .from(FILES)
            .and_where(Expr::col("version").eq(version))
            .order_by("position", Order::Asc);
        let rows = self.db.query_all(&select).await?;
        let files = rows.iter().map(|row| {
            let text = |column| String::try_get(row, "", column).map_err(DbErr::from);
            let kind = FileKind::try_get(row, "", "kind").map_err(DbErr::from)?;
            Ok(SnapshotFile::new(kind, text("path")?, text("text")?))
        });
        Ok(files.collect::<Result<_, DbErr>>()?)
    }
}

impl UnitOfWork {
    /// Adds an activation to the history if another version was active before, and the files of the version unless the archive
    /// has them. Deletes old versions, so that `max_versions` are left.
    ///
    /// The caller has locked the row of the active version, so that activations of several processes are numbered one after
    /// the other.
    ///
    /// # Errors
    ///
    /// If the database is unavailable.
    pub(super) async fn archive_policies(
        &self,
        version: &str,
        files: &[SnapshotFile],
        activation: &Activation,
        max_versions: u32,
    ) -> Result<(), StoreError> {
        let mut select = Query::select();
        select.columns(["version", "number"]).from(ACTIVATIONS).order_by("number", Order::Desc).limit(1);
        let (mut last_version, mut number) = (String::new(), 0);
        if let Some(row) = self.tx.query_one(&select).await? {
            last_version = String::try_get(&row, "", "version").map_err(DbErr::from)?;
            number = i64::try_get(&row, "", "number").map_err(DbErr::from)?;
        }
        let mut select = Query::select();
        select.column("version").from(VERSIONS).and_where(Expr::col("version").eq(version));
        let is_archived = self.tx.query_one(&select).await?.is_some();
        if is_archived && last_version == version {
            return Ok(());
        }
        let number = number.saturating_add(1);
        self.insert_activation(version, number, activation).await?;
        if is_archived {
            self.update_version(version, number, activation).await?;
        } else {
            self.insert_version(version, files, number, activation).await?;
            self.insert_files(version, files).await?;
        }
        self.delete_old_versions(number, max_versions).await
    }

    async fn insert_activation(
        &self,
        version: &str,
        number: i64,
        activation: &Activation,
    ) -> Result<(), StoreError> {
        let mut insert = Query::insert();
        insert
            .into_table(ACTIVATIONS)
            .columns(["number", "version"].into_iter().chain(ACTIVATION_COLUMNS))
            .values_panic([
                number.into(),
                version.into(),
                self.actor.time.into(),
                activation.trigger.into(),
                activation.actor.into(),
                activation.credential.clone().into(),
            ]);
        self.tx.execute(&insert).await?;
        Ok(())
    }

    async fn update_version(
        &self,
        version: &str,
        number: i64,
        activation: &Activation,
    ) -> Result<(), StoreError> {
        let mut update = Query::update();
        update
            .table(VERSIONS)
            .value("last_activation", number)
            .value("last_activated_at", self.actor.time)
            .value("trigger", activation.trigger)
            .value("actor", activation.actor)
            .value("credential", activation.credential.clone())
            .and_where(Expr::col("version").eq(version));
        self.tx.execute(&update).await?;
        Ok(())
    }

    async fn insert_version(
        &self,
        version: &str,
        files: &[SnapshotFile],
        number: i64,
        activation: &Activation,
    ) -> Result<(), StoreError> {
        let bytes: usize = files.iter().map(|file| file.text.len()).sum();
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let mut insert = Query::insert();
        insert
            .into_table(VERSIONS)
            .columns(VERSION_COLUMNS.into_iter().chain(["last_activation"]))
            .values_panic([
                version.into(),
                self.actor.time.into(),
                self.actor.time.into(),
                activation.trigger.into(),
                activation.actor.into(),
                activation.credential.clone().into(),
                count(files.len()).into(),
                count(bytes).into(),
                number.into(),
            ]);
        self.tx.execute(&insert).await?;
        Ok(())
    }

    /// Inserts the files of a version, in statements of limited size.
    async fn insert_files(&self, version: &str, files: &[SnapshotFile]) -> Result<(), StoreError> {
        let mut files = files.iter().enumerate().peekable();
        while files.peek().is_some() {
            let mut insert = Query::insert();
            insert.into_table(FILES).columns(FILE_COLUMNS);
            let (mut count, mut bytes) = (0, 0);
            while let Some((position, file)) = files.next_if(|_| count < BATCH_FILES && bytes < BATCH_BYTES) {
                (count, bytes) = (count + 1, bytes + file.text.len());
                insert.values_panic([
                    version.into(),
                    i64::try_from(position).unwrap_or(i64::MAX).into(),
                    file.kind.into(),
                    file.path.as_str().into(),
                    (*file.text).into(),
                ]);
            }
            self.tx.execute(&insert).await?;
        }
        Ok(())
    }

    /// Deletes the versions that became active longest ago, and the oldest activations. `number` is that of the newest one.
    async fn delete_old_versions(&self, number: i64, max_versions: u32) -> Result<(), StoreError> {
        let mut select = Query::select();
        select
            .column("version")
            .from(VERSIONS)
            .order_by("last_activation", Order::Desc)
            // The active version is the first one.
            .offset(u64::from(max_versions))
            .limit(MAX_DELETED);
        let rows = self.tx.query_all(&select).await?;
        let versions = rows.iter().map(|row| String::try_get(row, "", "version").map_err(DbErr::from));
        let versions: Vec<String> = versions.collect::<Result<_, _>>()?;
        if !versions.is_empty() {
            for table in [FILES, ACTIVATIONS, VERSIONS] {
                let mut delete = Query::delete();
                delete
                    .from_table(table)
                    .and_where(Expr::col("version").is_in(versions.iter().map(String::as_str)));
                self.tx.execute(&delete).await?;
            }
        }
        let mut delete = Query::delete();
        delete
            .from_table(ACTIVATIONS)
            .and_where(Expr::col("number").lte(number.saturating_sub(MAX_ACTIVATIONS)));
        self.tx.execute(&delete).await?;
        Ok(())
    }
}
