//! Prose that a reader can follow: comments name their subject instead of pointing at it, and a sentence of a doc is short.
//!
//! A sentence ends with a full stop, a question mark or an exclamation mark in front of white space. Code, tables,
//! headings and lists are not sentences.

use crate::facts::Source;
use crate::rules::Complaint;

/// A sentence of a doc has at most this many words.
const SENTENCE_WORDS_MAX: usize = 25;

/// What says nothing by itself, and what to write in its place. A word's end is the phrase's end.
const PHRASES: &[(&str, &str)] = &[
    ("so many", "say how many: give the number its name"),
    ("its like", "repeat the noun"),
    ("of late", "say since when"),
    ("all the same", "write `nevertheless`"),
    ("does the same", "say what it does"),
    ("the same.", "repeat the noun"),
    ("the same,", "repeat the noun"),
    ("the same;", "repeat the noun"),
    ("those.", "repeat the noun"),
    ("those;", "repeat the noun"),
];

/// Comments without empty words, docs of short sentences.
pub(crate) fn prose(sources: &[Source]) -> Vec<Complaint> {
    // These files quote what they forbid.
    let quotes = |source: &&Source| {
        matches!(source.path.as_str(), "tests/layers/prose.rs" | "tests/layers/prose_tests.rs")
    };
    let judged = sources.iter().filter(|source| !quotes(source));
    judged.flat_map(|source| phrases(source).into_iter().chain(sentences(source))).collect()
}

/// The complaints about phrases in comments.
fn phrases(source: &Source) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (line, text) in paragraphs(&source.text, false) {
        let text = text.to_lowercase();
        if let Some((phrase, remedy)) = PHRASES.iter().find(|(phrase, _)| holds(&text, phrase)) {
            let what = format!("{phrase:?} in a comment");
            complaints.push(Complaint::new(format!("{}:{line}", source.path), what, *remedy));
        }
        if is_no_but(&text) {
            let remedy = "say what it is, without saying what it is not";
            let what = "\"is no .. but\" in a comment";
            complaints.push(Complaint::new(format!("{}:{line}", source.path), what, remedy));
        }
    }
    complaints
}

/// Whether `phrase` stands in `text` as words of its own.
fn holds(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(at, _)| {
        let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let after = &text[at + phrase.len()..];
        !is_word(text[..at].chars().next_back()) && !is_word(after.chars().next())
    })
}

/// Whether a text has `is no X but`.
fn is_no_but(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(4).any(|words| {
        let joined = words[2].ends_with(char::is_alphanumeric);
        words[0] == "is" && words[1] == "no" && joined && words[3] == "but"
    })
}

/// The complaints about long sentences in docs.
fn sentences(source: &Source) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (line, text) in paragraphs(&source.text, true) {
        for sentence in split(&text) {
            let words = sentence.split_whitespace();
            let count = words.filter(|word| word.contains(char::is_alphanumeric)).count();
            if count > SENTENCE_WORDS_MAX {
                let begin: Vec<&str> = sentence.split_whitespace().take(8).collect();
                complaints.push(Complaint::new(
                    format!("{}:{line}", source.path),
                    format!("a sentence of {count} words: {:?}", begin.join(" ")),
                    format!("make two of it: a sentence has at most {SENTENCE_WORDS_MAX} words"),
                ));
            }
        }
    }
    complaints
}

/// The sentences of a paragraph, without the targets of links.
fn split(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, target)) = rest.split_once("](") {
        plain.push_str(before);
        plain.push(']');
        rest = target.split_once(')').map_or("", |(_, behind)| behind);
    }
    plain.push_str(rest);
    let mut sentences = vec![String::new()];
    let mut words = plain.split_whitespace().peekable();
    while let Some(word) = words.next() {
        if let Some(sentence) = sentences.last_mut() {
            sentence.push_str(word);
            sentence.push(' ');
        }
        let ends = word.trim_end_matches(['"', '\'', ')', ']', '*']).ends_with(['.', '?', '!']);
        // What goes on in small letters was an abbreviation, or dots.
        let goes_on = words.peek().is_some_and(|next| next.starts_with(char::is_lowercase));
        if ends && !goes_on {
            sentences.push(String::new());
        }
    }
    sentences
}

/// The paragraphs of a file's comments, each with the line that it begins on. Of docs: without code, tables, headings
/// and lists.
fn paragraphs(text: &str, docs: bool) -> Vec<(usize, String)> {
    let mut paragraphs: Vec<(usize, String)> = Vec::new();
    let (mut before, mut code, mut list, mut open) = ("", false, false, false);
    for (index, line) in text.lines().enumerate() {
        let Some((kind, body)) = comment(line.trim_start()) else {
            (before, open) = ("", false);
            continue;
        };
        if kind != before {
            (before, code, list, open) = (kind, false, false, false);
        }
        let body = body.trim();
        if !docs {
            push(&mut paragraphs, &mut open, index + 1, body);
            continue;
        }
        code ^= body.starts_with("```");
        let apart = code || body.is_empty() || body.starts_with(['|', '#', '`']) && !is_text(body);
        if is_item(body) {
            list = true;
        } else if body.is_empty() || body.starts_with(['|', '#']) {
            list = false;
        }
        if kind == "//" || apart || list {
            open = false;
        } else {
            push(&mut paragraphs, &mut open, index + 1, body);
        }
    }
    paragraphs
}

/// Adds a line to the paragraph that is open, or begins one.
fn push(paragraphs: &mut Vec<(usize, String)>, open: &mut bool, line: usize, body: &str) {
    match paragraphs.last_mut().filter(|_| *open) {
        Some((_, paragraph)) => {
            paragraph.push(' ');
            paragraph.push_str(body);
        }
        None => paragraphs.push((line, body.to_owned())),
    }
    *open = true;
}

/// Whether a line that begins with a sign is text nevertheless: `code` in backticks at the beginning of a line.
fn is_text(body: &str) -> bool {
    body.starts_with('`') && !body.starts_with("```")
}

/// Whether a line begins an item of a list.
fn is_item(body: &str) -> bool {
    let numbered = body.trim_start_matches(|c: char| c.is_ascii_digit());
    body.starts_with("- ")
        || body.starts_with("* ")
        || numbered.len() < body.len() && (numbered.starts_with(". ") || numbered.starts_with(") "))
}

/// Which comment a line is, and its text.
fn comment(line: &str) -> Option<(&'static str, &str)> {
    ["//!", "///", "//"].into_iter().find_map(|kind| Some((kind, line.strip_prefix(kind)?)))
}

#[cfg(test)]
#[path = "prose_tests.rs"]
mod tests;
