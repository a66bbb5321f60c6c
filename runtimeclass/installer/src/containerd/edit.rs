//! Adding our stanza to containerd's configuration and taking it out again, as text to text.
//!
//! containerd 2.x gets a drop-in and, if it is missing, the import of it; 1.6 and 1.7 merge no
//! drop-ins below a plugin, so their file is edited. Everything else in it stays as it is, comments
//! included.

use std::path::Path;

use toml_edit::{Array, DocumentMut, Item, Table, TomlError, value};

use super::stanza::{HANDLER, ORDINARY, plugin, runtime};

/// Where the drop-in goes, and what imports it.
pub(crate) const DROP_IN: &str = "/etc/containerd/conf.d/kubevirt.toml";
const IMPORT: &str = "/etc/containerd/conf.d/*.toml";

/// The configuration as it is to be.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    /// Content of the main file.
    pub(crate) main: String,
    /// Content of the drop-in; none: there is to be no such file.
    pub(crate) drop_in: Option<String>,
}

/// Why a configuration cannot be edited.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
    /// {0} is not valid TOML.
    #[error("containerd's configuration is not valid TOML: {0}")]
    Syntax(#[from] TomlError),
    /// A format of containerd 1.5 and older.
    #[error("containerd's configuration has version {0}: migrate it to version 2 or 3 first")]
    Version(i64),
    /// A key holds something else than containerd itself expects there.
    #[error("{0} in containerd's configuration is not a table")]
    NotATable(String),
}

/// The configuration with the runtime in it. An empty `main` means that there is no file.
///
/// # Errors
/// The file as it stands is one that containerd itself would not load, or is too old a format.
pub(crate) fn add(main: &str, major: u32, shim: &Path) -> Result<Change, EditError> {
    let mut document: DocumentMut = main.parse()?;
    let version = version(&mut document, major);
    let plugin = plugin(version).map_err(EditError::Version)?;
    if major < 2 {
        let runtimes = runtimes(document.as_table_mut(), plugin)?;
        // A list of runtimes in the file takes the place of containerd's own, runc included, and
        // the CRI plugin does not load without it.
        if runtimes.is_empty() {
            let (name, kind) = ORDINARY;
            let mut ordinary = Table::new();
            ordinary["runtime_type"] = value(kind);
            runtimes.insert(name, Item::Table(ordinary));
        }
        runtimes.insert(HANDLER, Item::Table(runtime(major, shim)));
        return Ok(Change {
            main: document.to_string(),
            drop_in: None,
        });
    }
    let mut drop_in = DocumentMut::new();
    drop_in["version"] = value(version);
    runtimes(drop_in.as_table_mut(), plugin)?.insert(HANDLER, Item::Table(runtime(major, shim)));
    import(&mut document);
    Ok(Change {
        main: document.to_string(),
        drop_in: Some(drop_in.to_string()),
    })
}

/// The configuration without the runtime. The import of the drop-in directory and the runtime for
/// ordinary containers stay only if the administrator had them: `original` is the file as it was
/// before us, if it is known. The import stays for the drop-ins of `others` too.
///
/// # Errors
/// As for [`add`].
pub(crate) fn remove(
    main: &str,
    original: Option<&str>,
    others: bool,
) -> Result<Change, EditError> {
    let mut document: DocumentMut = main.parse()?;
    let original: Option<DocumentMut> = original.map(str::parse).transpose()?;
    let version = document
        .get("version")
        .and_then(Item::as_integer)
        .unwrap_or(2);
    if let Ok(plugin) = plugin(version)
        && document
            .get("plugins")
            .and_then(|plugins| plugins.get(plugin))
            .is_some()
    {
        let runtimes = runtimes(document.as_table_mut(), plugin)?;
        runtimes.remove(HANDLER);
        let (ordinary, _) = ORDINARY;
        let had_none = match &original {
            Some(original) => !has_runtimes(original, plugin),
            None => false,
        };
        if had_none && runtimes.len() == 1 && runtimes.contains_key(ordinary) {
            runtimes.remove(ordinary);
        }
    }
    let keeps_import = others || original.as_ref().is_none_or(imports);
    if !keeps_import && let Some(list) = document.get_mut("imports").and_then(Item::as_array_mut) {
        list.retain(|entry| entry.as_str() != Some(IMPORT));
        if list.is_empty() {
            document.remove("imports");
        }
    }
    Ok(Change {
        main: document.to_string(),
        drop_in: None,
    })
}

/// Whether `main` imports the directory of the drop-ins and `original` did not.
///
/// # Errors
/// One of them is not valid TOML.
pub(crate) fn imports_since(original: &str, main: &str) -> Result<bool, EditError> {
    Ok(imports(&main.parse()?) && !imports(&original.parse()?))
}

/// The file's version; a file without one gets the newest that this containerd reads.
fn version(document: &mut DocumentMut, major: u32) -> i64 {
    let newest = if major < 2 { 2 } else { 3 };
    let said = document.get("version").and_then(Item::as_integer);
    match said {
        Some(version) => version,
        // Without a version, containerd reads the file as version 1 if there is one at all.
        None if document.iter().any(|(key, _)| key == "plugins") => 1,
        None => {
            document["version"] = value(newest);
            newest
        }
    }
}

/// The table `plugins.<plugin>.containerd.runtimes`, made where it is missing.
fn runtimes<'a>(root: &'a mut Table, plugin: &str) -> Result<&'a mut Table, EditError> {
    ["plugins", plugin, "containerd", "runtimes"]
        .iter()
        .try_fold(root, |table, &key| {
            table
                .entry(key)
                .or_insert_with(|| {
                    let mut implicit = Table::new();
                    implicit.set_implicit(true);
                    Item::Table(implicit)
                })
                .as_table_mut()
                .ok_or_else(|| EditError::NotATable(key.into()))
        })
}

/// Whether the file lists runtimes itself.
fn has_runtimes(document: &DocumentMut, plugin: &str) -> bool {
    ["plugins", plugin, "containerd", "runtimes"]
        .iter()
        .try_fold(document.as_item(), |item, key| item.get(key))
        .is_some()
}

fn imports(document: &DocumentMut) -> bool {
    document
        .get("imports")
        .and_then(Item::as_array)
        .is_some_and(|list| list.iter().any(|entry| entry.as_str() == Some(IMPORT)))
}

fn import(document: &mut DocumentMut) {
    if imports(document) {
        return;
    }
    match document.get_mut("imports").and_then(Item::as_array_mut) {
        Some(list) => list.push(IMPORT),
        None => {
            let mut list = Array::new();
            list.push(IMPORT);
            document.insert("imports", value(list));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIM: &str = "/opt/kubevirt/bin/containerd-shim-kubevirt-v1";

    fn added(main: &str, major: u32) -> Change {
        add(main, major, Path::new(SHIM)).unwrap()
    }

    #[test]
    fn containerd_1_has_the_stanza_in_its_file() {
        let main = "# mine\nversion = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"pause\" # keep\n";
        let change = added(main, 1);
        insta::assert_snapshot!(change.main);
        assert_eq!(change.drop_in, None);
        assert_eq!(
            added(&change.main, 1),
            change,
            "adding twice changes nothing"
        );
        let removed = remove(&change.main, Some(main), false).unwrap();
        assert_eq!(removed.main, main);
    }

    #[test]
    fn containerd_1_keeps_the_runtimes_that_the_administrator_named() {
        let main = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
                    runtime_type = \"io.containerd.runc.v2\"\n[plugins.\"io.containerd.grpc.v1.cri\"\
                    .containerd.runtimes.runc.options]\nSystemdCgroup = true\n";
        let change = added(main, 1);
        assert!(change.main.starts_with(main), "{}", change.main);
        assert_eq!(change.main.matches("io.containerd.runc.v2").count(), 1);
        assert_eq!(remove(&change.main, Some(main), false).unwrap().main, main);
        // Without the file as it was, nothing that may be the administrator's is taken.
        assert_eq!(remove(&change.main, None, false).unwrap().main, main);
    }

    #[test]
    fn containerd_2_has_a_drop_in_and_its_import() {
        let change = added("version = 3\n", 2);
        assert_eq!(
            change.main,
            "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n"
        );
        insta::assert_snapshot!(change.drop_in.as_deref().unwrap());
        assert_eq!(added(&change.main, 2), change);
        assert_eq!(
            remove(&change.main, Some("version = 3\n"), false)
                .unwrap()
                .main,
            "version = 3\n"
        );
        assert_eq!(
            remove(&change.main, Some("version = 3\n"), true)
                .unwrap()
                .main,
            change.main,
            "others rely on the import"
        );
    }

    #[test]
    fn an_import_of_the_administrator_stays() {
        let main = "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n";
        let change = added(main, 2);
        assert_eq!(change.main, main);
        assert_eq!(remove(&change.main, Some(main), false).unwrap().main, main);
    }

    #[test]
    fn a_drop_in_is_never_newer_than_the_file_that_imports_it() {
        let drop_in = added("version = 2\n", 2).drop_in.unwrap();
        assert!(drop_in.starts_with("version = 2\n"), "{drop_in}");
        assert!(drop_in.contains("io.containerd.grpc.v1.cri"), "{drop_in}");
    }

    #[test]
    fn no_file_at_all_becomes_a_small_one() {
        assert!(added("", 1).main.starts_with("version = 2\n"));
        assert!(added("", 2).main.starts_with("version = 3\n"));
    }

    #[test]
    fn what_cannot_be_edited_is_refused() {
        let old = "[plugins.cri]\nsandbox_image = \"pause\"\n";
        let error = add(old, 1, Path::new(SHIM)).unwrap_err();
        assert!(error.to_string().contains("version 1"), "{error}");
        assert!(matches!(
            add("a = [", 2, Path::new(SHIM)),
            Err(EditError::Syntax(_))
        ));
    }
}
