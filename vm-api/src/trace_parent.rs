//! W3C's `traceparent` (w3.org/TR/trace-context, version 00): to which span of which trace the work of
//! a machine's start belongs.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The flag of spans that are recorded.
const RECORDED: u8 = 1;

/// Why a text is no parent of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TraceParentError {
    /// It has not the form.
    #[error(
        "it is not of the form 00-<32 hexadecimal digits>-<16 hexadecimal digits>-<2 hexadecimal digits>, none of the first two all zero"
    )]
    Form,
    /// Its spans are not recorded by anybody.
    #[error("its flags say that the trace is not recorded")]
    NotRecorded,
}

/// A span of a trace that is recorded. Neither id is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
}

impl TraceParent {
    /// The span `span` of the trace `trace`; none if one of them is zero, which no id is.
    pub fn new(trace: u128, span: u64) -> Option<Self> {
        (trace != 0 && span != 0).then_some(Self { trace, span })
    }

    /// The trace's id, as 32 hexadecimal digits.
    pub fn trace(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The span's id, as 16 hexadecimal digits.
    pub fn span(&self) -> String {
        format!("{:016x}", self.span)
    }

    /// The trace's id.
    pub fn trace_number(&self) -> u128 {
        self.trace
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{RECORDED:02x}",
            self.trace, self.span
        )
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    /// Reads a header of any version: later ones only add parts at its end.
    fn from_str(header: &str) -> Result<Self, Self::Err> {
        let mut parts = header.split('-');
        let mut number = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            let is_hex = part.bytes().all(|byte| byte.is_ascii_hexdigit());
            u128::from_str_radix(part, 16).ok().filter(|_| is_hex)
        };
        let mut read = || {
            let version = number(2).filter(|version| *version != 0xff)?;
            let (trace, span, flags) = (number(32)?, number(16)?, number(2)?);
            let parent = Self::new(trace, u64::try_from(span).ok()?)?;
            Some((version, parent, u8::try_from(flags).ok()?))
        };
        let (version, parent, flags) = read().ok_or(TraceParentError::Form)?;
        if version == 0 && parts.next().is_some() {
            return Err(TraceParentError::Form);
        }
        if flags & RECORDED == 0 {
            return Err(TraceParentError::NotRecorded);
        }
        Ok(parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_written_reads_back() {
        let parent: TraceParent = HEADER.parse().unwrap();
        assert_eq!(parent.trace(), HEADER[3..35]);
        assert_eq!(parent.span(), HEADER[36..52]);
        assert_eq!(parent.to_string(), HEADER);
        assert_eq!(TraceParent::new(0, 1), None);
        assert_eq!(TraceParent::new(1, 0), None);
    }

    #[test]
    fn anything_else_is_refused() {
        let zero = HEADER.replace("b7ad6b7169203331", "0000000000000000");
        let more = format!("{HEADER}-more");
        for header in [
            "",
            "00",
            "00-1-2-01",
            "ff-x",
            &zero,
            &more,
            &HEADER.replace('a', "+"),
        ] {
            let read = header.parse::<TraceParent>();
            assert_eq!(read, Err(TraceParentError::Form), "{header}");
        }
        let unrecorded = HEADER.replace("-01", "-00");
        let read = unrecorded.parse::<TraceParent>();
        assert_eq!(read, Err(TraceParentError::NotRecorded));
        let later = format!("cc{}-more", &HEADER[2..]);
        assert!(later.parse::<TraceParent>().is_ok());
    }
}
