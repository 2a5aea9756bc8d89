//! Knowledge items: articles of a knowledge base.

use crate::authz::{Attribute, AuthzResource, text};
use crate::http::RouteGroup;
use crate::resource::Resource;
use crate::types::{Id, JsonObject, Label, LongText, Name, Timestamp, string_enum};
use sea_orm::FromQueryResult;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<KnowledgeItem>("Knowledge items", "/v2/kbitems")
        .alias("/v2/knowledge-items")
        .list::<KnowledgeItem>("listKnowledgeItems")
        .fetch::<KnowledgeItem>()
        .create::<KnowledgeItem>("createKnowledgeItem")
        .update::<KnowledgeItem>("updateKnowledgeItem")
        .delete::<KnowledgeItem>("deleteKnowledgeItem")
}

/// A knowledge item.
pub type KnowledgeItem = Model;

/// A knowledge item.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "kbitems")]
#[serde(rename_all = "camelCase")]
#[schema(as = KnowledgeItem)]
pub struct Model {
    /// The knowledge item.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The organization that holds it.
    pub organization: Id,
    /// The knowledge base that it belongs to.
    pub kbase: Option<Label>,
    /// Its title.
    pub title: Name,
    /// Its text.
    pub content: Option<LongText>,
    /// How far it has come.
    pub status: KnowledgeStatus,
    /// Whatever else.
    pub meta: JsonObject,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// What a client writes of a knowledge item.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KnowledgeItemBody {
    /// The organization that is to hold it; the caller's if none.
    pub organization: Option<Id>,
    /// The knowledge base that it belongs to.
    pub kbase: Option<Label>,
    /// Its title.
    pub title: Name,
    /// Its text.
    pub content: Option<LongText>,
    /// How far it has come.
    #[serde(default)]
    pub status: KnowledgeStatus,
    /// Whatever else.
    #[serde(default)]
    pub meta: JsonObject,
}

string_enum!(
    /// How far a knowledge item has come.
    KnowledgeStatus { Draft = "draft", Published = "published", Archived = "archived" }
);

/// What its rows are related to is said by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl AuthzResource for KnowledgeItem {
    const TYPE: &'static str = "KnowledgeItem";

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(self.kbase.as_ref(), self.status)
    }
}

/// The attributes of a knowledge item, as the schema declares them.
fn attributes(kbase: Option<&Label>, status: KnowledgeStatus) -> Vec<(&'static str, Attribute)> {
    [("kbase", kbase.map(text)), ("status", Some(text(status)))]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// The columns of a knowledge item from which its Cedar entity is built.
#[derive(Debug, FromQueryResult)]
pub struct KnowledgeItemDecisionRow {
    id: Id,
    kbase: Option<Label>,
    status: KnowledgeStatus,
}

impl AuthzResource for KnowledgeItemDecisionRow {
    const TYPE: &'static str = KnowledgeItem::TYPE;

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(self.kbase.as_ref(), self.status)
    }
}

impl Resource for KnowledgeItem {
    type Entity = Entity;
    type DecisionRow = KnowledgeItemDecisionRow;
    type Body = KnowledgeItemBody;

    const FETCH_ACTION: &'static str = "fetchKnowledgeItem";
    const DECISION_COLUMNS: &'static [(Column, &'static str)] =
        &[(Column::Id, "id"), (Column::Kbase, "kbase"), (Column::Status, "status")];

    fn organization_column() -> Column {
        Column::Organization
    }

    fn organization(&self) -> Id {
        self.organization
    }
}
