//! The rules of the check of a bundle, with stable codes.

/// Declares the rules: their codes, whether a violation is only a warning, and what they mean.
macro_rules! rules {
    ($($name:ident = $code:literal, $is_warning:literal, $meaning:literal;)+) => {
        /// A rule that schema, policies, data and policy tests have to follow.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $meaning] $name,)+
        }

        impl Rule {
            /// All rules.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its code.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)+
                }
            }

            /// Whether a violation is a warning, with which a service starts, rather than an error.
            pub const fn is_warning(self) -> bool {
                match self {
                    $(Self::$name => $is_warning,)+
                }
            }

            /// What a violation is.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)+
                }
            }
        }
    };
}

rules! {
    UnreadableFile = "unreadable-file", false,
        "A file or directory cannot be read, is not UTF-8, or keeps changing";
    InvalidSchema = "invalid-schema", false,
        "The schema does not parse, or contradicts itself";
    SuppliedType = "supplied-type", false,
        "The schema declares another type, or other values, than the service supplies, or as required what the service does not \
         always supply";
    UndeclaredAttribute = "undeclared-attribute", false,
        "The schema does not declare an attribute that the service supplies";
    UndeclaredParent = "undeclared-parent", false,
        "The schema does not declare that a type is in the organizations or scopes of which the service makes it a member";
    UndeclaredContext = "undeclared-context", false,
        "The schema does not declare a context field that the service sets for an action";
    UnsuppliedAttribute = "unsupplied-attribute", false,
        "A type of the service has an attribute that the service never supplies";
    UnsuppliedContext = "unsupplied-context", true,
        "An action of the service has a context field that the service never sets: it is only in questions of clients";
    Syntax = "syntax", false,
        "A policy file does not parse";
    Template = "template", false,
        "Templates (`?principal`, `?resource`) are not supported";
    MissingId = "missing-id", false,
        "A policy has no `@id`";
    InvalidId = "invalid-id", false,
        "The `@id` of a policy has control characters or invisible characters";
    DuplicateId = "duplicate-id", false,
        "Two policies have the same `@id`";
    MissingDoc = "missing-doc", true,
        "A policy has no `@doc`, with which explanations describe it";
    NoPolicies = "no-policies", false,
        "There is no policy, so every request would be denied";
    InvalidPolicy = "invalid-policy", false,
        "A policy does not validate against the schema";
    ImpossiblePolicy = "impossible-policy", false,
        "Cedar warns about a policy, such as one that can never apply";
    UndefinedEntity = "undefined-entity", false,
        "A policy names an entity that the data do not define, although they define others of its type";
    RowPolicy = "row-policy", false,
        "A policy of a list cannot be a condition on its rows, so that the list could not be filtered";
    RowPermit = "row-permit", true,
        "A permit applies only to the rows of a list, which need no permit: it has no effect";
    LiteralDate = "literal-date", true,
        "A condition contains a date: its meaning changes without a change of the policy";
    LiteralEmail = "literal-email", true,
        "A condition contains the email address of a single user";
    LiteralUser = "literal-user", true,
        "A policy names a single user";
    InvalidData = "invalid-data", false,
        "The entity data do not conform to the schema";
    DuplicateKey = "duplicate-key", false,
        "An object in a JSON file has a key twice";
    DuplicateEntity = "duplicate-entity", false,
        "An entity is defined twice";
    UndefinedParent = "undefined-parent", false,
        "An entity has a parent that is defined neither in the data nor in the database";
    StoredEntity = "stored-entity", false,
        "The data define an entity of a type that is stored in the database";
    Scopes = "scopes", false,
        "The data do not define the four scopes, or define another one";
    ScopeCascade = "scope-cascade", true,
        "The data do not place a scope above the next lower one of guest < agent < bot < admin, or place it below a lower one";
    ReservedId = "reserved-id", false,
        "A claim has the id of a built-in claim of `policy prove`";
    InvalidClaim = "invalid-claim", false,
        "A claim about the policies is incomplete";
    EmptyTests = "empty-tests", true,
        "A file of policy tests contains no test";
    FailedTest = "failed-test", false,
        "A policy test fails, or a file of policy tests is invalid";
}
