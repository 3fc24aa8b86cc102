//! What `[source]` may say in short: `mqtt = "URL"` with `topics`, and `files`. Put where they belong, so that nothing
//! behind this file knows of two ways.

use thalweg_kernel::ConfigError;
use thalweg_kernel::options::{Raw, Table, Value};

/// Keys of `[source]`, and the options of connectors that they stand for.
const SHORT: [(&str, &str); 3] =
    [("mqtt", "mqtt.url"), ("topics", "mqtt.topics"), ("files", "file.paths")];

/// Puts them where they belong.
///
/// # Errors
/// If the option is given there, too.
pub(super) fn unfold(root: &mut Table) -> Result<(), ConfigError> {
    let Some(Value { raw, origin }) = root.remove("source") else { return Ok(()) };
    let raw = match raw {
        Raw::Table(mut source) => {
            for (short, option) in SHORT {
                let is_table = matches!(source.get(short), Some(Value { raw: Raw::Table(_), .. }));
                if !is_table && let Some(value) = source.remove(short) {
                    source.insert(option, value)?;
                }
            }
            Raw::Table(source)
        }
        raw => raw,
    };
    root.put("source", Value { raw, origin })
}
