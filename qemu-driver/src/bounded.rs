//! Lists and texts from somebody who may be hostile: no more of them is kept than can be of use.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

/// Reads the first `MOST` elements of a list and passes over the others, for `deserialize_with`.
pub(crate) fn first<'de, const MOST: usize, T, D>(list: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    list.deserialize_seq(First::<MOST, T>(PhantomData))
}

/// The first `most` characters of `text`, without those that control a terminal.
pub(crate) fn text(text: &str, most: usize) -> String {
    let shown = text.chars().filter(|c| !c.is_control());
    shown.take(most).collect()
}

struct First<const MOST: usize, T>(PhantomData<T>);

impl<'de, const MOST: usize, T: Deserialize<'de>> Visitor<'de> for First<MOST, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut kept = Vec::new();
        while kept.len() < MOST {
            match list.next_element()? {
                Some(element) => kept.push(element),
                None => return Ok(kept),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_passed_over() {
        let read =
            |text: &str| first::<2, u8, _>(&mut serde_json::Deserializer::from_str(text)).ok();
        for (text, expected) in [
            ("[]", Some(vec![])),
            ("[1]", Some(vec![1])),
            ("[1, 2]", Some(vec![1, 2])),
            ("[1, 2, 3, {}, \"x\"]", Some(vec![1, 2])),
            ("[1, {}]", None),
            ("{}", None),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }
}
