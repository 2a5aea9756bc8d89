//! The macro that declares the settings, and what it records about each.

use crate::types::Id;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;

/// A setting, as `--help` and `docs/configuration.md` describe it.
#[derive(Debug)]
pub struct Setting {
    /// The heading that it belongs to.
    pub group: &'static str,
    /// The name in the configuration file; in the environment it is uppercase with the prefix `CEDARGATE_`.
    pub name: &'static str,
    /// What it does, in one or two sentences.
    pub description: &'static str,
    /// The accepted values.
    pub accepts: Accepts,
}

impl Setting {
    /// Returns the name of the environment variable.
    pub fn variable(&self) -> String {
        variable(self.name)
    }
}

/// Returns the name of the environment variable of a setting.
pub(super) fn variable(name: &str) -> String {
    format!("{}_{}", super::PREFIX, name.to_uppercase())
}

/// The accepted values of a setting, and what applies if it is unset and has no default.
#[derive(Debug)]
pub struct Accepts {
    pub(super) kind: Kind,
    pub(super) unset: &'static str,
}

/// The kinds of values.
#[derive(Debug)]
pub(super) enum Kind {
    /// Text of a form that a placeholder names.
    Text(&'static str),
    /// Text that is not displayed, and may be read from the file that the variable with the suffix `_FILE` names.
    Secret(&'static str),
    /// An array in the file, separated by commas in the environment.
    List(&'static str),
    /// One of these values.
    Choice(&'static [&'static str]),
    /// A whole number from the first to the second.
    Number(u64, u64),
    /// 0, or a whole number from the first to the second.
    NumberOrZero(u64, u64),
}

impl Accepts {
    const fn new(kind: Kind) -> Self {
        Self { kind, unset: "none" }
    }

    /// Says what applies if the setting is unset.
    pub(super) const fn or(mut self, unset: &'static str) -> Self {
        self.unset = unset;
        self
    }

    pub(super) const fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret(_))
    }

    /// Describes the accepted values, such as `1 to 600`.
    pub(super) fn describe(&self) -> String {
        match self.kind {
            Kind::Text(placeholder) | Kind::Secret(placeholder) => placeholder.to_owned(),
            Kind::List(placeholder) => format!("{placeholder},…"),
            Kind::Choice(values) => values.join(", "),
            Kind::Number(min, max) => format!("{min} to {max}"),
            Kind::NumberOrZero(min, max) => format!("0 or {min} to {max}"),
        }
    }
}

pub(super) const fn text(placeholder: &'static str) -> Accepts {
    Accepts::new(Kind::Text(placeholder))
}

pub(super) const fn secret(placeholder: &'static str) -> Accepts {
    Accepts::new(Kind::Secret(placeholder))
}

pub(super) const fn list(placeholder: &'static str) -> Accepts {
    Accepts::new(Kind::List(placeholder))
}

pub(super) const fn choice(values: &'static [&'static str]) -> Accepts {
    Accepts::new(Kind::Choice(values))
}

pub(super) const fn number(min: u64, max: u64) -> Accepts {
    Accepts::new(Kind::Number(min, max))
}

pub(super) const fn number_or_zero(min: u64, max: u64) -> Accepts {
    Accepts::new(Kind::NumberOrZero(min, max))
}

/// A value of a setting.
pub(super) trait SettingValue {
    /// Returns the number that ranges are checked against, if the value is one.
    fn number(&self) -> Option<u64> {
        None
    }

    /// Returns the value as it is written in the environment, also that of a secret; empty if it is unset.
    fn text(&self) -> String;
}

macro_rules! numbers {
    ($($number:ty),*) => { $(
        impl SettingValue for $number {
            fn number(&self) -> Option<u64> {
                Some(u64::try_from(*self).unwrap_or(u64::MAX))
            }

            fn text(&self) -> String {
                self.to_string()
            }
        }
    )* };
}
numbers!(u16, u32, u64, usize);

impl<T: SettingValue> SettingValue for Option<T> {
    fn number(&self) -> Option<u64> {
        self.as_ref().and_then(T::number)
    }

    fn text(&self) -> String {
        self.as_ref().map(T::text).unwrap_or_default()
    }
}

impl SettingValue for String {
    fn text(&self) -> String {
        self.clone()
    }
}

impl SettingValue for SecretString {
    fn text(&self) -> String {
        self.expose_secret().to_owned()
    }
}

impl SettingValue for PathBuf {
    fn text(&self) -> String {
        self.display().to_string()
    }
}

impl<T: SettingValue> SettingValue for Vec<T> {
    fn text(&self) -> String {
        self.iter().map(T::text).collect::<Vec<_>>().join(",")
    }
}

macro_rules! displayed {
    ($($type:ty),*) => { $(
        impl SettingValue for $type {
            fn text(&self) -> String {
                self.to_string()
            }
        }
    )* };
}
displayed!(
    Id,
    IpNet,
    super::CacheName,
    super::DecisionLogFilter,
    super::LogFormat,
    super::Overflow,
    super::PasswordProfile,
    super::PolicyReload,
    super::PolicyTests,
    super::TokenAlgorithm
);

/// Declares the settings by group: description, name, type, default, accepted values, and the function that reads a value
/// whose type does not say how. From this come [`super::Config`], its defaults, and [`super::SETTINGS`].
macro_rules! settings {
    ($(
        $group:literal {
            $(
                $(#[doc = $description:literal])+
                $name:ident: $type:ty = $default:expr, $accepts:expr $(, read by $read:literal)?;
            )+
        }
    )+) => {
        /// The settings. In the configuration file they have these names, in the environment the same in capitals after
        /// `CEDARGATE_`.
        #[derive(Debug, Clone, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Config {
            $($(
                $(#[doc = $description])+
                $(#[serde(deserialize_with = $read)])?
                pub $name: $type,
            )+)+
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($($name: $default,)+)+ }
            }
        }

        /// All settings, in the order of the documentation.
        pub static SETTINGS: &[Setting] = &[$($(
            Setting {
                group: $group,
                name: stringify!($name),
                description: concat!($($description),+),
                accepts: $accepts,
            },
        )+)+];

        impl Config {
            /// Returns every setting with its value, in the order of [`SETTINGS`].
            pub(super) fn values(&self) -> impl Iterator<Item = (&'static Setting, &dyn SettingValue)> {
                let values: Vec<&dyn SettingValue> = vec![$($(&self.$name,)+)+];
                SETTINGS.iter().zip(values)
            }
        }
    };
}
pub(super) use settings;
