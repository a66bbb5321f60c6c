//! Writes container images without a container engine: an OCI image layout in one tar archive, as
//! `ctr -n k8s.io images import` of containerd 1.6 and newer takes it. Relies on nothing but the
//! files it is given; promises that the same content gives the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use flate2::{Compression, write::GzEncoder};
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, DescriptorBuilder, Digest, HistoryBuilder,
    ImageConfigurationBuilder, ImageIndexBuilder, ImageManifestBuilder, MediaType, Os,
    RootFsBuilder, SCHEMA_VERSION,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// The time that every file and the image itself carry, so that builds are reproducible:
/// 2000-01-01T00:00:00Z, seconds since the epoch. (Zero upsets tools that take it for "unset".)
pub(crate) const MTIME: u64 = 946_684_800;
const CREATED: &str = "2000-01-01T00:00:00Z";

/// An image of one layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    /// The full reference it is imported as, for example `kubevirt.local/guest/tiny:latest`.
    pub(crate) name: String,
    /// `ENTRYPOINT` in the exec form.
    pub(crate) entrypoint: Vec<String>,
    /// `CMD` in the exec form.
    pub(crate) cmd: Vec<String>,
    /// Environment, each `NAME=value`.
    pub(crate) env: Vec<String>,
    /// `uid[:gid]`; root where empty.
    pub(crate) user: String,
    /// What the layer holds.
    pub(crate) tree: Tree,
}

/// The files of a layer by their path; directories above them are added by themselves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree(BTreeMap<PathBuf, Node>);

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    mode: u32,
    owner: (u64, u64),
}

#[derive(Clone, Debug)]
enum Kind {
    Directory,
    /// Content of a file of the host.
    File(PathBuf),
    Bytes(Vec<u8>),
    Symlink(PathBuf),
}

impl Tree {
    /// A regular file with the content of `source`, owned by root.
    pub(crate) fn file(&mut self, path: &str, source: &Path, mode: u32) -> &mut Self {
        self.insert(path, Kind::File(source.into()), mode, (0, 0))
    }

    /// A regular file with the content of `source`, owned by `owner` (uid, gid).
    pub(crate) fn file_of(
        &mut self,
        path: &str,
        source: &Path,
        mode: u32,
        owner: (u64, u64),
    ) -> &mut Self {
        self.insert(path, Kind::File(source.into()), mode, owner)
    }

    /// A regular file with this content, owned by root.
    pub(crate) fn bytes(
        &mut self,
        path: &str,
        content: impl Into<Vec<u8>>,
        mode: u32,
    ) -> &mut Self {
        self.insert(path, Kind::Bytes(content.into()), mode, (0, 0))
    }

    /// A directory, owned by root.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> &mut Self {
        self.insert(path, Kind::Directory, mode, (0, 0))
    }

    /// A symbolic link to `target`, which is not looked at.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.insert(path, Kind::Symlink(target.into()), 0o777, (0, 0))
    }

    /// All that is below the host's directory `source`, owned by root, readable by everybody and
    /// executable where it is so there: the builder's umask is no part of an image.
    ///
    /// # Errors
    /// Something that is neither file, directory nor symbolic link is refused by name.
    pub(crate) fn host_tree(&mut self, path: &str, source: &Path) -> Result<&mut Self> {
        for entry in
            std::fs::read_dir(source).with_context(|| format!("read {}", source.display()))?
        {
            let entry = entry?;
            let name = entry.file_name();
            let name = name
                .to_str()
                .with_context(|| format!("{name:?} is not UTF-8"))?;
            let (inner, host) = (format!("{path}/{name}"), entry.path());
            let meta = entry.metadata()?;
            if meta.is_dir() {
                self.directory(&inner, 0o755).host_tree(&inner, &host)?;
            } else if meta.is_file() {
                let executable = meta.permissions().mode() & 0o100 != 0;
                self.file(&inner, &host, if executable { 0o755 } else { 0o644 });
            } else if meta.is_symlink() {
                let target = std::fs::read_link(&host)?;
                self.insert(&inner, Kind::Symlink(target), 0o777, (0, 0));
            } else {
                bail!(
                    "{}: only files, directories and symlinks go into an image",
                    host.display()
                );
            }
        }
        Ok(self)
    }

    fn insert(&mut self, path: &str, kind: Kind, mode: u32, owner: (u64, u64)) -> &mut Self {
        let path: PathBuf = Path::new(path)
            .components()
            .filter(|c| matches!(c, Component::Normal(_)))
            .collect();
        for parent in path
            .ancestors()
            .skip(1)
            .filter(|p| !p.as_os_str().is_empty())
        {
            self.0.entry(parent.into()).or_insert(Node {
                kind: Kind::Directory,
                mode: 0o755,
                owner: (0, 0),
            });
        }
        self.0.insert(path, Node { kind, mode, owner });
        self
    }

    fn write(&self, out: impl Write) -> Result<()> {
        let mut tar = tar::Builder::new(out);
        // A parent sorts before what it holds, so extraction never meets a missing directory.
        for (path, node) in &self.0 {
            append(&mut tar, path, node).with_context(|| format!("add {}", path.display()))?;
        }
        tar.into_inner()?.flush()?;
        Ok(())
    }
}

fn append(tar: &mut tar::Builder<impl Write>, path: &Path, node: &Node) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(node.mode);
    header.set_uid(node.owner.0);
    header.set_gid(node.owner.1);
    header.set_mtime(MTIME);
    header.set_size(0);
    match &node.kind {
        Kind::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, path, io::empty())?;
        }
        Kind::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, path, target)?;
        }
        Kind::Bytes(content) => {
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, content.as_slice())?;
        }
        Kind::File(source) => {
            let file = File::open(source).with_context(|| format!("open {}", source.display()))?;
            header.set_size(file.metadata()?.len());
            tar.append_data(&mut header, path, file)?;
        }
    }
    Ok(())
}

/// Writes `image` as an OCI archive to `path`. A reader never sees half a file there.
pub(crate) fn write_archive(path: &Path, image: &Image) -> Result<()> {
    let dir = path
        .parent()
        .context("the archive's path has no directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;

    let (mut blob, layer, diff_id) = write_layer(dir, &image.tree)
        .with_context(|| format!("write the layer of {}", image.name))?;
    let config = json(&configuration(image, &diff_id)?)?;
    let config_descriptor = descriptor(MediaType::ImageConfig, &config)?;
    let manifest = json(
        &ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(config_descriptor.clone())
            .layers([layer.clone()])
            .build()?,
    )?;
    let mut manifest_descriptor = descriptor(MediaType::ImageManifest, &manifest)?;
    // containerd takes the full name from the first key, other tools the tag from the second.
    let tag = image.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    manifest_descriptor.set_annotations(Some(HashMap::from([
        ("io.containerd.image.name".to_owned(), image.name.clone()),
        (
            "org.opencontainers.image.ref.name".to_owned(),
            tag.to_owned(),
        ),
    ])));
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests([manifest_descriptor.clone()])
        .build()?;

    let out = tempfile::NamedTempFile::new_in(dir)?;
    let mut tar = tar::Builder::new(out);
    add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add(&mut tar, "index.json", &json(&index)?)?;
    add(&mut tar, &blob_path(&manifest_descriptor), &manifest)?;
    add(&mut tar, &blob_path(&config_descriptor), &config)?;
    blob.rewind()?;
    tar.append_data(&mut plain_header(layer.size()), blob_path(&layer), blob)?;
    let out = tar.into_inner()?;
    out.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o644))?;
    out.persist(path)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

/// The compressed layer in an unnamed file, its descriptor, and the digest of what is inside.
fn write_layer(dir: &Path, tree: &Tree) -> Result<(File, Descriptor, String)> {
    let blob = Hashing::new(tempfile::tempfile_in(dir)?);
    // Disks are mostly compressed already; the fast level takes away the rest's zeros.
    let mut plain = Hashing::new(GzEncoder::new(blob, Compression::fast()));
    tree.write(&mut plain)?;
    let (gzip, diff_id, _) = plain.finish();
    let (file, digest, size) = gzip.finish()?.finish();
    let layer = DescriptorBuilder::default()
        .media_type(MediaType::ImageLayerGzip)
        .digest(Digest::from_str(&digest)?)
        .size(size)
        .build()?;
    Ok((file, layer, diff_id))
}

fn configuration(image: &Image, diff_id: &str) -> Result<impl Serialize> {
    let mut config = ConfigBuilder::default();
    if !image.entrypoint.is_empty() {
        config = config.entrypoint(image.entrypoint.clone());
    }
    if !image.cmd.is_empty() {
        config = config.cmd(image.cmd.clone());
    }
    if !image.env.is_empty() {
        config = config.env(image.env.clone());
    }
    if !image.user.is_empty() {
        config = config.user(image.user.clone());
    }
    let rootfs = RootFsBuilder::default()
        .typ("layers")
        .diff_ids([diff_id.to_owned()])
        .build()?;
    Ok(ImageConfigurationBuilder::default()
        .architecture(Arch::Amd64)
        .os(Os::Linux)
        .created(CREATED)
        .config(config.build()?)
        .rootfs(rootfs)
        .history([HistoryBuilder::default()
            .created(CREATED)
            .created_by("cargo xtask")
            .build()?])
        .build()?)
}

/// JSON with sorted keys: some of the types keep theirs in hash maps.
fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut value = serde_json::to_value(value)?;
    value.sort_all_objects();
    Ok(serde_json::to_vec(&value)?)
}

fn descriptor(media_type: MediaType, content: &[u8]) -> Result<Descriptor> {
    let digest = digest_name(&Sha256::digest(content));
    Ok(DescriptorBuilder::default()
        .media_type(media_type)
        .digest(Digest::from_str(&digest)?)
        .size(content.len() as u64)
        .build()?)
}

fn digest_name(hash: &[u8]) -> String {
    format!("sha256:{}", hex::encode(hash))
}

fn blob_path(of: &Descriptor) -> String {
    format!("blobs/sha256/{}", of.digest().digest())
}

fn plain_header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(MTIME);
    header.set_size(size);
    header
}

fn add(tar: &mut tar::Builder<impl Write>, path: &str, content: &[u8]) -> io::Result<()> {
    tar.append_data(&mut plain_header(content.len() as u64), path, content)
}

/// Hashes and counts what passes through to the inner writer.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            size: 0,
        }
    }

    fn finish(self) -> (W, String, u64) {
        (self.inner, digest_name(&self.hash.finalize()), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(data)?;
        self.hash.update(&data[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn image() -> Image {
        let mut tree = Tree::default();
        tree.bytes("/usr/bin/hello", "#!/bin/sh\n", 0o755)
            .symlink("bin", "usr/bin");
        Image {
            name: "kubevirt.local/test/hello:v1".into(),
            entrypoint: vec!["/bin/hello".into()],
            env: vec!["PATH=/bin".into()],
            tree,
            ..Image::default()
        }
    }

    fn unpack(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), content);
        }
        files
    }

    #[test]
    fn an_archive_refers_to_every_blob_by_its_true_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hello.tar");
        write_archive(&path, &image()).unwrap();
        let files = unpack(&std::fs::read(&path).unwrap());
        for (name, content) in &files {
            if let Some(hash) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(hash, hex::encode(Sha256::digest(content)));
            }
        }
        let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let entry = &index["manifests"][0];
        assert_eq!(
            entry["annotations"]["io.containerd.image.name"],
            "kubevirt.local/test/hello:v1"
        );
        let blob = |d: &serde_json::Value| {
            let digest = d["digest"].as_str().unwrap().replace(':', "/");
            files[&format!("blobs/{digest}")].clone()
        };
        let manifest: serde_json::Value = serde_json::from_slice(&blob(entry)).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(blob(&manifest["layers"][0]).as_slice())
            .read_to_end(&mut layer)
            .unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            digest_name(&Sha256::digest(&layer))
        );
        assert_eq!(
            unpack(&layer).into_keys().collect::<Vec<_>>(),
            ["bin", "usr", "usr/bin", "usr/bin/hello"]
        );
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = dir.path().join(name);
            write_archive(&path, &image()).unwrap();
            std::fs::read(path).unwrap()
        };
        assert_eq!(write("a"), write("b"));
    }
}
