//! Container images of a case's own, with disks that no sane build makes.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{Node, Output, TestNamespace};

/// What an image has at a path.
#[derive(Clone, Copy)]
pub enum Entry<'a> {
    /// A file with this content.
    File(&'a [u8]),
    /// A symbolic link to this target.
    Symlink(&'a str),
}

/// An image of the case's own on one node; gone with the value.
pub struct ContainerDisk {
    node: Node,
    reference: String,
}

impl ContainerDisk {
    /// An image of one layer that holds `entries`, each with its path in the image.
    #[track_caller]
    pub fn new(namespace: &TestNamespace, node: Node, entries: &[(&str, Entry<'_>)]) -> Self {
        Self::named(namespace, node, "raw", entries)
    }

    /// The same for one of several images of a case, with a tag of its own.
    #[track_caller]
    pub fn named(
        namespace: &TestNamespace,
        node: Node,
        tag: &str,
        entries: &[(&str, Entry<'_>)],
    ) -> Self {
        let reference = format!("kubevirt.local/test/{}:{tag}", namespace.name());
        let archive = archive(&reference, entries).expect("a tar archive in memory");
        let this = Self { node, reference };
        this.ctr(&["import", "-"], &archive).expect_success();
        this
    }

    /// The reference that a pod names it by.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Runs `ctr images` on the node.
    fn ctr(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new(format!("ctr-{}", self.node.name()))
            .arg("images")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ctr's wrapper is on PATH");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        // An import that fails leaves the rest unread, and says why itself.
        let _ = stdin.write_all(input);
        drop(stdin);
        child.wait_with_output().expect("ctr ends").into()
    }
}

impl Drop for ContainerDisk {
    fn drop(&mut self) {
        let _ = std::panic::catch_unwind(|| self.ctr(&["rm", &self.reference], &[]));
    }
}

/// The image in the format of `docker save`, which containerd imports too.
fn archive(reference: &str, entries: &[(&str, Entry<'_>)]) -> std::io::Result<Vec<u8>> {
    let layer = tar(entries)?;
    let diff_id = format!("sha256:{}", hex::encode(Sha256::digest(&layer)));
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let manifest = json!([{
        "Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"],
    }]);
    tar(&[
        (
            "manifest.json",
            Entry::File(manifest.to_string().as_bytes()),
        ),
        ("config.json", Entry::File(config.to_string().as_bytes())),
        ("layer.tar", Entry::File(&layer)),
    ])
}

fn tar(entries: &[(&str, Entry<'_>)]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        match entry {
            Entry::File(content) => {
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, *content)?;
            }
            Entry::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, path, target)?;
            }
        }
    }
    tar.into_inner()
}
