"""Hooks for schemathesis: authentication, references to existing resources, and the rules that the document cannot express."""

import itertools
import os
import subprocess

import requests
import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

PASSWORD = "tr0ub4dor-and-3-horses"
numbers = itertools.count(1)


def address():
    """A header with a new client address, so that no request is throttled because of earlier failed logins."""
    number = next(numbers)
    return {"X-Forwarded-For": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"}


# Some requests revoke the credential, or demote or delete its user. A new admin is created whenever a credential is rejected
# (401), and every ten seconds, because a demotion causes no 401.
@schemathesis.auth(refresh_interval=10)
class NewAdmin:
    def get(self, case, context):
        email = f"admin-{next(numbers)}@example.com"
        command = [os.environ["CEDARGATE"], "user", "add", "--role", "admin", "--password-stdin", "--email", email]
        subprocess.run(command, input=PASSWORD.encode(), check=True, capture_output=True)
        api = requests.Session()
        api.headers.update(address())

        def post(path, body):
            response = api.post(case.operation.base_url.rstrip("/") + path, json=body, timeout=30)
            response.raise_for_status()
            return response.json()

        login = post("/v2/auth/token", {"email": email, "password": PASSWORD})
        api.headers["Authorization"] = f"Bearer {login['token']}"
        conversation = post("/v2/conversations", {})
        organization = conversation["organization"]
        existing.update(
            email=email,
            clientId=email,
            password=PASSWORD,
            currentPassword=PASSWORD,
            refreshToken=login["refreshToken"],
            user=login["user"],
            conversation=conversation["id"],
            contact=post("/v2/contacts", {})["id"],
            organization=organization,
            organizations=[organization],
            parent=organization,
        )
        return login["token"]

    def set(self, case, token, context):
        case.headers["Authorization"] = f"Bearer {token}"


# Values of existing resources: a body that refers to them is processed further than one with unknown references.
existing = {}
LOGIN = {"email", "clientId", "refreshToken"}


def with_references(value, names):
    """Replaces the references in a part of a valid body by existing values."""
    if isinstance(value, list):
        return [with_references(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") == "User" and "id" in value:
        return {**value, "id": existing["user"]}
    return {
        name: existing[name] if name in names and item and isinstance(item, type(existing[name])) else with_references(item, names)
        for name, item in value.items()
    }


# The parameters of lists that are no filters.
PAGE = {"limit", "offset", "after", "sort", "total", "select", "populate", "include"}


def made_invalid(case):
    """The names of the parameters whose values were made invalid on purpose."""
    data = case.meta.phase.data if case.meta else None
    changes = getattr(data, "mutations", ())
    return {getattr(data, "parameter", None), *(change.parameter for change in changes)}


@schemathesis.hook
def before_call(context, case, kwargs):
    case.headers.update(address())
    # The document describes whole resources.
    for name in {"select", "populate"} - made_invalid(case):
        (case.query or {}).pop(name, None)
    if existing and case.meta and case.meta.generation.mode.is_positive:
        is_login = case.path == "/v2/auth/token"
        case.body = with_references(case.body, existing.keys() if is_login else existing.keys() - LOGIN)
        if is_login and case.query:
            case.query["refreshToken"] = existing["refreshToken"]


# Codes of field errors that a request valid by the document can get: no schema can express these rules. Each has tests of
# its own.
BEYOND_SCHEMA = {
    "not_found",  # a reference to a resource that does not exist or is not accessible
    "not_allowed",  # a value that this caller or resource may not have
    "cycle",  # an organization that would be its own ancestor
    "in_the_past",
    "unknown_type",  # the active policies decide which entity types exist
    "unknown_action",  # and which actions
    "missing_context",  # and which context fields are required
    "invalid_context",
    "mismatch",  # a page token of another query
    "conflict",  # `after` with `offset`
    "duplicate",  # sorting by `a` and by `-a`
    "too_many_items",  # the caller is added to the participants of a new conversation
    "too_large",  # a free JSON object
    "too_deep",
    "dependent_required",  # two fields that are only accepted together
    "incorrect",  # the current password
}

# Codes of OAuth errors of the same kind.
BEYOND_SCHEMA_OAUTH = {
    "invalid_grant",  # a refresh token that was not issued
    "invalid_scope",  # a scope above the role of the user
}


@schemathesis.check
def valid_data_is_accepted(ctx, response, case):
    # A body of valid fields may exceed the size limit as a whole, and no resource has a random version.
    if response.status_code in (412, 413):
        return None
    if response.status_code == 400:
        body = response.json()
        # The `error` of a problem is an object.
        if isinstance(body.get("error"), str) and body["error"] in BEYOND_SCHEMA_OAUTH:
            return None
        errors = body.get("errors", [])
        if errors and all(error["code"] in BEYOND_SCHEMA or is_beyond_schema(case, error) for error in errors):
            return None
        # More resources match than one request may change.
        if body.get("code") == "too_many_matches":
            return None
    return positive_data_acceptance(ctx, response, case)


def has_filters(case):
    """Whether the query string selects resources: of lists, and of changes of all that match."""
    return not {"sort", "dryRun"}.isdisjoint(parameter.name for parameter in case.operation.query)


def is_beyond_schema(case, error):
    """Whether no schema can express a rule about a parameter."""
    field, code = error["field"], error["code"]
    if code == "required" and field == "":
        return True  # a change of all that match needs a filter, whichever
    if (field == "after" and code == "invalid_format") or field.startswith("columns."):
        return True  # a cursor that was not issued, a name that is no column
    return has_filters(case) and field in (case.query or {}) and field not in PAGE


@schemathesis.check
def invalid_data_is_rejected(ctx, response, case):
    if has_filters(case):
        # The schema of a filter describes its usual values only: almost every text is a valid one.
        if case.method == "GET" and made_invalid(case).isdisjoint(PAGE):
            return None
        # If nothing matches, nothing is changed, whatever the body.
        if case.method in ("PATCH", "DELETE") and response.status_code == 200 and response.json()["count"] == 0:
            return None
        if case.method == "DELETE" and made_invalid(case).isdisjoint({"dryRun"}):
            return None
    return negative_data_rejection(ctx, response, case)
