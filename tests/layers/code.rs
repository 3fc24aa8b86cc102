//! Reads Rust as code: what the compiler sees, without comments and the insides of literals.

/// A file with comments and the insides of literals blanked, line breaks kept.
pub(crate) fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut code = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let end = match (at(i), at(i + 1)) {
            ('/', '/') => find(&chars, i, |j| at(j) == '\n'),
            ('/', '*') => end_of_comment(&chars, i),
            ('"', _) => end_of_string(&chars, i),
            ('r', '"' | '#') if i == 0 || !(at(i - 1).is_alphanumeric() || at(i - 1) == '_') => {
                end_of_raw_string(&chars, i)
            }
            // 'b': a character, where 'b is a lifetime.
            ('\'', '\\') => find(&chars, i + 3, |j| at(j) == '\'') + 1,
            ('\'', _) if at(i + 2) == '\'' => i + 3,
            _ => i,
        };
        if end == i {
            code.push(at(i));
            i += 1;
        } else {
            let end = end.min(chars.len());
            code.extend(chars[i..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            i = end;
        }
    }
    code
}

/// The first index from `start` for which `holds`, or the end.
fn find(chars: &[char], start: usize, holds: impl Fn(usize) -> bool) -> usize {
    (start..chars.len()).find(|index| holds(*index)).unwrap_or(chars.len())
}

/// Behind a block comment, which may contain others.
fn end_of_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0, start);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

/// Behind a string that starts with a quote.
fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// Behind `r"..."` or `r#"..."#`; `start` itself if this is something else, such as `r#type`.
fn end_of_raw_string(chars: &[char], start: usize) -> usize {
    let quote = find(chars, start + 1, |j| chars[j] != '#');
    if chars.get(quote) != Some(&'"') {
        return start;
    }
    let hashes = quote - start - 1;
    let closes = |j: usize| {
        chars[j] == '"'
            && chars[j + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    find(chars, quote + 1, closes) + 1 + hashes
}
