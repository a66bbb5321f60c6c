//! `cargo xtask manifests`: what becomes of KubeVirt's own manifests, with nothing but their images
//! replaced. Relies on a directory that the user names, such as KubeVirt's user guide or its
//! examples; promises a class for each document, and to fail if one has none.

mod applied;
mod document;
mod image;
mod known;
mod library;
mod live;
mod observe;
mod offline;
mod preset;
mod reference;
mod report;
mod shrink;
mod source;
mod verdict;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::cluster::{self, ClusterName};
use crate::guest::{self, Guest};
use known::Known;
use library::Library;
use live::Runner;
use offline::Judge;
use report::{Report, Row};
use verdict::{Class, Verdict};

/// Arguments of `cargo xtask manifests`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A directory of .yaml, .yml and .md files
    directory: PathBuf,
    /// Also run them, on this cluster, which has the product installed
    #[arg(long)]
    cluster: Option<ClusterName>,
    /// Where no node has room for a machine, try it again with one processor and 256Mi, and say so
    #[arg(long, requires = "cluster")]
    shrink: bool,
    /// Manifests that run at once
    #[arg(long, default_value_t = 3, requires = "cluster")]
    jobs: usize,
    /// Only manifests whose line in the table would hold this
    #[arg(long)]
    only: Option<String>,
    /// Write the table as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Put the tables into this document instead of printing them, in place of what stands there
    /// between `<!-- manifests: SECTION -->` and `<!-- end -->`
    #[arg(long, requires = "section")]
    document: Option<PathBuf>,
    /// That section
    #[arg(long)]
    section: Option<String>,
    /// Documents of one kind that become the same in one line
    #[arg(long)]
    fold: bool,
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
    let wanted = |index: &usize| {
        let document = &library.documents[*index];
        let line = format!(
            "{} | {} {}",
            document.place,
            document.kind(),
            document.name()
        );
        let only = args.only.as_deref().unwrap_or_default();
        document.is_of_kubevirt() && line.contains(only)
    };
    let judged = (0..library.documents.len()).filter(wanted);
    let mut judged: Vec<_> = judged.map(|index| (index, judge.judge(index))).collect();
    if let Some(cluster) = &args.cluster {
        judged = on_cluster(args, cluster, &library, judged)?;
    }
    let rows = judged
        .into_iter()
        .map(|(index, verdict)| Row::new(&library.documents[index], verdict));
    let report = Report {
        rows: rows.collect(),
        fragments: reading.fragments,
        elided: reading.elided,
    };
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    let tables = report.markdown(args.fold);
    match (&args.document, &args.section) {
        (Some(path), Some(section)) => {
            let text =
                fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            let text = report::put(&text, section, &tables)
                .with_context(|| format!("put the tables into {}", path.display()))?;
            fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        }
        _ => print!("{tables}"),
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

/// What becomes of documents on a cluster.
fn on_cluster(
    args: &Args,
    cluster: &ClusterName,
    library: &Library,
    judged: Vec<(usize, Verdict)>,
) -> Result<Vec<(usize, Verdict)>> {
    let guest = guest::build(Guest::Tiny, Guest::Tiny.default_format())?;
    cluster::load(cluster, &[guest.archive])?;
    live::tidy(cluster)?;
    let runner = Runner {
        cluster,
        library,
        shrink: args.shrink,
        of_cluster: Mutex::default(),
    };
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while let Some((index, expected)) = judged.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let verdict = runner.run(*index, expected);
                    let place = &library.documents[*index].place;
                    eprintln!("{place}: {}", verdict.class());
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((*index, verdict));
                }
            });
        }
    });
    live::tidy(cluster)?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    Ok(done)
}
