use std::collections::BTreeSet;

use super::*;

#[test]
fn what_is_committed_is_what_the_manifests_make() {
    check().unwrap();
}

/// The paths of values that templates use.
fn used() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in WalkDir::new(directory().join("templates")) {
        let entry = entry.unwrap();
        if !entry.file_type().is_file() {
            continue;
        }
        let text = fs::read_to_string(entry.path()).unwrap();
        for part in text.split(".Values.").skip(1) {
            let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '.');
            let path = part[..end.unwrap_or(part.len())].trim_end_matches('.');
            found.insert(path.to_owned());
        }
    }
    found
}

/// The paths of values that the schema allows, with what each is.
fn allowed(schema: &serde_json::Value, prefix: &str, found: &mut BTreeSet<String>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = [prefix, name].join(".");
        let path = path.trim_start_matches('.').to_owned();
        let whole: serde_json::Value = schema_file();
        let inner = match inner["$ref"].as_str() {
            Some(reference) => whole
                .pointer(reference.trim_start_matches('#'))
                .unwrap()
                .clone(),
            None => inner.clone(),
        };
        allowed(&inner, &path, found);
        found.insert(path);
    }
}

fn schema_file() -> serde_json::Value {
    let text = fs::read_to_string(directory().join("values.schema.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The paths of the keys of `values.yaml`, which is written in blocks alone.
fn given() -> BTreeSet<String> {
    let text = fs::read_to_string(directory().join("values.yaml")).unwrap();
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let bare = line.trim_start();
        let Some((key, _)) = bare
            .split_once(':')
            .filter(|_| !bare.starts_with(['#', '-']))
        else {
            continue;
        };
        let depth = line.len() - bare.len();
        path.retain(|(outer, _)| *outer < depth);
        path.push((depth, key.to_owned()));
        let words: Vec<_> = path.iter().map(|(_, key)| key.as_str()).collect();
        found.insert(words.join("."));
    }
    found
}

#[test]
fn templates_use_only_values_that_are_there_and_checked() {
    let (used, given) = (used(), given());
    let mut checked = BTreeSet::new();
    allowed(&schema_file(), "", &mut checked);
    assert!(
        used.len() > 20 && checked.len() > 40,
        "{used:?} {checked:?}"
    );
    for path in &used {
        assert!(given.contains(path), "values.yaml has no {path}");
        assert!(checked.contains(path), "values.schema.json has no {path}");
    }
}

#[test]
fn every_value_is_documented() {
    let readme = fs::read_to_string(directory().join("README.md")).unwrap();
    let mut checked = BTreeSet::new();
    allowed(&schema_file(), "", &mut checked);
    let parents = checked.clone();
    let is_leaf = |path: &&String| !parents.iter().any(|it| it.starts_with(&format!("{path}.")));
    let inner = ["requests", "limits", "global"];
    for path in checked.iter().filter(is_leaf) {
        let last = path.rsplit('.').next().unwrap();
        if inner.contains(&last) {
            continue;
        }
        assert!(
            readme.contains(&format!("`{path}`")),
            "README.md has no `{path}`"
        );
    }
}

#[test]
fn the_charts_versions_are_the_workspaces() {
    let chart = fs::read_to_string(directory().join("Chart.yaml")).unwrap();
    for key in ["version", "appVersion"] {
        let line = format!("\n{key}: {}\n", env!("CARGO_PKG_VERSION"));
        assert!(chart.contains(&line), "{line}");
    }
}
