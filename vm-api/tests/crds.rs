//! The committed resource definitions are those that the types make.
#![cfg(feature = "schema")]

use std::fs;
use std::path::Path;

#[test]
fn committed_definitions_are_those_of_the_types() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtimeclass/crds");
    for (name, text) in vm_api::crd::files().unwrap() {
        let committed = fs::read_to_string(directory.join(&name)).unwrap();
        assert!(
            committed == text,
            "runtimeclass/crds/{name} is not what the types make: cargo run -p vm-api --features schema --example crds"
        );
    }
}
