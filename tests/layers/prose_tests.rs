//! The rules of prose are shown a violation and something innocent that resembles it.

use super::*;

fn found(text: &str) -> Vec<String> {
    let source = Source { path: "x.rs".into(), text: text.into() };
    prose(&[source])
        .iter()
        .map(|complaint| format!("{}: {}", complaint.place, complaint.what))
        .collect()
}

#[test]
fn empty_phrases_are_found_in_every_comment_and_over_line_breaks() {
    for text in [
        "// Holds so many.",
        "/// At most so many records.",
        "//! It took so\n//! many of them.",
        "fn f() {\n    // So many.\n}",
        "// A lane, or its like.",
        "// What was read of late, on average.",
        "// Equal to the same.",
        "// It does the same as the other.",
        "// A record that is none of those.",
        "// Right all the same.",
        "// This is no queue but a ring.",
    ] {
        assert_eq!(found(text).len(), 1, "{text:?}: {:?}", found(text));
    }
    assert_eq!(found("let x = 1;\n\n// One.\n// Of late."), ["x.rs:3: \"of late\" in a comment"]);
}

#[test]
fn phrases_within_words_and_code_are_let_be() {
    for text in [
        "let so_many = \"so many\";",
        "// Of later epochs.",
        "// The same epoch in both.",
        "// Those that wait.",
        "// Is no key. But it waits.",
        "// So, many times.",
    ] {
        assert_eq!(found(text), Vec::<String>::new(), "{text:?}");
    }
}

#[test]
fn long_sentences_are_found_in_docs() {
    let words = |count| vec!["word"; count].join(" ");
    let long = words(26);
    assert_eq!(found(&format!("//! {long}.")).len(), 1);
    assert_eq!(found(&format!("/// {}\n/// {}.", words(13), words(13))).len(), 1);
    assert_eq!(found(&format!("//! Short.\n//!\n//! `code` {long}.")).len(), 1);
    assert_eq!(found(&format!("/// {}, that is i. e. {}.", words(11), words(11))).len(), 1);
    let complaints = found(&format!("fn f() {{}}\n/// Word {long}."));
    assert_eq!(
        complaints,
        ["x.rs:2: a sentence of 27 words: \"Word word word word word word word word\""]
    );
}

#[test]
fn what_is_no_sentence_may_be_long() {
    let words = |count| vec!["word"; count].join(" ");
    let long = words(30);
    for text in [
        format!("// {long}."),
        format!("/// {}. Then {}.", words(25), words(24)),
        format!("/// {}\n///\n/// {}", words(20), words(20)),
        format!("/// {}\nfn f() {{}}\n/// {}", words(20), words(20)),
        format!("//! ```\n//! {long}\n//! ```"),
        format!("//! | {long} |"),
        format!("//! # {long}"),
        format!("//! - {}\n//!   {}", words(20), words(20)),
        format!("//! 1. {long}"),
        format!("/// {} [`x`]({}) {}.", words(12), words(20), words(12)),
        format!("/// {} (word.) {}.", words(20), "Word ".repeat(20)),
    ] {
        assert_eq!(found(&text), Vec::<String>::new(), "{text:?}");
    }
}
