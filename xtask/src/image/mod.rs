//! `cargo xtask image`: builds the product's own images as OCI archives. Each holds statically
//! linked programs and what they bring to a node, nothing of a distribution's user land; the same
//! sources give the same image, and nothing is packed twice.

pub(crate) mod programs;
pub(crate) mod qemu;
mod virtiofsd;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::cache::{self, Key};
use crate::command;
use crate::oci::{self, Image, Tree};
use crate::progress::Step;
use programs::Programs;

/// Where the files for the node are, in the installer's image and on the node alike.
const PREFIX: &str = "/opt/kubevirt";

/// The tag that the manifests name.
const LATEST: &str = "latest";

/// The user that the controller runs as: no one on any node.
const CONTROLLER_USER: &str = "65532:65532";

/// Environment of the controller: its C library gives memory back. By default it keeps what lists of
/// thousands of objects took once, in several arenas.
pub(crate) const CONTROLLER_ENVIRONMENT: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
];

/// Arguments of `cargo xtask image`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which images [default: all]
    names: Vec<Product>,
    /// Copy the archives there too
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// An image of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Product {
    /// Installs the shim and a self-contained QEMU on a node
    NodeInstaller,
    /// Turns kubevirt.io objects into pods
    Controller,
}

impl Product {
    /// All images, in the order in which they are built.
    const ALL: [Self; 2] = [Self::NodeInstaller, Self::Controller];

    fn name(self) -> &'static str {
        match self {
            Self::NodeInstaller => "node-installer",
            Self::Controller => "controller",
        }
    }

    /// The reference of a release; the manifests name [`LATEST`].
    fn reference(self, tag: &str) -> String {
        format!("kubevirt.local/{}:{tag}", self.name())
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    let names = if args.names.is_empty() {
        Product::ALL.to_vec()
    } else {
        args.names
    };
    for (product, mut archive) in build(&names, LATEST)? {
        if let Some(dir) = &args.output {
            std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
            let copy = dir.join(format!("{}.tar", product.name()));
            command::run(Command::new("cp").args([&archive, &copy]))?;
            archive = copy;
        }
        println!(
            "image={} archive={}",
            product.reference(LATEST),
            archive.display()
        );
    }
    Ok(())
}

/// Builds the programs of all images, which is most of the work.
pub(crate) fn build_programs() -> Result<()> {
    Programs::build().map(drop)
}

/// Builds all images of the product; the archives.
pub(crate) fn build_all() -> Result<Vec<PathBuf>> {
    build_release(LATEST)
}

/// The same under another tag. They differ from those of any other tag in content too, so that a node
/// has a release of its own for them.
pub(crate) fn build_release(tag: &str) -> Result<Vec<PathBuf>> {
    Ok(build(&Product::ALL, tag)?
        .into_iter()
        .map(|(_, archive)| archive)
        .collect())
}

fn build(products: &[Product], tag: &str) -> Result<Vec<(Product, PathBuf)>> {
    let programs = Programs::build()?;
    products
        .iter()
        .map(|&product| {
            let archive = pack(product, &programs, tag)
                .with_context(|| format!("build the image {}", product.name()))?;
            Ok((product, archive))
        })
        .collect()
}

fn pack(product: Product, programs: &Programs, tag: &str) -> Result<PathBuf> {
    let (key, image) = match product {
        Product::NodeInstaller => node_installer(programs, tag)?,
        Product::Controller => controller(programs, tag)?,
    };
    let key = key
        .add(tag)
        .add(include_str!("mod.rs"))
        .add(include_str!("../oci.rs"));
    let archive = format!("{}.tar", product.name());
    let entry = match tag {
        LATEST => product.name().to_owned(),
        other => format!("{}.{other}", product.name()),
    };
    let dir = cache::entry("images", &entry, key, |dir| {
        let step = Step::begin(format!("Packing {}", image.name));
        oci::write_archive(&dir.join(&archive), &image)?;
        step.done();
        Ok(())
    })?;
    Ok(dir.join(archive))
}

fn node_installer(programs: &Programs, tag: &str) -> Result<(Key, Image)> {
    let qemu = qemu::tree()?;
    let mut tree = Tree::default();
    if tag != LATEST {
        tree.bytes(&format!("{PREFIX}/qemu/RELEASE"), format!("{tag}\n"), 0o644);
    }
    tree.file("/usr/bin/kubevirt-node", &programs.installer, 0o755)
        .file(
            &format!("{PREFIX}/bin/containerd-shim-kubevirt-v1"),
            &programs.shim,
            0o755,
        )
        .directory(&format!("{PREFIX}/qemu"), 0o755)
        .host_tree(&format!("{PREFIX}/qemu"), &qemu)?
        .directory("/tmp", 0o1777);
    let image = Image {
        name: Product::NodeInstaller.reference(tag),
        entrypoint: vec!["/usr/bin/kubevirt-node".into()],
        tree,
        ..Image::default()
    };
    // The tree's own manifest stands for its content.
    let key = files_key(&[&programs.installer, &programs.shim, &qemu.join("VERSION")])?;
    Ok((key, image))
}

fn controller(programs: &Programs, tag: &str) -> Result<(Key, Image)> {
    let mut tree = Tree::default();
    tree.file("/usr/bin/vm-crd-controller", &programs.controller, 0o755)
        .directory("/tmp", 0o1777);
    let image = Image {
        name: Product::Controller.reference(tag),
        entrypoint: vec!["/usr/bin/vm-crd-controller".into()],
        user: CONTROLLER_USER.into(),
        env: CONTROLLER_ENVIRONMENT
            .map(|(name, value)| format!("{name}={value}"))
            .into(),
        tree,
        ..Image::default()
    };
    let key = files_key(&[&programs.controller])?.add(image.env.concat());
    Ok((key, image))
}

fn files_key(paths: &[&Path]) -> Result<Key> {
    paths.iter().try_fold(Key::default(), |key, path| {
        let content = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Ok(key.add(content))
    })
}
