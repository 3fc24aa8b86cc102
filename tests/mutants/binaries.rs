//! Builds the proofs with the switch for seeded defects, and finds what was built.
//!
//! The build has a profile of its own, so it lies in a directory of its own below the target directory. Nothing
//! that anybody uses is ever built with the switch.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cargo_metadata::{Message, TargetKind};

/// Packages that hold proofs, and where they are.
const PACKAGES: [(&str, &str); 9] = [
    ("thalweg-journal", "engine/journal"),
    ("thalweg-store", "engine/store"),
    ("thalweg-flow", "engine/flow"),
    ("thalweg-runtime", "engine/runtime"),
    ("thalweg-mqtt", "connectors/mqtt"),
    ("thalweg-file", "connectors/file"),
    ("thalweg-datagen", "connectors/datagen"),
    ("thalweg-sqlite", "connectors/sqlite"),
    ("thalweg-tests", "tests"),
];
const PROFILE: &str = "mutants";
const FEATURE: &str = "thalweg-kernel/seeded-defects";

/// An executable that was built.
#[derive(Clone, Debug)]
pub(crate) struct Binary {
    pub(crate) package: String,
    /// Of its target; that of the package for its unit tests.
    pub(crate) name: String,
    pub(crate) is_test: bool,
    pub(crate) path: PathBuf,
    /// Where cargo would run it.
    pub(crate) dir: PathBuf,
}

/// Builds everything.
pub(crate) fn build() -> Result<Vec<Binary>> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace).args(["test", "--no-run", "--locked", "--profile", PROFILE]);
    command.args(["--features", FEATURE, "--message-format", "json-render-diagnostics"]);
    command.args(["-p", "thalweg-kernel"]);
    for (package, _) in PACKAGES {
        command.args(["-p", package]);
    }
    let mut cargo = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let output = cargo.stdout.take().context("cargo has no output")?;
    let mut built = Vec::new();
    for message in Message::parse_stream(BufReader::new(output)) {
        let Message::CompilerArtifact(artifact) = message.context("cannot read what cargo says")?
        else {
            continue;
        };
        let Some(path) = artifact.executable else { continue };
        let dir = artifact.manifest_path.parent().context("a package without a directory")?;
        let package = PACKAGES.iter().find(|(_, folder)| dir == workspace.join(folder));
        let Some((package, _)) = package else { continue };
        let is_bin = artifact.target.kind.contains(&TargetKind::Bin);
        // The unit tests of programs prove nothing about the engine.
        if is_bin && artifact.profile.test {
            continue;
        }
        built.push(Binary {
            package: (*package).to_owned(),
            name: artifact.target.name,
            is_test: artifact.profile.test,
            path: path.into(),
            dir: dir.into(),
        });
    }
    ensure!(cargo.wait()?.success(), "cargo could not build the proofs");
    Ok(built)
}
