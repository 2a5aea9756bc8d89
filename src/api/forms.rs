//! Forms.

use crate::application::writes::WritableResource;
use crate::authz::AuthzResource;
use crate::http::RouteGroup;
use crate::resource::column::json_column;
use crate::resource::{IdRow, Resource};
use crate::types::{Id, JsonObject, Label, Name, ShortText, Timestamp, json_list, object_only};
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<Form>("Forms", "/v2/forms")
        .about("Forms that conversations present to contacts.")
        .list::<Form>("listForms")
        .fetch::<Form>()
        .create::<Form>("createForm")
        .update::<Form>("updateForm")
        .delete::<Form>("deleteForm")
        .bulk::<Form>("listForms", ("updateForm", "updateForms"), ("deleteForm", "deleteForms"))
}

/// A form.
pub type Form = Model;

/// A form.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "forms")]
#[serde(rename_all = "camelCase")]
#[schema(as = Form)]
pub struct Model {
    /// The id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The organization that owns it.
    pub organization: Id,
    /// The name.
    pub name: Name,
    /// The fields, in display order.
    pub fields: FormFields,
    /// Arbitrary client metadata.
    pub meta: JsonObject,
    /// Creation time.
    pub created_at: Timestamp,
    /// Time of the last update.
    pub updated_at: Timestamp,
}

/// The writable fields of a form.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FormBody {
    /// The owning organization; by default the organization of the caller.
    pub organization: Option<Id>,
    /// The name.
    pub name: Name,
    /// The fields, in display order.
    #[serde(default)]
    pub fields: FormFields,
    /// Arbitrary client metadata.
    #[serde(default)]
    pub meta: JsonObject,
}

json_list!(
    /// Up to 200 form fields.
    FormFields, FormField, 200
);

json_list!(
    /// Up to 500 options.
    FormOptions, ShortText, 500
);

json_column!(FormFields, FormOptions);

/// A field of a form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, remote = "Self")]
pub struct FormField {
    /// The name.
    pub name: Name,
    /// The field type, such as `text`, `number`, `date` or `choice`.
    #[serde(default)]
    pub r#type: Option<Label>,
    /// Label.
    #[serde(default)]
    pub label: Option<ShortText>,
    /// Whether a value is required.
    #[serde(default)]
    pub required: bool,
    /// The options.
    #[serde(default)]
    pub options: FormOptions,
}

object_only!(FormField);

/// Empty: references between rows are declared by [`Resource::references`].
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

    fn examples() -> (Value, Value) {
        let creation =
            json!({"name": "Feedback", "fields": [{"name": "rating", "type": "number", "required": true}]});
        (creation, json!({"name": "Survey"}))
    }

    fn organization_column() -> Column {
        Column::Organization
    }

    fn organization(&self) -> Id {
        self.organization
    }
}

impl WritableResource for Form {}
