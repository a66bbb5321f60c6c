//! The developer's commands. `cargo xtask --help` lists them; each lives in a module of its name.

mod bench;
mod cache;
mod chart;
mod cluster;
mod command;
mod compatibility;
mod demo;
mod distribution;
mod elf;
mod faults;
mod footprint;
mod guest;
mod image;
mod manifests;
mod oci;
mod packages;
mod progress;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The developer's commands of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Set everything up and show the main job: a VirtualMachine from apply to a guest that answers
    Demo(demo::Args),
    /// Run all tests
    Test(test::Args),
    /// Measure what a machine costs beside an ordinary pod and beside QEMU alone
    Bench(bench::Args),
    /// Kill what machines depend on at every moment of their lives, and look what is lost or left
    Faults(faults::Args),
    /// Make and delete machines by the hundred, and look whether what runs for long holds ever more
    Soak(faults::SoakArgs),
    /// Bring the two-node test cluster up or down, and work with it
    Cluster(cluster::Args),
    /// Build a guest disk and its containerDisk image
    Guest(guest::Args),
    /// Build the product's own images as OCI archives
    Image(image::Args),
    /// Write the Helm chart's templates from the plain manifests
    Chart(chart::Args),
    /// Write docs/compatibility.md from the code and the tests
    Compatibility(compatibility::Args),
    /// Look what becomes of KubeVirt's own manifests, with nothing but their images replaced
    Manifests(manifests::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // The whole chain in one line, and never a backtrace: what fails here is the machine's
        // state or the user's input.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Faults(args) => faults::run(&args),
        Command::Soak(args) => faults::soak(&args),
        Command::Cluster(args) => cluster::run(args),
        Command::Guest(args) => guest::run(args),
        Command::Image(args) => image::run(args),
        Command::Chart(args) => chart::run(&args),
        Command::Compatibility(args) => compatibility::run(&args),
        Command::Manifests(args) => manifests::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
