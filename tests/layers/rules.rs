//! The rules, as pure functions from facts to complaints. The tables come first: a new crate, an
//! island of `unsafe` code or another limit is one line there.

use std::fmt;

use crate::code::code_only;
use crate::facts::{Crate, Dependency, Source};

/// Where a crate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A layer of the engine; may depend on lower ones only.
    Layer(u8),
    /// What connectors share: may depend on layer 0.
    Common,
    /// May depend on layer 0 and what connectors share, and for its tests on layer 1 and other connectors.
    Connector,
    /// What tests share: may depend on layer 0. Crates above it may depend on it for their tests, or for a feature.
    Testing,
    /// Examples, benches, tests: may depend on all, and nobody on them.
    Leaf,
}

/// Every crate's place. The layers' names say what belongs there.
const PLACES: &[(&str, Place)] = &[
    // 0: the words and seams that all share.
    ("thalweg-kernel", Place::Layer(0)),
    // 1: pure computation and durable formats; neither threads nor connectors.
    ("thalweg-flow", Place::Layer(1)),
    ("thalweg-store", Place::Layer(1)),
    ("thalweg-journal", Place::Layer(1)),
    // 2: what runs or compiles to layer 1.
    ("thalweg-sql", Place::Layer(2)),
    ("thalweg-runtime", Place::Layer(2)),
    // 3: the product; the only one that knows concrete connectors.
    ("thalweg", Place::Layer(NODE_LAYER)),
    ("thalweg-commits", Place::Common),
    ("thalweg-io", Place::Common),
    ("thalweg-tls", Place::Common),
    ("thalweg-format", Place::Connector),
    ("thalweg-file", Place::Connector),
    ("thalweg-mqtt", Place::Connector),
    ("thalweg-sqlite", Place::Connector),
    ("thalweg-postgres", Place::Connector),
    ("thalweg-datagen", Place::Connector),
    ("thalweg-blackhole", Place::Connector),
    ("thalweg-testing", Place::Testing),
    ("thalweg-tests", Place::Leaf),
    ("thalweg-examples", Place::Leaf),
    ("thalweg-benches", Place::Leaf),
];

const NODE_LAYER: u8 = 3;

/// Files that may contain `unsafe`, each with its own proofs.
const UNSAFE_ISLANDS: &[&str] = &["engine/journal/src/ring.rs", "engine/store/src/env.rs"];

/// No file may be longer; from half of it on, think of splitting.
const LINES_MAX: usize = 1_000;

/// Where connectors are registered.
const REGISTRY: &str = "engine/node/src/registry.rs";

/// Below these folders each file says at its top what it is for.
const DOCUMENTED: &[&str] = &["engine/", "connectors/"];

/// Something to put right: where, what, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// A path, or a crate.
    pub(crate) place: String,
    pub(crate) what: String,
    pub(crate) remedy: String,
}

impl Complaint {
    pub(crate) fn new(
        place: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { place: place.into(), what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  to do: {}", self.place, self.what, self.remedy)
    }
}

/// The place of a crate, if it has been given one.
pub(crate) fn place(name: &str) -> Option<Place> {
    PLACES.iter().find(|(known, _)| *known == name).map(|(_, place)| *place)
}

/// No crate names one that stands beside or above it.
pub(crate) fn layers(crates: &[Crate]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for krate in crates {
        let manifest = format!("{}/Cargo.toml", krate.folder);
        let Some(from) = place(&krate.name) else {
            complaints.push(Complaint::new(
                manifest,
                format!("the crate {} has no layer", krate.name),
                "add it to PLACES in tests/layers/rules.rs, where the layers are described",
            ));
            continue;
        };
        for dependency in &krate.dependencies {
            // A crate without a place is complained about where it is defined.
            let Some(to) = place(&dependency.name) else { continue };
            if let Err((what, remedy)) = may_depend(from, to, dependency) {
                let what = format!("{} depends on {}, {what}", krate.name, dependency.name);
                complaints.push(Complaint::new(&manifest, what, remedy));
            }
        }
    }
    complaints
}

fn may_depend(
    from: Place,
    to: Place,
    dependency: &Dependency,
) -> Result<(), (&'static str, &'static str)> {
    const SEAM: &str =
        "move what both need to a lower layer, or meet through a trait of the kernel";
    match (from, to) {
        (_, Place::Leaf) => {
            Err(("which nobody may depend on", "move the shared code into the crate it is about"))
        }
        (Place::Leaf, _) => Ok(()),
        (Place::Testing, Place::Layer(0)) => Ok(()),
        (Place::Testing, _) => Err((
            "but what tests share stands on the kernel alone",
            "put what needs more beside the tests of that crate",
        )),
        (Place::Layer(0), Place::Testing) => {
            Err(("which stands on it", "keep a helper of its own"))
        }
        (_, Place::Testing) if dependency.dev || dependency.optional => Ok(()),
        (_, Place::Testing) => Err((
            "which is for tests",
            "make it a dev-dependency, or an optional one of a feature for tests",
        )),
        (Place::Layer(above), Place::Layer(below)) if below < above => Ok(()),
        (Place::Layer(above), Place::Layer(below)) if below == above => {
            Err(("which stands beside it in the same layer", SEAM))
        }
        (Place::Layer(_), Place::Layer(_)) => Err(("which is in a higher layer", SEAM)),
        (Place::Layer(NODE_LAYER), Place::Connector) => Ok(()),
        (Place::Layer(_), Place::Connector) => Err((
            "a connector, and only the crate `thalweg` knows concrete connectors",
            "take it as a trait of the kernel and let `thalweg` supply it",
        )),
        (Place::Layer(_), Place::Common) => {
            Err(("which only connectors share", "move what the engine needs to the kernel"))
        }
        (Place::Common, Place::Layer(0)) => Ok(()),
        (Place::Common, _) => Err((
            "but what connectors share stands on the kernel alone",
            "move it into the connector that needs it",
        )),
        (Place::Connector, Place::Layer(0) | Place::Common) => Ok(()),
        // A test may put the real thing behind a seam of the kernel.
        (Place::Connector, Place::Layer(1)) if dependency.dev => Ok(()),
        (Place::Connector, Place::Layer(_)) => {
            Err(("but connectors know the kernel alone", "use or extend the kernel's traits"))
        }
        (Place::Connector, Place::Connector) if dependency.dev => Ok(()),
        (Place::Connector, Place::Connector) => Err((
            "another connector",
            "make it a dev-dependency if only tests need it, else meet through the kernel",
        )),
    }
}

/// A crate that describes a connector has its line in the node's registry.
pub(crate) fn registry(sources: &[Source], crates: &[Crate]) -> Vec<Complaint> {
    let registry = sources.iter().find(|source| source.path == REGISTRY);
    let lines = registry.map(|source| source.text.as_str()).unwrap_or_default();
    let describes = |krate: &&Crate| {
        let folder = format!("{}/src/", krate.folder);
        let of_it = sources.iter().filter(|source| source.path.starts_with(&folder));
        of_it.into_iter().any(|source| source.text.contains(": Connector = Connector {"))
    };
    crates
        .iter()
        .filter(describes)
        .filter(|krate| !lines.contains(&format!("{}::", krate.name.replace('-', "_"))))
        .map(|krate| {
            Complaint::new(
                &krate.folder,
                format!("{} describes a connector that no line registers", krate.name),
                format!("give it a line in {REGISTRY}"),
            )
        })
        .collect()
}

/// Shared lints, no publishing by accident.
pub(crate) fn manifests(crates: &[Crate]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for krate in crates {
        let manifest = format!("{}/Cargo.toml", krate.folder);
        if krate.published {
            complaints.push(Complaint::new(
                &manifest,
                format!("{} could be published", krate.name),
                "write `publish.workspace = true` under [package]",
            ));
        }
        if !inherits_lints(&krate.manifest) {
            complaints.push(Complaint::new(
                &manifest,
                format!("{} does not take part in the workspace's lints", krate.name),
                "add a section [lints] with `workspace = true`",
            ));
        }
    }
    complaints
}

/// Does a manifest say `workspace = true` under `[lints]`, in either spelling?
fn inherits_lints(manifest: &str) -> bool {
    let mut section = "";
    manifest.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        let setting: String = line.split_whitespace().collect();
        (section == "[lints]" && setting == "workspace=true") || setting == "lints.workspace=true"
    })
}

/// No file is too long to read.
pub(crate) fn sizes(sources: &[Source]) -> Vec<Complaint> {
    sources
        .iter()
        .map(|source| (source, source.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(source, lines)| {
            Complaint::new(
                &source.path,
                format!("{lines} lines, more than {LINES_MAX}"),
                "split it: one idea per file, tests in a file of their own",
            )
        })
        .collect()
}

/// Crate roots, and all files of the engine and its connectors, open with a `//!` doc.
pub(crate) fn docs(sources: &[Source], crates: &[Crate]) -> Vec<Complaint> {
    let is_root =
        |path: &str| crates.iter().any(|krate| krate.roots.iter().any(|root| root == path));
    let is_ours = |path: &str| DOCUMENTED.iter().any(|folder| path.starts_with(folder));
    sources
        .iter()
        .filter(|source| is_root(&source.path) || is_ours(&source.path))
        .filter(|source| !opens_with_doc(&source.text))
        .map(|source| {
            Complaint::new(
                &source.path,
                "does not say what it is for",
                "open it with a `//!` doc: the idea, the design, the limits",
            )
        })
        .collect()
}

/// Is a `//!` with words the first thing in a file? (A `#!` line or attribute may come before.)
fn opens_with_doc(text: &str) -> bool {
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with("#!"))
        .and_then(|line| line.strip_prefix("//!"))
        .is_some_and(|words| !words.trim().is_empty())
}

/// `unsafe` is a word of the islands only. So is lifting the lint against it.
pub(crate) fn unsafe_code(sources: &[Source]) -> Vec<Complaint> {
    sources
        .iter()
        .filter(|source| !UNSAFE_ISLANDS.contains(&source.path.as_str()))
        .flat_map(|source| {
            unsafe_lines(&source.text).into_iter().map(|line| {
                Complaint::new(
                    format!("{}:{line}", source.path),
                    "unsafe code outside the islands",
                    "find a safe way; failing that, give it a small file of its own with a SAFETY \
                     proof per block, and add that to UNSAFE_ISLANDS in tests/layers/rules.rs",
                )
            })
        })
        .collect()
}

/// The numbers of the lines that contain the keyword `unsafe`, or allow what the workspace denies,
/// in code: neither in comments nor in literals.
fn unsafe_lines(text: &str) -> Vec<usize> {
    let code = code_only(text);
    let is_word = |part: &str, word: &str| {
        part.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|found| found == word)
    };
    code.lines()
        .enumerate()
        .filter(|(_, line)| {
            let lifted = ["allow", "expect", "warn"].iter().any(|level| is_word(line, level));
            is_word(line, "unsafe") || (lifted && is_word(line, "unsafe_code"))
        })
        .map(|(index, _)| index + 1)
        .collect()
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
