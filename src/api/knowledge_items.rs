//! Knowledge items: articles of a knowledge base.

use crate::application::writes::WritableResource;
use crate::authz::{Attribute, AuthzResource, SuppliedAttribute, enum_attribute, supplied_attributes};
use crate::http::RouteGroup;
use crate::resource::Resource;
use crate::resource::column::text_column;
use crate::types::{Id, JsonObject, Label, LongText, Name, Timestamp, string_enum};
use sea_orm::FromQueryResult;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<KnowledgeItem>("Knowledge items", "/v2/kbitems")
        .about("Questions and answers of a knowledge base.")
        .alias("/v2/knowledge-items")
        .list::<KnowledgeItem>("listKnowledgeItems")
        .fetch::<KnowledgeItem>()
        .create::<KnowledgeItem>("createKnowledgeItem")
        .update::<KnowledgeItem>("updateKnowledgeItem")
        .delete::<KnowledgeItem>("deleteKnowledgeItem")
        .bulk::<KnowledgeItem>(
            "listKnowledgeItems",
            ("updateKnowledgeItem", "updateKnowledgeItems"),
            ("deleteKnowledgeItem", "deleteKnowledgeItems"),
        )
}

/// A knowledge item.
pub type KnowledgeItem = Model;

/// A knowledge item.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "kbitems")]
#[serde(rename_all = "camelCase")]
#[schema(as = KnowledgeItem)]
pub struct Model {
    /// The id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The organization that owns it.
    pub organization: Id,
    /// The knowledge base.
    pub kbase: Option<Label>,
    /// The title.
    pub title: Name,
    /// The content.
    pub content: Option<LongText>,
    /// The publication status.
    pub status: KnowledgeStatus,
    /// Arbitrary client metadata.
    pub meta: JsonObject,
    /// Creation time.
    pub created_at: Timestamp,
    /// Time of the last update.
    pub updated_at: Timestamp,
}

/// The writable fields of a knowledge item.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KnowledgeItemBody {
    /// The owning organization; by default the organization of the caller.
    pub organization: Option<Id>,
    /// The knowledge base.
    pub kbase: Option<Label>,
    /// The title.
    pub title: Name,
    /// The content.
    pub content: Option<LongText>,
    /// The publication status.
    #[serde(default)]
    pub status: KnowledgeStatus,
    /// Arbitrary client metadata.
    #[serde(default)]
    pub meta: JsonObject,
}

string_enum!(
    /// The publication status of a knowledge item.
    KnowledgeStatus { Draft = "draft", Published = "published", Archived = "archived" }
);

text_column!(KnowledgeStatus);
enum_attribute!(KnowledgeStatus);

/// Empty: references between rows are declared by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl AuthzResource for KnowledgeItem {
    const TYPE: &'static str = "KnowledgeItem";
    const ATTRIBUTES: &'static [SuppliedAttribute] = ATTRIBUTES;

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(self.kbase.as_ref(), self.status)
    }
}

supplied_attributes!(
    /// The attributes of a knowledge item, as the schema declares them.
    ATTRIBUTES = fn attributes("kbase" kbase: Option<&Label>, "status" status: KnowledgeStatus)
);

/// The columns that the Cedar entity of a knowledge item is built from.
#[derive(Debug, FromQueryResult)]
pub struct KnowledgeItemDecisionRow {
    id: Id,
    kbase: Option<Label>,
    status: KnowledgeStatus,
}

impl AuthzResource for KnowledgeItemDecisionRow {
    const TYPE: &'static str = KnowledgeItem::TYPE;
    const ATTRIBUTES: &'static [SuppliedAttribute] = ATTRIBUTES;

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

    fn examples() -> (Value, Value) {
        let creation = json!({"title": "Opening hours", "content": "From nine to five.", "status": "draft"});
        (creation, json!({"status": "published"}))
    }

    fn organization_column() -> Column {
        Column::Organization
    }

    fn organization(&self) -> Id {
        self.organization
    }
}

impl WritableResource for KnowledgeItem {}
