//! Enums of plain words: each value has one text, and every text reads back or is refused with the
//! list of those that would have been right.

/// A word that is none of those allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is none of {known}")]
pub struct UnknownWord {
    /// What was given.
    pub text: String,
    /// What would have been right, separated by commas.
    pub known: String,
}

/// Defines an enum of words with its text, its list and its parser.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $word:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $word,)+ }

        impl $name {
            /// All values.
            pub const ALL: &[Self] = &[$(Self::$word,)+];

            /// The text as it stands in objects.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$word => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::words::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let known = Self::ALL.iter().map(|word| word.as_str());
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or_else(|| {
                    $crate::words::UnknownWord {
                        text: text.to_owned(),
                        known: known.collect::<Vec<_>>().join(", "),
                    }
                })
            }
        }
    };
}

pub(crate) use words;
