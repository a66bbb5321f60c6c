//! Writes the resource definitions to `runtimeclass/crds/`:
//! `cargo run -p vm-api --features schema --example crds`.

use std::path::Path;
use std::{fs, io};

fn main() -> io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtimeclass/crds");
    for (name, text) in vm_api::crd::files().map_err(io::Error::other)? {
        fs::write(directory.join(&name), text)?;
        println!("runtimeclass/crds/{name}");
    }
    Ok(())
}
