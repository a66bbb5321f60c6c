//! What the bench needs of the machine's kernel, and the settings that kubelet changes for the
//! whole machine: they are noted before the first cluster and put back after the last.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::names::ClusterName;
use crate::command::{run, words};

/// Settings that kubelet overwrites at its start (its "kernel tunables").
const TUNABLES: [&str; 6] = [
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// A module and a path that exists once it is there.
const MODULES: [(&str, &str); 2] = [
    ("br_netfilter", "/proc/sys/net/bridge"),
    ("overlay", "/sys/module/overlay"),
];

/// Loads modules that the kernel does not have built in.
pub(crate) fn load_modules() -> Result<()> {
    for (module, sign) in MODULES {
        if !Path::new(sign).exists() && !has_file_system(module) {
            run(&mut words(&format!("modprobe {module}")))
                .with_context(|| format!("the bench needs the kernel module {module}"))?;
        }
    }
    Ok(())
}

fn has_file_system(name: &str) -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|text| {
        text.lines()
            .any(|line| line.split_whitespace().last() == Some(name))
    })
}

fn memory() -> PathBuf {
    ClusterName::base().join("kernel-settings.json")
}

/// Notes the settings, unless an earlier cluster did.
pub(crate) fn remember_settings() -> Result<()> {
    if memory().exists() {
        return Ok(());
    }
    let mut settings = BTreeMap::new();
    for name in TUNABLES {
        let path = Path::new("/proc/sys").join(name);
        if let Ok(value) = fs::read_to_string(&path) {
            settings.insert(name, value.trim().to_owned());
        }
    }
    fs::write(memory(), serde_json::to_vec(&settings)?).context("note the kernel's settings")
}

/// Puts the settings back.
pub(crate) fn restore_settings() -> Result<()> {
    let Ok(text) = fs::read(memory()) else {
        return Ok(());
    };
    let settings: BTreeMap<String, String> = serde_json::from_slice(&text)?;
    for (name, value) in settings {
        let path = Path::new("/proc/sys").join(&name);
        fs::write(&path, value).with_context(|| format!("restore {}", path.display()))?;
    }
    fs::remove_file(memory())?;
    Ok(())
}
