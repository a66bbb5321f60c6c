//! Which manifests a kustomization consists of. Reads what ours say and refuses what the chart would
//! not do too, so that nothing is in the one and not in the other.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The configuration of the nodes: the chart has a template of its own for its ConfigMap.
const GENERATED: &str = "node";

/// The manifests that the kustomization of `directory` names, in its order.
pub(super) fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let file = directory.join("kustomization.yaml");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let resources = resources(&text, directory.ends_with(GENERATED))
        .with_context(|| format!("read {}", file.display()))?;
    let mut found = Vec::new();
    for resource in resources {
        let path = fs::canonicalize(directory.join(&resource))
            .with_context(|| format!("find {resource}, named in {}", file.display()))?;
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// What stands under `resources`.
fn resources(text: &str, may_generate: bool) -> Result<Vec<String>> {
    let mut key = "";
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        if !line.starts_with([' ', '-']) {
            key = line.split(':').next().unwrap_or_default();
            match key {
                "apiVersion" | "kind" | "resources" => {}
                "configMapGenerator" if may_generate => {}
                other => bail!("the chart does not do what `{other}` says: teach it or do without"),
            }
        } else if key == "resources" {
            let entry = line.trim().strip_prefix("- ");
            found.push(entry.context("an entry begins with `- `")?.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_chart_does_too_may_stand_there() {
        let text = "# all\nkind: Kustomization\nresources:\n  - a.yaml\n  - ../b\n";
        assert_eq!(resources(text, false).unwrap(), ["a.yaml", "../b"]);
        let generates = format!("{text}configMapGenerator:\n  - name: x\n");
        assert_eq!(resources(&generates, true).unwrap().len(), 2);
        for more in ["configMapGenerator:\n", "patches:\n", "images:\n"] {
            let error = resources(&format!("{text}{more}"), false).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains(more.trim().trim_end_matches(':'))
            );
        }
    }
}
