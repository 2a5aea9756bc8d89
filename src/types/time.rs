//! Timestamps, and the clock from which the whole program reads the time.

use super::{FieldErrorCode, InvalidValue, quoted, string_schema, text_serde};
use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::fmt::temporal::Pieces;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// A point in time: milliseconds since 1970 in UTC. An ISO 8601 string in JSON, a number in a column.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Creates it from milliseconds since 1970.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Returns the milliseconds since 1970.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Returns the whole seconds since 1970, as in JWT claims (RFC 7519, NumericDate).
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Returns the timestamp this many seconds later.
    pub const fn plus_seconds(self, seconds: u64) -> Self {
        #[expect(clippy::cast_possible_wrap, reason = "clamped to what fits")]
        let seconds = if seconds > i64::MAX as u64 { i64::MAX } else { seconds as i64 };
        Self(self.0.saturating_add(seconds.saturating_mul(1_000)))
    }
}

impl Timestamp {
    /// Returns the whole seconds until `later`; 0 if that is not later.
    pub fn seconds_until(self, later: Self) -> u64 {
        u64::try_from(later.0.saturating_sub(self.0) / 1_000).unwrap_or(0)
    }

    /// Returns the timestamp this many seconds earlier.
    pub const fn minus_seconds(self, seconds: u64) -> Self {
        #[expect(clippy::cast_possible_wrap, reason = "clamped to what fits")]
        let seconds = if seconds > i64::MAX as u64 { i64::MAX } else { seconds as i64 };
        Self(self.0.saturating_sub(seconds.saturating_mul(1_000)))
    }
}

impl FromStr for Timestamp {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let parsed = parse_millis(text).filter(|millis| (MIN_MILLIS..=MAX_MILLIS).contains(millis));
        parsed.map(Self).ok_or_else(|| {
            let message = format!(
                "{} is not a time such as 2026-01-31T12:00:00Z (ISO 8601, with an offset, in UTC from year 0 to 9999)",
                quoted(text)
            );
            InvalidValue::new(FieldErrorCode::InvalidFormat, message)
        })
    }
}

/// The first and the last millisecond that RFC 3339 can represent in UTC.
const MIN_MILLIS: i64 = -62_167_219_200_000;
const MAX_MILLIS: i64 = 253_402_300_799_999;

/// The start of 1970.
const EPOCH: DateTime = jiff::civil::datetime(1970, 1, 1, 0, 0, 0, 0);

/// Parses a text with date, time and offset into milliseconds since 1970.
///
/// It computes with the civil time, because the range of `jiff::Timestamp` ends a day before the year 9999 does.
fn parse_millis(text: &str) -> Option<i64> {
    let pieces = Pieces::parse(text).ok()?;
    let civil = pieces.date().to_datetime(pieces.time()?).duration_since(EPOCH);
    let offset = SignedDuration::from_secs(pieces.offset()?.to_numeric_offset().seconds().into());
    i64::try_from(civil.checked_sub(offset)?.as_millis()).ok()
}

impl Timestamp {
    fn to_civil(self) -> DateTime {
        EPOCH.saturating_add(SignedDuration::from_millis(self.0.clamp(MIN_MILLIS, MAX_MILLIS)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}Z", self.to_civil())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

text_serde!(Timestamp);

impl utoipa::PartialSchema for Timestamp {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        string_schema("A point in time: ISO 8601 in UTC, with milliseconds.")
            .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::DateTime)))
            .examples(["2026-01-31T12:00:00.000Z"])
            .into()
    }
}

impl utoipa::ToSchema for Timestamp {}

/// A duration in milliseconds, at most one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "super::JsonInteger")]
pub struct Millis(i64);

impl Millis {
    const MAX: i64 = 86_400_000;

    /// Returns the number of milliseconds.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl TryFrom<super::JsonInteger> for Millis {
    type Error = InvalidValue;

    fn try_from(super::JsonInteger(millis): super::JsonInteger) -> Result<Self, InvalidValue> {
        if (0..=Self::MAX).contains(&millis) {
            Ok(Self(millis))
        } else {
            Err(InvalidValue::new(
                FieldErrorCode::OutOfRange,
                format!("{millis} is not a number of milliseconds from 0 to {} (one day)", Self::MAX),
            ))
        }
    }
}

impl utoipa::PartialSchema for Millis {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::SchemaType::Type(utoipa::openapi::schema::Type::Integer))
            .description(Some("A duration in milliseconds, at most one day."))
            .minimum(Some(0))
            .maximum(Some(Self::MAX))
            .into()
    }
}

impl utoipa::ToSchema for Millis {}

/// The clock: the time of day, which may be adjusted, and monotonic time, which only advances.
///
/// A manual clock stands still until a test moves it. Clones of a clock share its time.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    manual: Option<Arc<ManualClock>>,
}

/// The time of a manual clock, in milliseconds.
#[derive(Debug)]
struct ManualClock {
    wall: AtomicI64,
    monotonic: AtomicI64,
}

impl Clock {
    /// Returns the clock of the machine.
    pub fn system() -> Self {
        Self::default()
    }

    /// Returns a clock that stands at `start` until [`Clock::advance`] moves it.
    pub fn manual(start: Timestamp) -> Self {
        let manual = ManualClock { wall: AtomicI64::new(start.0), monotonic: AtomicI64::new(0) };
        Self { manual: Some(Arc::new(manual)) }
    }

    /// Returns the time of day.
    pub fn now(&self) -> Timestamp {
        match &self.manual {
            Some(manual) => Timestamp(manual.wall.load(Ordering::SeqCst)),
            None => {
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                Timestamp(since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
            }
        }
    }

    /// Returns the time since a start that all clocks of the process share. Adjusting the time of day does not affect it.
    pub fn monotonic(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        match &self.manual {
            Some(manual) => {
                let millis = manual.monotonic.load(Ordering::SeqCst);
                Duration::from_millis(u64::try_from(millis).unwrap_or_default())
            }
            None => START.elapsed(),
        }
    }

    /// Advances the time of day and the monotonic time of a manual clock.
    pub fn advance(&self, millis: i64) {
        self.step(millis);
        if let Some(manual) = &self.manual {
            manual.monotonic.fetch_add(millis.max(0), Ordering::SeqCst);
        }
    }

    /// Adjusts only the time of day of a manual clock, as a correction of the system time does. `millis` may be negative.
    pub fn step(&self, millis: i64) {
        if let Some(manual) = &self.manual {
            manual.wall.fetch_add(millis, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_formatted_in_utc_with_milliseconds() {
        let moment: Timestamp = "2026-01-31T13:00:00+01:00".parse().unwrap();
        assert_eq!(moment.to_string(), "2026-01-31T12:00:00.000Z");
        assert_eq!(moment.plus_seconds(90).to_string(), "2026-01-31T12:01:30.000Z");
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn years_from_0_to_9999_are_parsed_and_formatted() {
        for (text, written) in [
            ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
            ("9999-12-31T23:59:59+01:00", "9999-12-31T22:59:59.000Z"),
            ("9999-12-30T22:00:00-12:30", "9999-12-31T10:30:00.000Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.500Z"),
            ("2024-02-29T12:00:00z", "2024-02-29T12:00:00.000Z"),
        ] {
            let moment: Timestamp = text.parse().unwrap();
            assert_eq!(moment.to_string(), written);
            assert_eq!(written.parse::<Timestamp>().unwrap(), moment);
        }
        for text in [
            "9999-12-31T23:59:59-00:01",
            "0000-01-01T00:00:00+00:01",
            "10000-01-01T00:00:00Z",
            "2026-01-31T12:00:00",
            "2026-01-31Z",
            "2026-02-30T12:00:00Z",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
        assert_eq!(Timestamp::from_millis(i64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_manual_clock_advances_only_on_request_and_clones_share_it() {
        let clock = Clock::manual(Timestamp::from_millis(5));
        let copy = clock.clone();
        clock.advance(10);
        assert_eq!((copy.now(), copy.monotonic()), (Timestamp::from_millis(15), Duration::from_millis(10)));
        clock.step(-7);
        assert_eq!((copy.now(), copy.monotonic()), (Timestamp::from_millis(8), Duration::from_millis(10)));
    }
}
