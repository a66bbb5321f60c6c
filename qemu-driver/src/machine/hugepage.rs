//! The pages that a guest's memory is made of.

/// A huge page of amd64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePage {
    /// 2 MiB.
    TwoMi,
    /// 1 GiB.
    OneGi,
}

impl HugePage {
    /// Bytes of the page.
    pub fn bytes(self) -> u64 {
        match self {
            Self::TwoMi => 2 << 20,
            Self::OneGi => 1 << 30,
        }
    }
}
