//! What a file holds, by its first bytes: lines, packed lines, or something that is to be refused by its name.
//!
//! | begins with | comes to |
//! |---|---|
//! | a gzip or zstd header | its lines are read, whatever its name |
//! | a byte order mark of UTF-8 | it is skipped |
//! | a byte order mark of UTF-16 or UTF-32, or every second byte is zero | it is refused |
//! | a header of xz, bzip2, lz4, zip or SQLite | it is refused |
//! | `[` alone on a line, `{` alone on a line, or an array that goes on behind its first line | it is refused |

/// At most this many bytes tell what a file holds.
pub(crate) const HEAD_BYTES: usize = 4 * 1024;

/// With fewer bytes, and no line feed, nothing is said of a file that may still grow.
pub(crate) const HEAD_BYTES_MIN: usize = 4;

/// How the lines of a file are had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// As they are, from this byte on.
    Plain(u64),
    /// Unpacked from gzip.
    Gzip,
    /// Unpacked from zstd.
    Zstd,
}

const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// Kinds that are not read, by their first bytes, and how they are unpacked.
const REFUSED: [(&[u8], &str); 8] = [
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "is packed with xz: unpack it first (xz -d)"),
    (b"BZh", "is packed with bzip2: unpack it first (bzip2 -d)"),
    (&[0x04, 0x22, 0x4d, 0x18], "is packed with lz4: unpack it first (lz4 -d)"),
    (b"PK\x03\x04", "is a zip archive: unpack it first (unzip)"),
    (b"SQLite format 3\0", "is a database of SQLite, and has no lines: export them first"),
    (&[0xff, 0xfe, 0, 0], "is UTF-32: make it UTF-8 first (iconv -f UTF-32 -t UTF-8)"),
    (&[0xff, 0xfe], UTF16),
    (&[0xfe, 0xff], UTF16),
];

const UTF16: &str = "is UTF-16: make it UTF-8 first (iconv -f UTF-16 -t UTF-8)";

/// What a file holds that begins with `head`: its first [`HEAD_BYTES`], or all of it. An error says what it is instead
/// of lines, and what to do.
pub(crate) fn recognise(head: &[u8]) -> Result<Content, String> {
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Content::Gzip);
    }
    if head.starts_with(&ZSTD) {
        return Ok(Content::Zstd);
    }
    if let Some((_, why)) = REFUSED.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err((*why).to_owned());
    }
    if is_wide(head) {
        return Err(UTF16.to_owned());
    }
    let text = head.strip_prefix(&BYTE_ORDER_MARK).unwrap_or(head);
    if let Some(end) = memchr::memchr(b'\n', text) {
        spread(text[..end].trim_ascii(), text[end..].trim_ascii_start())?;
    }
    Ok(Content::Plain((head.len() - text.len()) as u64))
}

/// Whether these are letters of two bytes each, without a byte order mark.
fn is_wide(head: &[u8]) -> bool {
    let pairs = head.chunks_exact(2).take(32);
    let wide = |of: fn(&[u8]) -> bool| pairs.len() >= 4 && pairs.clone().all(of);
    wide(|pair| pair[0] != 0 && pair[1] == 0) || wide(|pair| pair[0] == 0 && pair[1] != 0)
}

/// Refuses one JSON text that stands on several lines.
fn spread(first: &[u8], rest: &[u8]) -> Result<(), String> {
    let begins = |text: &[u8], with: u8| text.first() == Some(&with);
    let is_array = match first {
        b"[" => begins(rest, b'{') || begins(rest, b'[') || begins(rest, b'"'),
        [b'[', inner @ ..] => {
            begins(inner.trim_ascii_start(), b'{')
                && (first.ends_with(b",") || first.ends_with(b"{"))
        }
        _ => false,
    };
    if is_array {
        return Err(
            "is a JSON array over several lines: give each of its elements a line of its own \
                    (jq -c '.[]')"
                .to_owned(),
        );
    }
    if first == b"{" && begins(rest, b'"') {
        return Err(
            "has JSON texts over several lines: give each of them a line of its own (jq -c .)"
                .to_owned(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_first_bytes() {
        let lines = |head: &[u8]| recognise(head).unwrap();
        assert_eq!(lines(&[0x1f, 0x8b, 8, 0]), Content::Gzip);
        assert_eq!(lines(&[0x28, 0xb5, 0x2f, 0xfd, 4]), Content::Zstd);
        assert_eq!(lines(b"\xef\xbb\xbf{\"a\":1}\n"), Content::Plain(3));
        for plain in [
            "",
            "a",
            "a,b\n1,2\n",
            "{\"a\":1}\n",
            "[1]\n[2]\n",
            "[{\"a\":1}]\n",
            "[\nx\n",
            "[info] up,\n",
            "{\n}\n",
        ] {
            assert_eq!(lines(plain.as_bytes()), Content::Plain(0), "{plain:?}");
        }
        for (head, what) in [
            (&b"\xff\xfea\0"[..], "UTF-16"),
            (b"\xfe\xff\0a", "UTF-16"),
            (b"{\0\"\0a\0\"\0:\0", "UTF-16"),
            (b"\0{\0\"\0a\0\"\0:", "UTF-16"),
            (b"\xff\xfe\0\0a\0\0\0", "UTF-32"),
            (b"\xfd7zXZ\0\0", "xz"),
            (b"BZh91AY", "bzip2"),
            (b"PK\x03\x04", "zip"),
            (b"[\n {\"a\":1},\n", "JSON array"),
            (b"\xef\xbb\xbf[{\"a\":1},\n{\"a\":2}]", "JSON array"),
            (b"[ {\n \"a\":1},\n", "JSON array"),
            (b"{\r\n  \"a\": 1\n}\n", "over several lines"),
        ] {
            let why = recognise(head).unwrap_err();
            assert!(why.contains(what), "{head:?}: {why}");
        }
    }
}
