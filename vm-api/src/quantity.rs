//! Quantities of Kubernetes, such as `512Mi` or `250m`, as bytes and as thousandths.
//!
//! The text is kept as it was given, so that an object is written back unchanged; it is parsed
//! where a number is needed. Format: `Quantity` in the API conventions of Kubernetes.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The pattern that the schema of a quantity demands.
pub const PATTERN: &str =
    r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,3})?$";

/// Units in one: a quantity is held in billionths, the smallest that Kubernetes keeps.
const ONE: i128 = 1_000_000_000;

/// The largest magnitude that Kubernetes keeps; beyond it, values are capped.
const MAXIMUM: i128 = i64::MAX as i128 * ONE;

/// A quantity as it stands in an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub String);

/// Why a quantity is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text does not follow the format.
    #[error("`{0}` is not a quantity: write a number and a unit, such as 512Mi, 2G or 250m")]
    Malformed(String),
    /// An amount below zero.
    #[error("`{0}` is below zero")]
    Negative(String),
}

impl Quantity {
    /// A quantity of bytes, in the largest binary unit that divides it.
    pub fn from_bytes(bytes: u64) -> Self {
        const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let power = if bytes == 0 {
            0
        } else {
            bytes.trailing_zeros() as usize / 10
        };
        Self(format!("{}{}", bytes >> (10 * power), UNITS[power]))
    }

    /// A quantity of processors, given in thousandths.
    pub fn from_millis(millis: u64) -> Self {
        if millis.is_multiple_of(1000) {
            Self((millis / 1000).to_string())
        } else {
            Self(format!("{millis}m"))
        }
    }

    /// The whole number at or above it: bytes of memory or storage.
    pub fn bytes(&self) -> Result<u64, QuantityError> {
        self.round_up(ONE)
    }

    /// The thousandths at or above it: millicores of processor time.
    pub fn millis(&self) -> Result<u64, QuantityError> {
        self.round_up(ONE / 1000)
    }

    fn round_up(&self, unit: i128) -> Result<u64, QuantityError> {
        let value = parse(&self.0).ok_or_else(|| QuantityError::Malformed(self.0.clone()))?;
        if value < 0 {
            return Err(QuantityError::Negative(self.0.clone()));
        }
        let units = value.unsigned_abs().div_ceil(unit.unsigned_abs());
        Ok(u64::try_from(units).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<Quantity> for k8s_openapi::apimachinery::pkg::api::resource::Quantity {
    fn from(quantity: Quantity) -> Self {
        Self(quantity.0)
    }
}

/// Billionths in the text, rounded away from zero and capped; none if it does not follow the format.
fn parse(text: &str) -> Option<i128> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let unit = Unit::parse(suffix)?;
    let magnitude = unit.scale(whole, fraction);
    Some(if negative { -magnitude } else { magnitude })
}

/// What the number before it is multiplied with.
enum Unit {
    /// A power of 1024.
    Binary(u32),
    /// A power of ten.
    Decimal(i32),
}

impl Unit {
    fn parse(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "n" => Self::Decimal(-9),
            "u" => Self::Decimal(-6),
            "m" => Self::Decimal(-3),
            "" => Self::Decimal(0),
            "k" => Self::Decimal(3),
            "M" => Self::Decimal(6),
            "G" => Self::Decimal(9),
            "T" => Self::Decimal(12),
            "P" => Self::Decimal(15),
            "E" => Self::Decimal(18),
            "Ki" => Self::Binary(1),
            "Mi" => Self::Binary(2),
            "Gi" => Self::Binary(3),
            "Ti" => Self::Binary(4),
            "Pi" => Self::Binary(5),
            "Ei" => Self::Binary(6),
            _ => Self::Decimal(exponent(suffix.strip_prefix(['e', 'E'])?)?),
        })
    }

    /// Billionths of `whole.fraction` in this unit, rounded up and capped.
    ///
    /// Digits are taken one by one from the most significant, so that neither their number nor the
    /// exponent can overflow.
    fn scale(&self, whole: &str, fraction: &str) -> i128 {
        let (factor, mut place) = match self {
            Self::Binary(power) => (1024_i128.pow(*power), 9),
            Self::Decimal(power) => (1, 9 + power),
        };
        place += whole.len() as i32;
        let mut sum = 0_i128;
        let mut lost = false;
        for digit in whole.bytes().chain(fraction.bytes()) {
            place -= 1;
            let digit = i128::from(digit - b'0') * factor;
            if digit == 0 {
                continue;
            }
            match u32::try_from(place) {
                // 10^28 billionths are above the maximum whatever the digit.
                Ok(28..) => return MAXIMUM,
                Ok(place) => {
                    sum = (sum + digit * 10_i128.pow(place).min(MAXIMUM / factor + 1)).min(MAXIMUM)
                }
                Err(_) => lost = lost_digit(digit, place, &mut sum) || lost,
            }
        }
        (sum + i128::from(lost)).min(MAXIMUM)
    }
}

/// Adds a digit below one billionth as far as it counts; says whether something was lost.
fn lost_digit(digit: i128, place: i32, sum: &mut i128) -> bool {
    let Some(divisor) = 10_i128.checked_pow(place.unsigned_abs()) else {
        return true;
    };
    *sum += digit / divisor;
    digit % divisor != 0
}

fn exponent(text: &str) -> Option<i32> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || digits.len() > 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity, such as \"512Mi\" or 2")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                Ok(Quantity(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }
        }

        deserializer.deserialize_any(Text)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "x-kubernetes-int-or-string": true, "pattern": PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> Result<u64, QuantityError> {
        Quantity::from(text).bytes()
    }

    #[test]
    fn every_unit_is_known() {
        for (text, value) in [
            ("0", 0),
            ("1", 1),
            ("1k", 1000),
            ("1Ki", 1024),
            ("1.5Gi", 3 << 29),
            ("2M", 2_000_000),
            ("1E", 1_000_000_000_000_000_000),
            ("1Ei", 1 << 60),
            ("1e3", 1000),
            ("1E3", 1000),
            ("12e-1", 2),
            ("+.5Ki", 512),
            ("5.", 5),
            ("100m", 1),
            ("1n", 1),
            ("0.0000000000001", 1),
            ("0.1Ki", 103),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn processors_are_counted_in_thousandths() {
        for (text, value) in [
            ("250m", 250),
            ("2", 2000),
            ("0.1", 100),
            ("1.0001", 1001),
            ("1u", 1),
        ] {
            assert_eq!(Quantity::from(text).millis(), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_is_too_large_is_capped() {
        for text in ["1e99", "9999999999999999999999", "100Ei", "9e18E", "8Ei"] {
            match bytes(text) {
                Ok(value) => assert_eq!(value, i64::MAX as u64, "{text}"),
                Err(error) => assert_eq!(error, QuantityError::Malformed(text.to_owned())),
            }
        }
        assert_eq!(bytes("1e-99"), Ok(1));
        assert_eq!(bytes("0e99"), Ok(0));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "", "x", ".", "-", "1 Gi", "1gi", "1KI", "1e", "1e1000", "1.2.3", "0x10", "1Gi ", "١",
        ] {
            assert_eq!(
                bytes(text),
                Err(QuantityError::Malformed(text.to_owned())),
                "{text}"
            );
        }
        assert_eq!(bytes("-1"), Err(QuantityError::Negative("-1".to_owned())));
        assert_eq!(bytes("-0"), Ok(0));
    }

    #[test]
    fn numbers_of_json_are_read() {
        for (json, text) in [("2", "2"), ("\"1Gi\"", "1Gi"), ("-1", "-1"), ("0.5", "0.5")] {
            assert_eq!(
                serde_json::from_str::<Quantity>(json).unwrap(),
                Quantity::from(text)
            );
        }
        assert!(serde_json::from_str::<Quantity>("true").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = Quantity(text).bytes();
        }

        #[test]
        fn what_follows_the_pattern_is_read(
            text in r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,3})?"
        ) {
            prop_assert!(parse(&text).is_some());
        }

        #[test]
        fn bytes_are_written_and_read_back(bytes in 0..=i64::MAX as u64) {
            prop_assert_eq!(Quantity::from_bytes(bytes).bytes(), Ok(bytes));
        }

        #[test]
        fn millis_are_written_and_read_back(millis in 0..=i64::MAX as u64 / 1000) {
            prop_assert_eq!(Quantity::from_millis(millis).millis(), Ok(millis));
        }

        #[test]
        fn a_decimal_is_rounded_up(whole in 0..1_000_000_000_u64, thousandths in 0..1000_u64) {
            let text = format!("{whole}.{thousandths:03}");
            let quantity = Quantity(text);
            prop_assert_eq!(quantity.millis(), Ok(whole * 1000 + thousandths));
            prop_assert_eq!(quantity.bytes(), Ok(whole + u64::from(thousandths > 0)));
        }
    }
}
