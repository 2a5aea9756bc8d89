//! Forms: fields for somebody to fill in.

use crate::authz::AuthzResource;
use crate::http::RouteGroup;
use crate::resource::{IdRow, Resource};
use crate::types::{Id, JsonObject, Label, Name, ShortText, Timestamp, json_list, object_only};
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<Form>("Forms", "/v2/forms")
        .list::<Form>("listForms")
        .fetch::<Form>()
        .create::<Form>("createForm")
        .update::<Form>("updateForm")
        .delete::<Form>("deleteForm")
}

/// A form.
pub type Form = Model;

/// A form.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "forms")]
#[serde(rename_all = "camelCase")]
#[schema(as = Form)]
pub struct Model {
    /// The form.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The organization that holds it.
    pub organization: Id,
    /// Its name.
    pub name: Name,
    /// Its fields, in their order.
    pub fields: FormFields,
    /// Whatever else.
    pub meta: JsonObject,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// What a client writes of a form.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FormBody {
    /// The organization that is to hold it; the caller's if none.
    pub organization: Option<Id>,
    /// Its name.
    pub name: Name,
    /// Its fields, in their order.
    #[serde(default)]
    pub fields: FormFields,
    /// Whatever else.
    #[serde(default)]
    pub meta: JsonObject,
}

json_list!(
    /// The fields of a form, at most 200.
    FormFields, FormField, 200
);

json_list!(
    /// What may be chosen, at most 500.
    FormOptions, ShortText, 500
);

/// A field of a form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, remote = "Self")]
pub struct FormField {
    /// Its name.
    pub name: Name,
    /// What it takes: `text`, `number`, `date`, `choice` …
    #[serde(default)]
    pub r#type: Option<Label>,
    /// What stands before it.
    #[serde(default)]
    pub label: Option<ShortText>,
    /// Whether it must be filled in.
    #[serde(default)]
    pub required: bool,
    /// What may be chosen.
    #[serde(default)]
    pub options: FormOptions,
}

object_only!(FormField);

/// What its rows are related to is said by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl AuthzResource for Form {
    const TYPE: &'static str = "Form";

    fn id(&self) -> Id {
        self.id
    }
}

impl Resource for Form {
    type Entity = Entity;
    type DecisionRow = IdRow<Self>;
    type Body = FormBody;

    const FETCH_ACTION: &'static str = "fetchForm";
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[(Column::Id, "id")];

    fn organization_column() -> Column {
        Column::Organization
    }

    fn organization(&self) -> Id {
        self.organization
    }
}
