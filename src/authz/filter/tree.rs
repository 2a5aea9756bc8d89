//! The filter of a list: which resources of a type a decision permits, as an expression over their attributes.
//!
//! Every expression is two-valued. An atom about an absent attribute is false, and so is one whose evaluation would be an
//! error; [`FilterExpr::Not`] is plain negation. [`super`] translates policies so that this gives the decision of Cedar for
//! every resource.

use std::cmp::Ordering;
use std::fmt;

/// Which resources of a type a decision permits.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// Every resource.
    Always,
    /// No resource.
    Never,
    /// The resources for which the expression is true.
    When(FilterExpr),
}

/// An expression over one resource: true or false, never unknown.
#[derive(Debug, Clone, PartialEq)]
pub enum FilterExpr {
    /// Whether all are true; true if there are none.
    And(Vec<FilterExpr>),
    /// Whether any is true; false if there are none.
    Or(Vec<FilterExpr>),
    /// Whether it is false.
    Not(Box<FilterExpr>),
    /// Whether a boolean attribute is present and true.
    IsTrue(Path),
    /// Whether an attribute is present.
    Has(Path),
    /// Whether both operands are present and compare so. Unequal is the negation of [`Comparison::Equal`] and [`Self::Has`].
    Compare {
        /// The left operand.
        left: Operand,
        /// The comparison.
        op: Comparison,
        /// The right operand, of the same type.
        right: Operand,
    },
    /// Whether a text is present and matches a pattern, with case.
    Like {
        /// The text.
        path: Path,
        /// The pattern, which matches the whole text.
        pattern: Vec<PatternPart>,
    },
    /// Whether a set is present and contains an element that is present.
    Contains {
        /// The set.
        set: Operand,
        /// The element.
        element: Operand,
    },
    /// Whether both sets are present and the first contains all elements of the second.
    ContainsAll {
        /// The set.
        set: Operand,
        /// The elements.
        elements: Operand,
    },
    /// Whether both sets are present and the first contains any element of the second.
    ContainsAny {
        /// The set.
        set: Operand,
        /// The elements.
        elements: Operand,
    },
    /// Whether a set is present and empty.
    IsEmpty(Path),
    /// Whether an entity is present and it, or one of its ancestors, is among these entities.
    In {
        /// The entity: the resource, or an attribute that names an entity.
        entity: Operand,
        /// The entities; never empty.
        ancestors: Vec<EntityId>,
    },
    /// Whether an IP address is present and in one of these ranges.
    IsInRange {
        /// The address or range.
        address: Path,
        /// The ranges in CIDR notation, or single addresses; never empty.
        ranges: Vec<String>,
    },
}

/// A comparison of two operands of the same type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// Equal; of any type.
    Equal,
    /// Less; of longs, datetimes and decimals, as the others below.
    Less,
    /// Less or equal.
    LessOrEqual,
    /// Greater.
    Greater,
    /// Greater or equal.
    GreaterOrEqual,
}

/// A value of the resource, or a constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// An attribute of the resource, or the resource itself.
    Path(Path),
    /// A constant.
    Value(Value),
}

/// The names of the attributes that lead from the resource to a value; the resource itself, if there are none.
///
/// All names but the last are those of records. An attribute of another entity has no path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(Vec<String>);

/// A constant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// A boolean.
    Bool(bool),
    /// A long.
    Long(i64),
    /// A string.
    Text(String),
    /// A datetime, in milliseconds since 1970-01-01T00:00:00Z.
    Datetime(i64),
    /// A duration, in milliseconds.
    Duration(i64),
    /// A decimal, in ten-thousandths.
    Decimal(i64),
    /// An IP address or range, as Cedar's `ip` takes it.
    Ip(String),
    /// An entity.
    Entity(EntityId),
    /// A set of constants.
    Set(Vec<Value>),
}

/// The type and id of an entity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityId {
    /// The full name of its type.
    pub kind: String,
    /// Its id.
    pub id: String,
}

/// A part of the pattern of [`FilterExpr::Like`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternPart {
    /// This text.
    Text(String),
    /// Any text, also none.
    Any,
}

impl Path {
    /// The resource itself.
    pub fn resource() -> Self {
        Self::default()
    }

    /// The attribute to which these names lead.
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }

    /// The attribute `name` of the record at this path.
    pub fn child(&self, name: &str) -> Self {
        Self(self.0.iter().map(String::as_str).chain([name]).map(str::to_owned).collect())
    }

    /// The names.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether it is `other`, or a value within the record at `other`.
    fn is_within(&self, other: &Self) -> bool {
        !other.is_resource() && self.0.starts_with(&other.0)
    }

    /// Whether it is the resource itself.
    pub fn is_resource(&self) -> bool {
        self.0.is_empty()
    }
}

impl Operand {
    /// The path, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Value(_) => None,
        }
    }
}

/// As in a policy without `resource.`, such as `owner` or `profile.city`; `resource` for the resource itself.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("resource"),
            names => f.write_str(&names.join(".")),
        }
    }
}

/// As in a policy, such as `Docs::Person::"dan"`.
impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::\"{}\"", self.kind, self.id.escape_debug())
    }
}

impl Comparison {
    /// Whether values of this order compare so.
    pub(super) fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }

    /// The comparison with the operands exchanged.
    pub(super) fn flipped(self) -> Self {
        match self {
            Self::Equal => Self::Equal,
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
        }
    }

    /// As in a policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl Filter {
    /// The expression, or [`Filter::Always`] or [`Filter::Never`] if it is constant.
    pub fn from_expr(expr: FilterExpr) -> Self {
        match expr.as_constant() {
            Some(true) => Self::Always,
            Some(false) => Self::Never,
            None => Self::When(expr),
        }
    }

    /// The filter as an expression.
    pub fn into_expr(self) -> FilterExpr {
        match self {
            Self::Always => FilterExpr::always(),
            Self::Never => FilterExpr::never(),
            Self::When(expr) => expr,
        }
    }
}

impl FilterExpr {
    /// True.
    pub fn always() -> Self {
        Self::And(Vec::new())
    }

    /// False.
    pub fn never() -> Self {
        Self::Or(Vec::new())
    }

    /// Whether it is [`Self::always`] or [`Self::never`].
    pub fn as_constant(&self) -> Option<bool> {
        match self {
            Self::And(parts) if parts.is_empty() => Some(true),
            Self::Or(parts) if parts.is_empty() => Some(false),
            _ => None,
        }
    }

    /// The conjunction, without nested, constant and redundant parts.
    pub fn and(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut kept: Vec<Self> = Vec::new();
        let flat = parts.into_iter().flat_map(|part| match part {
            Self::And(inner) => inner,
            other => vec![other],
        });
        for part in flat {
            if part.as_constant() == Some(false) || kept.iter().any(|other| other.contradicts(&part)) {
                return Self::never();
            }
            if !kept.iter().any(|other| other.implies(&part)) {
                kept.retain(|other| !part.implies(other));
                kept.push(part);
            }
        }
        Self::single_or(kept, Self::And)
    }

    /// The disjunction, without nested, constant and redundant parts.
    pub fn or(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut kept: Vec<Self> = Vec::new();
        let flat = parts.into_iter().flat_map(|part| match part {
            Self::Or(inner) => inner,
            other => vec![other],
        });
        for part in flat {
            let negated = Self::not(part.clone());
            if part.as_constant() == Some(true) || kept.iter().any(|other| negated.implies(other)) {
                return Self::always();
            }
            if !kept.iter().any(|other| part.implies(other)) {
                kept.retain(|other| !other.implies(&part));
                kept.push(part);
            }
        }
        Self::single_or(kept, Self::Or)
    }

    /// The negation.
    #[expect(clippy::should_implement_trait, reason = "a constructor beside `and` and `or`")]
    pub fn not(expr: Self) -> Self {
        match (expr.as_constant(), expr) {
            (Some(true), _) => Self::never(),
            (Some(false), _) => Self::always(),
            (None, Self::Not(inner)) => *inner,
            (None, other) => Self::Not(Box::new(other)),
        }
    }

    /// Whether it is known that `other` is true wherever this is true. False does not mean the opposite.
    pub fn implies(&self, other: &Self) -> bool {
        match (self, other) {
            _ if self == other => true,
            (_, Self::And(parts)) => parts.iter().all(|part| self.implies(part)),
            (Self::Or(parts), _) => parts.iter().all(|part| part.implies(other)),
            (Self::And(parts), _) if parts.iter().any(|part| part.implies(other)) => true,
            (_, Self::Or(parts)) => parts.iter().any(|part| self.implies(part)),
            (Self::Not(inner), Self::Not(negated)) => negated.implies(inner),
            (_, Self::Has(path)) => self.reads().iter().any(|read| read.is_within(path)),
            _ => false,
        }
    }

    /// Whether it is known that both cannot be true.
    fn contradicts(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Not(inner), _) => other.implies(inner),
            (_, Self::Not(inner)) => self.implies(inner),
            _ => false,
        }
    }

    /// The paths that an atom reads; none of another expression. The atom is false if one of them is absent.
    fn reads(&self) -> Vec<&Path> {
        let operands = match self {
            Self::IsTrue(path)
            | Self::Has(path)
            | Self::IsEmpty(path)
            | Self::Like { path, .. }
            | Self::IsInRange { address: path, .. } => return vec![path],
            Self::Compare { left, right, .. } => vec![left, right],
            Self::Contains { set, element: other }
            | Self::ContainsAll { set, elements: other }
            | Self::ContainsAny { set, elements: other } => vec![set, other],
            Self::In { entity, .. } => vec![entity],
            Self::And(_) | Self::Or(_) | Self::Not(_) => Vec::new(),
        };
        operands.into_iter().filter_map(Operand::path).collect()
    }

    /// The number of its atoms and operators.
    pub fn size(&self) -> usize {
        match self {
            Self::And(parts) | Self::Or(parts) => 1 + parts.iter().map(Self::size).sum::<usize>(),
            Self::Not(inner) => 1 + inner.size(),
            _ => 1,
        }
    }

    fn single_or(mut parts: Vec<Self>, several: fn(Vec<Self>) -> Self) -> Self {
        match parts.len() {
            1 => parts.remove(0),
            _ => several(parts),
        }
    }
}
