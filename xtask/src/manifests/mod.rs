//! `cargo xtask manifests`: what becomes of KubeVirt's own manifests, with nothing but their images
//! replaced. Relies on a directory that the user names, such as KubeVirt's user guide or its
//! examples; promises a class for each document, and to fail if one has none.

mod document;
mod image;
mod known;
mod library;
mod offline;
mod preset;
mod reference;
mod report;
mod source;
mod verdict;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::cluster::ClusterName;
use known::Known;
use library::Library;
use offline::Judge;
use report::{Report, Row};
use verdict::Class;

/// Arguments of `cargo xtask manifests`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A directory of .yaml, .yml and .md files
    directory: PathBuf,
    /// Also run them, on this cluster, which has the product installed
    #[arg(long)]
    cluster: Option<ClusterName>,
    /// Write the table as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the table as Markdown to this file instead of printing it
    #[arg(long)]
    markdown: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let blocks = source::blocks(&args.directory)?;
    let reading = document::read(&blocks);
    let mut documents = reading.documents;
    for document in &mut documents {
        if let document::Content::Object(object) = &mut document.content {
            image::replace(object, image::GUEST);
        }
    }
    let library = Library::new(documents);
    let judge = Judge::new(&library, Known::read()?);
    let of_kubevirt = |index: &usize| library.documents[*index].is_of_kubevirt();
    let rows = (0..library.documents.len())
        .filter(of_kubevirt)
        .map(|index| Row::new(&library.documents[index], judge.judge(index)));
    let report = Report {
        rows: rows.collect(),
        fragments: reading.fragments,
        elided: reading.elided,
    };
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    match &args.markdown {
        Some(path) => fs::write(path, report.markdown())
            .with_context(|| format!("write {}", path.display()))?,
        None => print!("{}", report.markdown()),
    }
    eprint!("{}", report.totals());
    match report.count(Class::Failed) {
        0 => Ok(()),
        failed => bail!(
            "{failed} of {} documents are in none of the classes",
            report.rows.len()
        ),
    }
}
