//! `cargo xtask compatibility`: docs/compatibility.md, written from the code and the tests.
//!
//! The fields are those of the schemas, and whether they work is what the tables say by which objects are
//! refused (`vm_api::support::catalogue`). Which test shows a field is told by `vm-api/tests/shown.tsv`; a
//! field that works and has no test there is an error, and so is a test that does not speak of its field.

mod areas;
#[path = "../../../vm-api/tests/admission/differences.rs"]
mod differences;
mod document;
mod replay;
mod shown;
mod source;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use shown::Shown;

/// Arguments of `cargo xtask compatibility`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if the page is not what the code and the tests make
    #[arg(long)]
    check: bool,
}

/// The page.
const PAGE: &str = "docs/compatibility.md";

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.check {
        return check();
    }
    let path = root().join(PAGE);
    fs::write(&path, page()?).with_context(|| format!("write {}", path.display()))?;
    println!("{PAGE}");
    Ok(())
}

/// Refuses what is committed if it is not what the code and the tests make.
fn check() -> Result<()> {
    let committed = fs::read_to_string(root().join(PAGE)).unwrap_or_default();
    if committed == page()? {
        Ok(())
    } else {
        bail!("{PAGE} is not what the code and the tests make: run `cargo xtask compatibility`")
    }
}

fn page() -> Result<String> {
    let shown = Shown::read(&root())?;
    let page = document::page(&shown)?;
    shown.all_used()?;
    Ok(page)
}

/// The directory of the workspace.
fn root() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).to_owned()
}
