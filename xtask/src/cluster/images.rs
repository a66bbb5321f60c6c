//! The bench's own images: the sandbox's process, cluster DNS, a busybox for tests, and, for the
//! end-to-end tests alone, a metrics server. Built once and kept in the cache; every node has them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::builds::{Extras, Programs};
use super::containerd::PAUSE_IMAGE;
use crate::cache;
use crate::command::{self, run, words};
use crate::oci::{Image, Tree, write_archive};

/// The image that tests may use for ordinary containers: `sh` and all of busybox.
pub(crate) const BUSYBOX_IMAGE: &str = "kubevirt.local/bench/busybox:1";
/// The image that `manifests/dns.yaml` names.
const COREDNS_IMAGE: &str = "kubevirt.local/bench/coredns:1";
/// The image that the case of `kubectl top` names.
const METRICS_SERVER_IMAGE: &str = "kubevirt.local/bench/metrics-server:1";

/// Makes the archives that the cache does not hold yet, and returns them all.
pub(crate) fn ensure(programs: &Programs) -> Result<Vec<PathBuf>> {
    let dir = cache::dir("bench-images")?;
    // What an archive is made of is part of its name, so that a change makes a new one.
    let dns = archive(&dir, &programs.coredns);
    Ok(vec![
        ensure_one(dir.join("pause-1.tar"), pause)?,
        ensure_one(dir.join("busybox-1.tar"), busybox)?,
        ensure_one(dns, || {
            Ok(one_program(COREDNS_IMAGE, &programs.coredns, "coredns"))
        })?,
    ])
}

/// The same of what only the end-to-end tests run.
pub(crate) fn ensure_extras(extras: &Extras) -> Result<Vec<PathBuf>> {
    let dir = cache::dir("bench-images")?;
    let program = &extras.metrics_server;
    let image = || one_program(METRICS_SERVER_IMAGE, program, "metrics-server");
    Ok(vec![ensure_one(archive(&dir, program), || Ok(image()))?])
}

/// The archive of an image of what lies in `built`.
fn archive(dir: &Path, built: &Path) -> PathBuf {
    let built = built.file_name().unwrap_or_default().to_string_lossy();
    dir.join(format!("{built}.tar"))
}

fn ensure_one(path: PathBuf, image: impl FnOnce() -> Result<Image>) -> Result<PathBuf> {
    if !path.exists() {
        write_archive(&path, &image()?).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(path)
}

fn pause() -> Result<Image> {
    let work = tempfile::tempdir()?;
    let (source, program) = (work.path().join("pause.c"), work.path().join("pause"));
    std::fs::write(&source, include_str!("pause.c"))?;
    run(words("cc -static -Os -s -o").args([&program, &source]))
        .context("compile the pause image's program")?;
    let mut tree = Tree::default();
    tree.bytes("/pause", std::fs::read(&program)?, 0o755);
    Ok(Image {
        name: PAUSE_IMAGE.into(),
        entrypoint: vec!["/pause".into()],
        tree,
        ..Image::default()
    })
}

fn busybox() -> Result<Image> {
    let program = Path::new("/bin/busybox");
    let mut tree = Tree::default();
    tree.file("/bin/busybox", program, 0o755);
    for applet in command::output(&mut words("/bin/busybox --list"))?.lines() {
        if applet != "busybox" {
            tree.symlink(&format!("/bin/{applet}"), "busybox");
        }
    }
    tree.directory("/tmp", 0o1777)
        .directory("/root", 0o700)
        .bytes("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644)
        .bytes("/etc/group", "root:x:0:\n", 0o644);
    Ok(Image {
        name: BUSYBOX_IMAGE.into(),
        cmd: vec!["sh".into()],
        env: vec!["PATH=/bin".into()],
        tree,
        ..Image::default()
    })
}

/// An image called `name` of nothing but the static `program` in `directory`.
fn one_program(name: &str, directory: &Path, program: &str) -> Image {
    let path = format!("/{program}");
    let mut tree = Tree::default();
    tree.file(&path, &directory.join(program), 0o755);
    Image {
        name: name.into(),
        entrypoint: vec![path],
        tree,
        ..Image::default()
    }
}
