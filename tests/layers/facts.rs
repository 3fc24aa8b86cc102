//! Gathers what the rules judge: the workspace's crates from `cargo metadata`, and its Rust files
//! from the disk. A file that git does not track is among them, so that it is judged before it is
//! committed.

use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// A crate of the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Crate {
    pub(crate) name: String,
    /// Its folder, relative to the workspace: `engine/kernel`.
    pub(crate) folder: String,
    /// What it names of *our* crates.
    pub(crate) dependencies: Vec<Dependency>,
    /// The files that are the roots of its libraries, programs, tests, benches and examples.
    pub(crate) roots: Vec<String>,
    /// May it go to a registry?
    pub(crate) published: bool,
    /// Its Cargo.toml.
    pub(crate) manifest: String,
}

/// A crate of ours that another one names.
#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// For its tests and benches only.
    pub(crate) dev: bool,
    /// For a feature.
    pub(crate) optional: bool,
}

/// A Rust file.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Relative to the workspace: `engine/kernel/src/key.rs`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The workspace's folder: the parent of this crate's.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(workspace()).unwrap_or(path).to_string_lossy().into_owned()
}

/// All members of the workspace.
pub(crate) fn crates() -> Vec<Crate> {
    let metadata = MetadataCommand::new()
        .manifest_path(workspace().join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .unwrap();
    metadata.workspace_packages().into_iter().map(|package| describe(package, &metadata)).collect()
}

fn describe(package: &cargo_metadata::Package, metadata: &Metadata) -> Crate {
    let ours = |name: &str| metadata.packages.iter().any(|other| other.name == name);
    let dependencies = package
        .dependencies
        .iter()
        .filter(|dependency| dependency.path.is_some() || ours(&dependency.name))
        .map(|dependency| Dependency {
            name: dependency.name.clone(),
            dev: dependency.kind == DependencyKind::Development,
            optional: dependency.optional,
        })
        .collect();
    let manifest = package.manifest_path.as_std_path();
    Crate {
        name: package.name.to_string(),
        folder: relative(manifest.parent().unwrap()),
        dependencies,
        roots: package
            .targets
            .iter()
            .map(|target| relative(target.src_path.as_std_path()))
            .collect(),
        published: package.publish.as_ref().is_none_or(|registries| !registries.is_empty()),
        manifest: fs::read_to_string(manifest).unwrap(),
    }
}

/// All Rust files below the workspace but build outputs and hidden folders.
pub(crate) fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    collect(&workspace(), &mut sources);
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

fn collect(folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            // Any build output, wherever it is put, carries cargo's own mark.
            let output = name == "target" || path.join("CACHEDIR.TAG").exists();
            if !output && !name.to_string_lossy().starts_with('.') {
                collect(&path, sources);
            }
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            // Files come and go while editors save; one that has gone needs no judgement.
            if let Ok(text) = fs::read_to_string(&path) {
                sources.push(Source { path: relative(&path), text });
            }
        }
    }
}
