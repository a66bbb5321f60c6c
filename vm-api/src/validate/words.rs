//! Words that cannot be empty where they stand.

use std::str::FromStr;

use crate::field::FieldError;
use crate::words::UnknownWord;

/// What is wrong with the word at `path`, if there is one.
pub(super) fn strict<T>(path: impl FnOnce() -> String, text: Option<&str>) -> Option<FieldError>
where
    T: FromStr<Err = UnknownWord>,
{
    let error = text?.parse::<T>().err()?;
    Some(FieldError::new(path(), error))
}
