//! The rule against circles is shown small made-up trees.

use super::*;

/// The complaints about a crate whose library has these files.
fn complaints(files: &[(&str, &str)]) -> Vec<Complaint> {
    let sources: Vec<Source> = files
        .iter()
        .map(|(path, text)| Source { path: format!("x/src/{path}"), text: (*text).to_owned() })
        .collect();
    of_root(&names::uses(&sources, "x/src/lib.rs"), "x/src/lib.rs")
}

/// Whether two files that use `Two` and `One` of each other, written as `one` and `two`, are a circle.
fn is_circle(one: &str, two: &str) -> bool {
    let found = complaints(&[
        ("lib.rs", "mod one; mod two; pub use one::One; pub use two::{Two, Two as Other};"),
        ("one.rs", &format!("pub struct One; pub struct Third;\n{one}")),
        ("two.rs", &format!("pub struct Two;\n{two}")),
    ]);
    assert!(found.iter().all(|complaint| complaint.place == "x/src/one.rs"));
    !found.is_empty()
}

#[test]
fn two_files_that_use_each_other_are_named_with_what_goes_each_way() {
    let found = complaints(&[
        ("lib.rs", "mod one; mod two;"),
        ("one.rs", "use crate::two::{Two, Zwei};\npub struct One(Two, Zwei);"),
        ("two.rs", "pub struct Two;\npub struct Zwei(crate::one::One);"),
    ]);
    assert_eq!(found.len(), 1);
    let text = found[0].to_string();
    assert!(text.starts_with("x/src/one.rs: a circle of 2 files\n"), "{text}");
    assert!(text.contains("one.rs uses of two.rs: Two, Zwei\n"), "{text}");
    assert!(text.contains("two.rs uses of one.rs: One\n"), "{text}");
    assert!(text.contains("to do: move the misplaced name"), "{text}");
}

#[test]
fn every_way_to_name_another_file_is_seen() {
    let back = "use crate::one::One;";
    for way in [
        "use crate::two::Two;",
        "use super::two::Two;",
        "use crate::Two;",
        "use crate::Other;",
        "use crate::{two::{self, Two}};",
        "use crate::two::Two as Zwei;",
        "use crate::two; fn f(_: two::Two) {}",
        "use crate::two as zwei; fn f(_: zwei::Two) {}",
        "use crate::two::*; fn f(_: Two) {}",
        "fn f(_: &[crate::two::Two; 3]) {}",
        "fn f() { let x = super::two::Two; }",
        "fn f() { use crate::two::Two; }",
        "pub(crate) use crate::two::Two; fn f(_: Two) {}",
        "mod inner { use super::super::two::Two; }",
        "impl From<crate::two::Two> for One {}",
    ] {
        assert!(is_circle(way, back), "{way}");
    }
}

#[test]
fn what_is_not_needed_makes_no_circle() {
    let back = "use crate::one::One;";
    for way in [
        "",
        "// crate::two::Two",
        "//! [`Two`](crate::two::Two)",
        "fn f() -> &'static str { \"crate::two::Two\" }",
        "#[cfg(test)] mod tests { use crate::two::Two; }",
        "#[cfg(test)] use crate::two::Two;",
        "#[cfg(test)]\n#[allow(dead_code)]\nfn f(_: crate::two::Two) {}",
        "fn f(two: two::Two) {}",
        "use std::two::Two;",
        "pub use crate::two::Two;",
        "struct Two; fn f(_: Two) {}",
        "fn f(x: X) -> X { x.two::<Two>() }",
        "fn f() -> impl Fn() + use<Two> { || {} }",
        "fn f() { let r#type = 1; let two = 2 }",
    ] {
        assert!(!is_circle(way, back), "{way}");
    }
}

#[test]
fn a_re_export_leads_to_the_file_that_defines() {
    let files = |facade: &str| {
        complaints(&[
            ("lib.rs", "mod facade; mod one; mod two;"),
            ("facade.rs", facade),
            ("one.rs", "use crate::facade::Two; pub struct One(Two);"),
            ("two.rs", "use crate::one::One; pub struct Two;"),
        ])
    };
    for facade in
        ["pub use crate::two::Two;", "pub use crate::two::*;", "pub(crate) use super::two::Two;"]
    {
        let found = files(facade);
        assert_eq!(found.len(), 1, "{facade}");
        assert!(!found[0].what.contains("facade"), "{}", found[0].what);
    }
    assert_eq!(files("pub struct Two;"), []);
}

#[test]
fn a_parent_and_its_children_may_use_each_other() {
    let family = [
        ("lib.rs", "mod parent; mod other;"),
        ("other.rs", ""),
        (
            "parent.rs",
            "mod a; mod b; use a::A; pub struct P(A); #[path = \"c_of_parent.rs\"] mod c; use c::C;",
        ),
        ("parent/a.rs", "use super::P; use super::b::B; pub struct A;"),
        ("parent/b.rs", "use crate::parent::P; pub struct B;"),
        ("c_of_parent.rs", "use super::P; pub struct C;"),
    ];
    assert_eq!(complaints(&family), []);
    // Beside their parent they may not.
    let mut siblings = family;
    siblings[4].1 = "use super::a::A; pub struct B;";
    let found = complaints(&siblings);
    assert!(found.len() == 1 && found[0].what.starts_with("a circle of 2 files"), "{found:?}");
    // Nor may a parent and its child need each other by way of a stranger.
    let mut stranger = family;
    stranger[1].1 = "use crate::parent::P; pub struct O;";
    stranger[3].1 = "use crate::other::O; pub struct A;";
    let found = complaints(&stranger);
    assert!(
        found.len() == 1 && found[0].what.contains("other.rs uses of parent.rs: P"),
        "{found:?}"
    );
}

#[test]
fn longer_circles_are_found_whole_and_apart_from_others() {
    let found = complaints(&[
        ("lib.rs", "mod a; mod b; mod c; mod d; mod e; mod f;"),
        ("a.rs", "pub struct A(crate::b::B);"),
        ("b.rs", "pub struct B(crate::c::C);"),
        ("c.rs", "pub struct C(crate::a::A);"),
        ("d.rs", "pub struct D(crate::a::A, crate::e::E);"),
        ("e.rs", "pub struct E(crate::d::D, crate::f::F);"),
        ("f.rs", "pub struct F;"),
    ]);
    let sizes: Vec<_> = found.iter().map(|c| (c.place.as_str(), &c.what[..19])).collect();
    assert_eq!(
        sizes,
        [("x/src/a.rs", "a circle of 3 files"), ("x/src/d.rs", "a circle of 2 files")]
    );
}
