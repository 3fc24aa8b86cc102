//! The shape of the workspace, as tests. Layers point one way, and so do files. Files stay small,
//! say what they are for, and say it in short sentences. `unsafe` lives only where it is allowed,
//! and all crates share lints and versions.
//!
//! | file | what it does |
//! |---|---|
//! | `layers/rules.rs` | pure functions from facts to complaints; the tables to edit are at its top |
//! | `layers/circles.rs` | the rule that files do not need each other in circles |
//! | `layers/prose.rs` | the rules for comments: phrases and the length of sentences |
//! | `layers/facts.rs` | gathers the facts from `cargo metadata` and the files |
//! | `layers/code.rs`, `layers/names.rs` | read a file as code, and find which names of which file it uses |
//! | `layers/*_tests.rs` | show each rule a violation and something innocent |

#[path = "layers/circles.rs"]
mod circles;
#[path = "layers/code.rs"]
mod code;
// `cfg(test)` tells clippy that these may unwrap: a fact that cannot be had fails the test.
#[cfg(test)]
#[path = "layers/facts.rs"]
mod facts;
#[path = "layers/names.rs"]
mod names;
#[path = "layers/prose.rs"]
mod prose;
#[path = "layers/rules.rs"]
mod rules;

use rules::Complaint;

fn check(what: &str, complaints: &[Complaint]) {
    let listed: String = complaints.iter().map(|complaint| format!("\n- {complaint}")).collect();
    assert!(complaints.is_empty(), "{what}: {} to put right{listed}\n", complaints.len());
}

#[test]
fn crates_depend_only_on_lower_layers() {
    check("layers", &rules::layers(&facts::crates()));
}

#[test]
fn crates_share_lints_and_are_not_published() {
    check("manifests", &rules::manifests(&facts::crates()));
}

#[test]
fn connectors_are_registered() {
    check("registry", &rules::registry(&facts::sources(), &facts::crates()));
}

#[test]
fn files_are_short_enough_to_read() {
    check("file sizes", &rules::sizes(&facts::sources()));
}

#[test]
fn files_open_by_saying_what_they_are_for() {
    check("module docs", &rules::docs(&facts::sources(), &facts::crates()));
}

#[test]
fn files_do_not_need_each_other_in_circles() {
    check("circles", &circles::circles(&facts::sources(), &facts::crates()));
}

#[test]
fn prose_names_its_subjects_in_short_sentences() {
    check("prose", &prose::prose(&facts::sources()));
}

#[test]
fn unsafe_code_stays_on_its_islands() {
    check("unsafe code", &rules::unsafe_code(&facts::sources()));
}

#[test]
fn the_facts_are_about_this_workspace() {
    let (crates, sources) = (facts::crates(), facts::sources());
    let kernel = crates.iter().find(|krate| krate.name == "thalweg-kernel").unwrap();
    assert!(kernel.dependencies.is_empty() && kernel.roots == ["engine/kernel/src/lib.rs"]);
    assert!(crates.iter().any(|krate| {
        krate.name == "thalweg-flow" && krate.dependencies.iter().any(|d| d.name == kernel.name)
    }));
    let this = sources.iter().find(|source| source.path == "tests/layers.rs").unwrap();
    assert!(this.text.starts_with("//! The shape of the workspace"));
    assert!(sources.iter().all(|source| !source.path.starts_with("target/")));
}
