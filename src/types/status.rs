//! The status of users and organizations.

use super::string_enum;

string_enum!(
    /// Whether a user can log in. Blocking a user ends its sessions and API keys permanently.
    UserStatus { Active = "active", Blocked = "blocked" }
);

string_enum!(
    /// Whether an organization is active. While it is inactive, the users of the organization and of all organizations below
    /// it cannot log in, and their access tokens, refresh tokens and API keys are not accepted. The root organization cannot
    /// become inactive.
    OrganizationStatus { Active = "active", Inactive = "inactive" }
);
