//! The page itself.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use vm_api::support::catalogue::{self, Part, Row, Verdict};

use super::areas;
use super::differences::{DEFAULTS, FIELDS, MORE, VERDICTS};
use super::shown::{self, Shown, Test};

const INTRODUCTION: &str = "\
<!-- Written by cargo xtask compatibility from the code and the tests: do not edit. -->

# Compatibility

Every field of KubeVirt's API, as its version 1.9 has it: whether it works here, and the test that shows
it. No field is pruned or ignored in silence. One that does not work is refused by name: the apply warns,
nothing is started, and the condition `Synchronized` (reason `UnsupportedField`) says which field it is and
what to do instead.
";

const LEGEND: &str = "\
- **works**: the field does what it does in KubeVirt, but for
  [values that no machine can have](#values-that-kubevirt-accepts-and-no-machine-can-have).
- **works:** *values*: so do these values; others are refused by name.
- **refused:** *what to do instead*.
- `[]` stands for any item of a list, `*` for any key of a map, and `.**` for all fields below, which are
  of a type of Kubernetes' own or refused together.
- A template's fields are listed once, under the kind that is made from it.
- `metadata` is Kubernetes' own in every kind.
- What an instance type or a preference says and does not work is refused in the machines that name it;
  `volumes.preferredStorageClassName`, which is for `dataVolumeTemplates` alone, by a warning when the
  preference is applied.

";

/// How the tests of what is refused are called in the tables.
const SWEEP: &str = "[the sweep](../vm-api/tests/support.rs)";

/// The tests of what is refused, and that nothing else is.
const SWEEPS: [&str; 4] = [
    "a_field_that_does_not_work_is_refused_by_name",
    "a_value_that_does_not_work_is_refused_by_name",
    "a_field_that_works_is_not_refused",
    "each_field_of_a_type_makes_a_difference",
];

/// Says which tests these are.
fn sweeps(shown: &Shown) -> Result<String> {
    let test = |name: &&str| Test {
        file: shown::SWEEP.to_owned(),
        function: (*name).to_owned(),
    };
    let tests: Vec<_> = SWEEPS.iter().map(test).collect();
    for test in &tests {
        shown.said(test)?;
    }
    let links = links(&tests);
    Ok(format!(
        "The tests of the refusals are the same for all fields; in the tables, they are called \u{201c}the \
         sweep\u{201d}. They go\nthrough the schemas and set one field after the other:\n{}.\n",
        links.replace(", ", ",\n")
    ))
}

/// Kinds with a status.
const WITH_STATUS: [&str; 4] = [
    "VirtualMachine",
    "VirtualMachineInstance",
    "VirtualMachineInstanceReplicaSet",
    "VirtualMachinePool",
];

/// The whole page.
pub(super) fn page(shown: &Shown) -> Result<String> {
    let mut totals = Vec::new();
    let mut body = String::new();
    for part in Part::ALL {
        let (text, total) = spec(part, shown)?;
        body += &text;
        totals.push((title(part), total));
    }
    body += "\n## Status\n\nFields that are written; all others of the schema never are.\n";
    let mut written = (0, 0);
    for kind in WITH_STATUS {
        body += &status(kind, shown, &mut written)?;
    }
    let mut page = format!("{INTRODUCTION}\n## Totals\n\n");
    page +=
        "| spec of | fields | work | work with some values | refused |\n|---|--:|--:|--:|--:|\n";
    for (title, total) in &totals {
        page += &total.line(title);
    }
    let all = totals
        .iter()
        .fold(Total::default(), |sum, (_, total)| sum.plus(*total));
    page += &all.line("**all**");
    let (written, of) = written;
    write!(
        page,
        "\nOf the {of} fields of statuses, {written} are written.\n\n{LEGEND}"
    )?;
    page += &sweeps(shown)?;
    page += &body;
    page += OTHER_KINDS;
    page += &differences();
    page += &refusals()?;
    page += MANIFESTS;
    Ok(page)
}

/// Of KubeVirt's kinds, those that the cluster does not know here.
const OTHER_KINDS: &str = "
## Kinds that are not there

VirtualMachineInstanceMigration and MigrationPolicy, VirtualMachineSnapshot and VirtualMachineRestore,
VirtualMachineClone, VirtualMachineExport, VirtualMachineBackup, DataVolume, and KubeVirt itself. The API
server knows no such kinds
([definitions_have_the_form_of_definitions](../vm-api/src/crd/mod.rs) names those that it does), so that
whoever applies one is told; [migrating-from-kubevirt.md](migrating-from-kubevirt.md) says what to do
instead.
";

const MANIFESTS: &str = "
## KubeVirt's own manifests

What becomes of the manifests that KubeVirt publishes: [compatibility-manifests.md](compatibility-manifests.md).
";

fn title(part: Part) -> &'static str {
    match part {
        Part::Instancetype => "VirtualMachineInstancetype, VirtualMachineClusterInstancetype",
        Part::Preference => "VirtualMachinePreference, VirtualMachineClusterPreference",
        other => other.kind(),
    }
}

/// How many fields there are.
#[derive(Clone, Copy, Default)]
struct Total {
    works: usize,
    values: usize,
    refused: usize,
}

impl Total {
    fn plus(self, other: Self) -> Self {
        Self {
            works: self.works + other.works,
            values: self.values + other.values,
            refused: self.refused + other.refused,
        }
    }

    fn line(self, title: &str) -> String {
        let Self {
            works,
            values,
            refused,
        } = self;
        let all = works + values + refused;
        format!("| {title} | {all} | {works} | {values} | {refused} |\n")
    }
}

fn spec(part: Part, shown: &Shown) -> Result<(String, Total)> {
    let rows = catalogue::spec(part);
    let mut total = Total::default();
    let mut tables = vec![String::new(); areas::INSTANCE.len()];
    for row in &rows {
        match row.verdict {
            Verdict::Works => total.works += row.fields,
            Verdict::Values(_) => total.values += row.fields,
            Verdict::Refused(_) => total.refused += row.fields,
        }
        let table = match part {
            Part::Instance => areas::of(&row.path),
            _ => 0,
        };
        tables[table] += &line(part, row, shown)?;
    }
    let mut text = format!("\n## {}\n", title(part));
    let head = "\n| field of `spec` | | shown by |\n|---|---|---|\n";
    for (table, (area, _)) in tables.iter().zip(areas::INSTANCE) {
        if table.is_empty() {
            continue;
        }
        if part == Part::Instance {
            write!(text, "\n### {area}\n")?;
        }
        write!(text, "{head}{table}")?;
    }
    Ok((text, total))
}

fn line(part: Part, row: &Row, shown: &Shown) -> Result<String> {
    let path = format!("spec.{}", row.path);
    let own = || -> Result<String> {
        let tests = shown.tests(part.kind(), &path)?;
        ensure!(
            !tests.is_empty(),
            "{} {path} works, and no test shows it: name one in vm-api/tests/shown.tsv",
            part.kind()
        );
        Ok(links(&tests))
    };
    let (verdict, tests) = match &row.verdict {
        Verdict::Works => ("works".to_owned(), own()?),
        Verdict::Values(values) => {
            let values = values.iter().filter(|value| !value.is_empty());
            let values: Vec<_> = values.map(|value| format!("`{value}`")).collect();
            let text = format!("works: {}", values.join(", "));
            // What may only be off has nothing else to be shown.
            let tests = match values.as_slice() {
                [off] if off == "`false`" => SWEEP.to_owned(),
                _ => format!("{}, {SWEEP}", own()?),
            };
            (text, tests)
        }
        Verdict::Refused(instead) => (format!("refused: {instead}"), SWEEP.to_owned()),
    };
    Ok(format!("| `{}` | {verdict} | {tests} |\n", row.pattern()))
}

fn links(tests: &[Test]) -> String {
    let link = |test: &Test| format!("[{}](../{})", test.function, test.file);
    tests.iter().map(link).collect::<Vec<_>>().join(", ")
}

fn status(kind: &str, shown: &Shown, counts: &mut (usize, usize)) -> Result<String> {
    let mut text =
        format!("\n### Status of {kind}\n\n| field of `status` | shown by |\n|---|---|\n");
    let mut never = Vec::new();
    for row in catalogue::status(kind) {
        counts.1 += row.fields;
        let tests = shown.tests(kind, &format!("status.{}", row.path))?;
        if tests.is_empty() {
            never.push(row.path.clone());
        } else {
            counts.0 += row.fields;
            writeln!(text, "| `{}` | {} |", row.pattern(), links(&tests))?;
        }
    }
    let mut heads: Vec<_> = never.iter().map(|path| head(path, &text)).collect();
    heads.dedup();
    if !heads.is_empty() {
        let heads: Vec<_> = heads.iter().map(|path| format!("`{path}`")).collect();
        writeln!(text, "\nNever written: {}.", heads.join(", "))?;
    }
    Ok(text)
}

/// The shortest beginning of a path of which nothing is written.
fn head(path: &str, written: &str) -> String {
    let mut end = 0;
    while let Some(next) = path[end..].find(['.', '[']) {
        let begin = &path[..end + next];
        let rest_is_written = ["`", ".", "["]
            .iter()
            .any(|follows| written.contains(&format!("`{begin}{follows}")));
        if !rest_is_written {
            return begin.to_owned();
        }
        end += next + 1;
    }
    path.to_owned()
}

fn differences() -> String {
    let mut text = "
## Where KubeVirt's admission answers otherwise

[Each of 593 objects that a real KubeVirt 1.9 judged](../vm-api/tests/admission/main.rs), made from a valid
one by changing one field, is judged alike here, names the same fields when it is rejected and gets the same
defaults when it is accepted, but for these:

| object | what differs | why |
|---|---|---|
"
    .to_owned();
    let mut line = |case: &str, what: &str, why: &str| {
        let case = match case {
            "" => "any".to_owned(),
            case => format!("`{}`", case.replace('|', "\\|")),
        };
        text += &format!("| {case} | {what} | {why} |\n");
    };
    for (case, why) in VERDICTS {
        line(case, "accepted by one and rejected by the other", why);
    }
    for (case, field, why) in FIELDS {
        let what = format!("KubeVirt names `{field}` as well");
        line(&format!("{case}…"), &what, why);
    }
    for (case, field, why) in MORE {
        line(case, &format!("`{field}` is named as well"), why);
    }
    for (case, path, why) in DEFAULTS {
        line(
            case,
            &format!("`{path}` is filled in by KubeVirt alone"),
            why,
        );
    }
    text
}

fn refusals() -> Result<String> {
    let mut text = "
## Values that KubeVirt accepts and no machine can have

Of the same objects, those that KubeVirt accepted and whose fields work: here, such a value is refused by
name like a field that does not work. [Each of the machine's parts](../vm-api/src/support/mod.rs) is checked
before anything is started.

| field | refused: why, and what to do instead | seen with |
|---|---|---|
"
    .to_owned();
    for ((path, message), objects) in super::replay::refusals()? {
        let first = objects.first().map(String::as_str).unwrap_or_default();
        let more = match objects.len() {
            0 | 1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let first = first.replace('|', "\\|");
        let message = message.replace("``", "the empty text");
        writeln!(text, "| `{path}` | {message} | `{first}`{more} |")?;
    }
    Ok(text)
}
