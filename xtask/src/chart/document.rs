//! A manifest as a template: its documents as they are, comments included, with what Helm would take
//! for its own made harmless, the choices put in, and a condition around what may be left out.

use anyhow::{Context, Result, bail};

use super::choices;

/// The manifest `name` as a template; none if the chart does without.
pub(super) fn template(name: &str, text: &str) -> Result<Option<String>> {
    let documents = text.split("\n---\n").map(|document| {
        let document = format!("{}\n", document.trim_end());
        one(&document)
    });
    let documents: Vec<_> = documents.collect::<Result<Vec<_>>>()?;
    let documents: Vec<_> = documents.into_iter().flatten().collect();
    if documents.is_empty() {
        return Ok(None);
    }
    let head = format!("{{{{- /* From runtimeclass/{name}: cargo xtask chart */ -}}}}\n");
    Ok(Some(head + &documents.join("---\n")))
}

fn one(document: &str) -> Result<Option<String>> {
    let kind = field(document, "kind: ").context("a document has no kind")?;
    let harmless = document.replace("{{", "{{ \"{{\" }}");
    let chosen = choices::put(kind, name(document).unwrap_or_default(), harmless)?;
    let condition = match kind {
        // Helm's own secret must be there before, and so must its namespace.
        "Namespace" => return Ok(None),
        "CustomResourceDefinition" => {
            let kept = annotated(&chosen, "helm.sh/resource-policy: keep")?;
            return Ok(Some(when(".Values.crds.install", &kept)));
        }
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => {
            ".Values.webhooks.install"
        }
        "APIService" => ".Values.apiServices.install",
        _ => return Ok(Some(chosen)),
    };
    Ok(Some(when(condition, &chosen)))
}

fn when(condition: &str, document: &str) -> String {
    format!("{{{{- if {condition} }}}}\n{document}{{{{- end }}}}\n")
}

/// The document with an annotation more.
fn annotated(document: &str, annotation: &str) -> Result<String> {
    let has = document.lines().any(|line| line == "  annotations:");
    let (after, more) = match has {
        true => ("\n  annotations:\n", format!("    {annotation}\n")),
        false => (
            "\nmetadata:\n",
            format!("  annotations:\n    {annotation}\n"),
        ),
    };
    let (before, rest) = document
        .split_once(after)
        .context("a document has no metadata of its own lines")?;
    Ok(format!("{before}{after}{more}{rest}"))
}

fn field<'a>(document: &'a str, key: &str) -> Option<&'a str> {
    let mut values = document.lines().filter_map(|line| line.strip_prefix(key));
    values.next().map(str::trim)
}

/// The name in the document's metadata.
fn name(document: &str) -> Option<&str> {
    field(document.split_once("\nmetadata:\n")?.1, "  name: ")
}

/// Replaces the one line `line`, its indentation aside, and what is indented below it.
///
/// # Errors
/// There is none, or there are several.
pub(super) fn replace(document: &str, line: &str, with: &str) -> Result<String> {
    let lines: Vec<_> = document.lines().collect();
    let at = find(&lines, line)?;
    let depth = indentation(lines[at]);
    let below = |line: &&&str| line.trim().is_empty() || indentation(line) > depth;
    let end = at + 1 + lines[at + 1..].iter().take_while(below).count();
    Ok(join(&lines[..at], with, depth, &lines[end..]))
}

/// Puts `more` first below the one line `line`.
///
/// # Errors
/// As of [`replace`].
pub(super) fn begin(document: &str, line: &str, more: &str) -> Result<String> {
    let lines: Vec<_> = document.lines().collect();
    let at = find(&lines, line)?;
    let depth = indentation(lines[at]) + 2;
    Ok(join(&lines[..=at], more, depth, &lines[at + 1..]))
}

fn find(lines: &[&str], line: &str) -> Result<usize> {
    let is_it = |at: &usize| lines[*at].trim_start() == line;
    match (0..lines.len()).filter(is_it).collect::<Vec<_>>()[..] {
        [at] => Ok(at),
        _ => bail!("`{line}` must stand there exactly once, for a choice of the chart's"),
    }
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn join(before: &[&str], text: &str, depth: usize, after: &[&str]) -> String {
    let indented = text.lines().map(|line| match line {
        // A line of control belongs to no level.
        line if line.starts_with("{{-") => line.to_owned(),
        line => format!("{:depth$}{line}", ""),
    });
    let owned = |lines: &[&str]| {
        lines
            .iter()
            .map(|line| (*line).to_owned())
            .collect::<Vec<_>>()
    };
    let all = owned(before)
        .into_iter()
        .chain(indented)
        .chain(owned(after));
    all.map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_with_what_is_below_it() {
        let text = "a:\n  b:\n    - c\n    - d\n  e: f\n";
        assert_eq!(
            replace(text, "b:", "g: h\ni: j").unwrap(),
            "a:\n  g: h\n  i: j\n  e: f\n"
        );
        assert!(replace(text, "x:", "").is_err());
        assert!(replace("b: 1\nb: 1\n", "b: 1", "").is_err());
        let begun = "a:\n  b:\n    g: h\n    - c\n    - d\n  e: f\n";
        assert_eq!(begin(text, "b:", "g: h").unwrap(), begun);
    }

    #[test]
    fn what_helm_would_read_is_made_harmless() {
        let text = "kind: ConfigMap\nmetadata:\n  name: x\ndata:\n  a: '{{ b }}'\n";
        let template = template("x.yaml", text).unwrap().unwrap();
        assert!(template.contains("a: '{{ \"{{\" }} b }}'"), "{template}");
    }

    #[test]
    fn types_stay_when_the_release_goes() {
        let text = "kind: CustomResourceDefinition\nmetadata:\n  name: x\nspec: {}\n";
        let template = template("x.yaml", text).unwrap().unwrap();
        let kept = "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n  name: x\n";
        assert!(template.contains(kept), "{template}");
    }
}
