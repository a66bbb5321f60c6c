//! The licences of the dependencies: each must offer one under which we may ship it.

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;
use spdx::{Expression, LicenseReq, ParseMode};

/// Licences that ask for no more than what an image's licence files give.
const ALLOWED: [&str; 11] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Refuses a dependency that offers none of the allowed licences, by name.
pub(crate) fn check() -> Result<()> {
    let metadata = MetadataCommand::new()
        .exec()
        .context("ask cargo for the dependencies")?;
    let refused: Vec<String> = metadata
        .packages
        .iter()
        .filter_map(|package| {
            let licence = package.license.as_deref().unwrap_or("none stated");
            let allowed = Expression::parse_mode(licence, ParseMode::LAX)
                .is_ok_and(|expression| expression.evaluate(is_allowed));
            (!allowed).then(|| format!("{} {}: {licence}", package.name, package.version))
        })
        .collect();
    if !refused.is_empty() {
        bail!(
            "dependencies with a licence that is not allowed:\n{}",
            refused.join("\n")
        );
    }
    eprintln!(
        "{} packages, all with an allowed licence",
        metadata.packages.len()
    );
    Ok(())
}

fn is_allowed(requirement: &LicenseReq) -> bool {
    requirement
        .license
        .id()
        .is_some_and(|id| ALLOWED.contains(&id.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_several_is_enough_and_all_of_many_are_needed() {
        let allowed = |text| Expression::parse(text).is_ok_and(|e| e.evaluate(is_allowed));
        assert!(allowed("MIT OR GPL-3.0-only"));
        assert!(allowed("Apache-2.0 WITH LLVM-exception"));
        assert!(!allowed("MIT AND GPL-3.0-only"));
    }
}
