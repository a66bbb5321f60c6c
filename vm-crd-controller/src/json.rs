//! How much a JSON text holds, told before it is read.

/// More values than any valid spec has.
pub(crate) const MAXIMUM_VALUES: usize = 20_000;

/// Values in a JSON text, as far as that can be told from its punctuation.
pub(crate) fn values(json: &[u8]) -> usize {
    let (mut in_text, mut escaped) = (false, false);
    let mut count = 0;
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' | b',' if !in_text => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_texts() {
        for (json, expected) in [
            ("{}", 1),
            (r#"{"a":[1,2,{"b":"c"}]}"#, 5),
            (r#"{"a":"[,{\",\\"}"#, 1),
            (r#""a,b""#, 0),
        ] {
            assert_eq!(values(json.as_bytes()), expected, "{json}");
        }
    }
}
