//! Each rule is shown a violation and something innocent that resembles it.

use super::*;

fn krate(name: &str, dependencies: &[&str]) -> Crate {
    Crate {
        name: name.to_owned(),
        folder: format!("somewhere/{name}"),
        dependencies: dependencies.iter().map(|name| dependency(name, false)).collect(),
        roots: vec![format!("somewhere/{name}/src/lib.rs")],
        published: false,
        manifest: "[package]\n[lints]\nworkspace = true\n".to_owned(),
    }
}

fn dependency(name: &str, dev: bool) -> Dependency {
    Dependency { name: name.to_owned(), dev, optional: false }
}

fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

/// The complaints' words; empty if there is none.
fn complaint(name: &str, dependencies: &[&str]) -> String {
    layers(&[krate(name, dependencies)]).iter().map(ToString::to_string).collect()
}

#[test]
fn dependencies_downwards_are_welcome() {
    for (name, dependencies) in [
        ("thalweg-kernel", &[][..]),
        ("thalweg-flow", &["thalweg-kernel"]),
        ("thalweg-store", &["thalweg-kernel"]),
        ("thalweg-sql", &["thalweg-kernel", "thalweg-flow", "thalweg-store"]),
        ("thalweg-runtime", &["thalweg-kernel", "thalweg-flow", "thalweg-journal"]),
        ("thalweg", &["thalweg-runtime", "thalweg-sql", "thalweg-mqtt", "thalweg-file"]),
        ("thalweg-mqtt", &["thalweg-kernel"]),
        ("thalweg-testing", &["thalweg-kernel"]),
        ("thalweg-tests", &["thalweg", "thalweg-mqtt", "thalweg-kernel", "thalweg-testing"]),
    ] {
        assert_eq!(complaint(name, dependencies), "");
    }
}

#[test]
fn dependencies_upwards_and_sideways_are_named_with_file_and_remedy() {
    for (name, dependency, what) in [
        ("thalweg-kernel", "thalweg-flow", "higher layer"),
        ("thalweg-flow", "thalweg-runtime", "higher layer"),
        ("thalweg-runtime", "thalweg", "higher layer"),
        ("thalweg-flow", "thalweg-store", "beside it"),
        ("thalweg-runtime", "thalweg-sql", "beside it"),
        ("thalweg-flow", "thalweg-journal", "beside it"),
        ("thalweg-runtime", "thalweg-mqtt", "only the crate `thalweg` knows"),
        ("thalweg-mqtt", "thalweg-flow", "kernel alone"),
        ("thalweg-mqtt", "thalweg", "kernel alone"),
        ("thalweg-mqtt", "thalweg-format", "another connector"),
        ("thalweg-testing", "thalweg-flow", "kernel alone"),
        ("thalweg-kernel", "thalweg-testing", "stands on it"),
        ("thalweg-flow", "thalweg-testing", "for tests"),
        ("thalweg-commits", "thalweg-testing", "for tests"),
        ("thalweg", "thalweg-tests", "nobody may depend on"),
        ("thalweg-examples", "thalweg-tests", "nobody may depend on"),
    ] {
        let text = complaint(name, &[dependency]);
        assert!(text.contains(what), "{name} -> {dependency}: {text:?}");
        assert!(text.starts_with(&format!("somewhere/{name}/Cargo.toml: {name} depends on")));
        assert!(text.contains(dependency) && text.contains("to do: "), "{text}");
    }
}

#[test]
fn only_connectors_may_use_their_like_for_tests() {
    let with = |name: &str, on: &str| {
        let dependencies = vec![dependency(on, true)];
        layers(&[Crate { dependencies, ..krate(name, &[]) }])
    };
    assert_eq!(with("thalweg-mqtt", "thalweg-format"), []);
    assert_eq!(with("thalweg-mqtt", "thalweg-journal"), []);
    assert_eq!(with("thalweg-mqtt", "thalweg-runtime").len(), 1);
    assert_eq!(with("thalweg-flow", "thalweg-runtime").len(), 1);
    assert_eq!(with("thalweg-flow", "thalweg-format").len(), 1);
    assert_eq!(with("thalweg-kernel", "thalweg-tests").len(), 1);
}

#[test]
fn what_tests_share_is_for_tests_and_for_features_alone() {
    let with = |name: &str, dev, optional| {
        let dependencies = vec![Dependency { optional, ..dependency("thalweg-testing", dev) }];
        layers(&[Crate { dependencies, ..krate(name, &[]) }]).len()
    };
    for name in ["thalweg-flow", "thalweg-runtime", "thalweg", "thalweg-commits", "thalweg-mqtt"] {
        assert_eq!((with(name, true, false), with(name, false, true)), (0, 0), "{name}");
    }
    assert_eq!((with("thalweg-kernel", true, false), with("thalweg-testing", true, false)), (1, 1));
}

#[test]
fn a_connector_without_a_line_is_told_where_to_get_one() {
    let described =
        source("somewhere/thalweg-x/src/lib.rs", "pub static X: Connector = Connector {};");
    let registry_of = |text| vec![described.clone(), source(REGISTRY, text)];
    let complaints = |text| registry(&registry_of(text), &[krate("thalweg-x", &[])]);
    assert_eq!(complaints("\"x\" => thalweg_x::X: sink;"), []);
    assert!(complaints("").len() == 1 && complaints("")[0].remedy.contains(REGISTRY));
    assert_eq!(registry(&registry_of(""), &[krate("thalweg-y", &[])]), []);
}

#[test]
fn a_crate_without_a_layer_is_told_where_to_get_one() {
    let text = complaint("thalweg-novelty", &["thalweg-kernel"]);
    assert!(text.contains("thalweg-novelty has no layer"), "{text}");
    assert!(text.contains("PLACES in tests/layers/rules.rs"), "{text}");
}

#[test]
fn every_crate_is_placed_once() {
    for (index, (name, _)) in PLACES.iter().enumerate() {
        assert!(PLACES[..index].iter().all(|(earlier, _)| earlier != name), "{name} twice");
    }
}

#[test]
fn manifests_must_inherit_lints_and_stay_unpublished() {
    assert_eq!(manifests(&[krate("a", &[])]), []);
    let published = manifests(&[Crate { published: true, ..krate("a", &[]) }]);
    assert!(published.len() == 1 && published[0].remedy.contains("publish.workspace"));

    for (manifest, fine) in [
        ("[lints]\nworkspace = true", true),
        ("[lints] # ours\n\n  workspace=true", true),
        ("lints.workspace = true\n[dependencies]", true),
        ("", false),
        ("[lints]\nworkspace = false", false),
        ("[lints]\n# workspace = true", false),
        ("[lints]\n[dependencies]\nworkspace = true", false),
        ("[lints.rust]\nworkspace = true", false),
    ] {
        let complaints = manifests(&[Crate { manifest: manifest.into(), ..krate("a", &[]) }]);
        assert_eq!(complaints.is_empty(), fine, "{manifest:?}");
    }
}

#[test]
fn a_file_may_have_a_thousand_lines_and_no_more() {
    let file = |lines| source("examples/long.rs", &"x\n".repeat(lines));
    assert_eq!(sizes(&[file(1_000)]), []);
    let complaints = sizes(&[file(1_000), file(1_001)]);
    assert!(complaints.len() == 1 && complaints[0].what.contains("1001 lines"));
    assert_eq!(complaints[0].place, "examples/long.rs");
}

#[test]
fn roots_and_files_of_the_engine_open_with_a_doc() {
    let root = krate("a", &[]);
    for (path, text, fine) in [
        ("engine/x/src/y.rs", "//! What it is.\nfn f() {}", true),
        ("engine/x/src/y.rs", "\n#![allow(dead_code)]\n//! What it is.", true),
        ("engine/x/src/y.rs", "//!\n//! After an empty line.", false),
        ("engine/x/src/y.rs", "use std::fmt;\n//! Too late.", false),
        ("engine/x/src/y.rs", "/// Of the next item, not of the file.\nfn f() {}", false),
        ("engine/x/src/y.rs", "// A plain comment.", false),
        ("connectors/x/tests/z.rs", "", false),
        ("somewhere/a/src/lib.rs", "pub fn f() {}", false),
        ("somewhere/a/src/other.rs", "pub fn f() {}", true),
        ("examples/free.rs", "fn main() {}", true),
    ] {
        let complaints = docs(&[source(path, text)], std::slice::from_ref(&root));
        assert_eq!(complaints.is_empty(), fine, "{path}: {text:?}");
    }
}

#[test]
fn unsafe_code_is_found_and_mere_mentions_are_not() {
    for (text, lines) in [
        ("fn f() { unsafe { g() } }", &[1][..]),
        ("\n\nunsafe impl Send for X {}", &[3]),
        ("#![allow(unsafe_code)]", &[1]),
        ("#[expect(unsafe_code, reason = \"x\")]", &[1]),
        ("unsafe fn f() {}\nunsafe extern \"C\" {}", &[1, 2]),
        ("let s = \"a\\\"\"; unsafe { g() }", &[1]),
        ("let c = '\"'; unsafe { g() } // \"", &[1]),
        ("let c = '\\''; unsafe {}", &[1]),
        ("let r = r#\"a\"b\"#; unsafe {}", &[1]),
        ("let r#type = 1; unsafe {}", &[1]),
        ("fn f<'a>(x: &'a u8) { unsafe {} }", &[1]),
        ("/* a /* b */ c */ unsafe {}", &[1]),
        ("let s = \"one\ntwo\";\nunsafe {}", &[3]),
        ("// unsafe\n/// unsafe\n//! unsafe", &[]),
        ("/* unsafe\n/* */ unsafe */", &[]),
        ("let s = \"unsafe\"; let t = r##\"x\"# unsafe\"##;", &[]),
        ("#![deny(unsafe_code)]\n#![forbid(unsafe_code)]", &[]),
        ("fn unsafe_lines() {} let not_unsafe = 1;", &[]),
        ("let s = \"open unsafe", &[]),
        ("/* open unsafe", &[]),
        ("let s = r#\"open unsafe", &[]),
    ] {
        assert_eq!(unsafe_lines(text), lines, "{text:?}");
    }
    let complaints = unsafe_code(&[source("engine/x/src/y.rs", "unsafe {}")]);
    assert_eq!(complaints[0].place, "engine/x/src/y.rs:1");
    assert!(complaints[0].remedy.contains("UNSAFE_ISLANDS"));
}
