//! A journal's name as the name of its directory: nothing a name says leads out of the place.

use thalweg_kernel::JournalError;

/// A directory's name is at most this long, in bytes; file systems end at 255.
pub const DIRECTORY_BYTES_MAX: usize = 240;

/// The directory of the journal called `name`. Letters, digits, `-`, `_` and inner dots stand for themselves;
/// every other byte is `%` and two hexadecimal digits.
///
/// # Errors
/// If the name is empty or its directory's name would be too long.
pub fn directory_of(name: &str) -> Result<String, JournalError> {
    let mut directory = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || byte == b'.' && at > 0;
        if plain {
            directory.push(char::from(byte));
        } else {
            directory.push_str(&format!("%{byte:02X}"));
        }
    }
    if (1..=DIRECTORY_BYTES_MAX).contains(&directory.len()) {
        return Ok(directory);
    }
    Err(JournalError::Failed(format!(
        "a journal cannot be called {name:?}: as a directory the name has {} bytes, and 1 to \
         {DIRECTORY_BYTES_MAX} are allowed. Give the source a shorter stable name",
        directory.len()
    )))
}

/// The name of the journal in this directory, if [`directory_of`] could have made it.
pub fn name_of(directory: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(directory.len());
    let mut rest = directory.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    (directory_of(&name).ok()? == directory).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_directories_and_come_back() {
        for (name, directory) in [
            ("mqtt-0", "mqtt-0"),
            ("a/b", "a%2Fb"),
            ("..", "%2E."),
            (".hidden", "%2Ehidden"),
            ("50%", "50%25"),
            ("größe 1", "gr%C3%B6%C3%9Fe%201"),
            ("a\0b", "a%00b"),
        ] {
            assert_eq!(directory_of(name).unwrap(), directory);
            assert_eq!(name_of(directory).as_deref(), Some(name));
        }
    }

    #[test]
    fn what_cannot_be_a_name_or_a_directory_of_ours_is_refused() {
        assert!(directory_of("").is_err());
        assert!(directory_of(&"/".repeat(100)).unwrap_err().to_string().contains("shorter"));
        for directory in ["lost+found", ".git", "%2", "%zz", "a%2fb", "%41", ""] {
            assert_eq!(name_of(directory), None, "{directory}");
        }
    }
}
