//! `thalweg connectors`: what there is to read from and write to, and what each can be told. Everything here is read
//! from the descriptions of the [registry](crate::registry). It is shown on the screen, as JSON, and as the page
//! `docs/connectors.md`, which a test holds against them.

use std::fmt::Write;

use clap::Args;
use serde_json::{Value, json};
use thalweg_kernel::ConfigError;
use thalweg_kernel::connector::{Connector, Side};
use thalweg_kernel::options::{Fallback, Kind, OptionInfo};

use crate::registry::{ENTRIES, SideName};

/// Looks up connectors.
#[derive(Args)]
pub(crate) struct ConnectorsArgs {
    /// Only this one, with its options
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// As JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// As the page of docs
    #[arg(long, conflicts_with = "name")]
    markdown: bool,
}

impl ConnectorsArgs {
    /// What is to be printed.
    ///
    /// # Errors
    /// If this build has no connector of the name.
    pub(crate) fn text(&self) -> Result<String, ConfigError> {
        let all = || ENTRIES.iter().filter_map(|entry| entry.connector);
        let Some(name) = &self.name else {
            return Ok(if self.markdown {
                markdown(all())
            } else if self.json {
                pretty(&all().map(as_json).collect())
            } else {
                list()
            });
        };
        let found = ENTRIES.iter().find(|entry| entry.name == *name);
        match found.map(|entry| (entry.connector, entry.feature)) {
            Some((Some(connector), _)) if self.json => Ok(pretty(&as_json(connector))),
            Some((Some(connector), _)) => Ok(whole(connector)),
            Some((None, feature)) => {
                let feature = feature.unwrap_or_default();
                let allowed = format!(
                    "a connector of this build; {name} takes the cargo feature `{feature}`"
                );
                Err(ConfigError::new("NAME", name, allowed))
            }
            None => {
                let names: Vec<_> = all().map(|connector| connector.name).collect();
                Err(ConfigError::new("NAME", name, names.join(", ")).near(names.iter().copied()))
            }
        }
    }
}

fn sides(connector: &Connector) -> impl Iterator<Item = (SideName, &Side)> {
    let source = connector.source.as_ref().map(|side| (SideName::Source, side));
    source.into_iter().chain(connector.sink.as_ref().map(|side| (SideName::Sink, side)))
}

fn options(side: &Side) -> impl Iterator<Item = &'static OptionInfo> {
    side.options.iter().copied().flatten()
}

/// The lines of a doc comment as one.
fn doc(info: &OptionInfo) -> String {
    let lines: Vec<_> = info.doc.iter().map(|line| line.trim()).collect();
    lines.join(" ").replace("[`", "`").replace("`]", "`")
}

/// What stands for an option that is not given.
fn fallback(info: &OptionInfo) -> String {
    match info.fallback {
        Fallback::Required => "required".into(),
        Fallback::Absent(words) => words.into(),
        Fallback::Value(_) => match info.default_text() {
            Some(text) if text.is_empty() => "none".into(),
            Some(text) => text,
            None => String::new(),
        },
    }
}

fn list() -> String {
    let mut text = String::new();
    for entry in ENTRIES {
        let (what, about) = match (entry.connector, entry.feature) {
            (Some(connector), _) => {
                let what: Vec<_> = sides(connector).map(|(side, _)| side.section()).collect();
                (what.join(", "), connector.about.to_owned())
            }
            (None, feature) => {
                let feature = feature.unwrap_or_default();
                (
                    "absent".into(),
                    format!("This build lacks it: it takes the cargo feature `{feature}`."),
                )
            }
        };
        let _infallible = writeln!(text, "{:<10} {what:<13} {about}", entry.name);
    }
    text.push_str("\nthalweg connectors NAME prints what one can be told.\n");
    text
}

fn whole(connector: &Connector) -> String {
    let mut text = format!("{}: {}\n", connector.name, connector.about);
    for (name, side) in sides(connector) {
        let _infallible = writeln!(text, "\n[{}.{}]", name.section(), connector.name);
        for (guarantee, when) in side.guarantees {
            let _infallible = writeln!(text, "  {}: {when}", guarantee.words());
        }
        for field in side.metadata {
            let _infallible = writeln!(text, "  field {}: {}", field.name, field.doc);
        }
        options(side).for_each(|info| describe(info, "  ", &mut text));
    }
    text
}

fn describe(info: &OptionInfo, indent: &str, text: &mut String) {
    let mut line = |words: &str| {
        let _infallible = writeln!(text, "{indent}{words}");
    };
    line("");
    let secret = if info.secret { " (is shown nowhere)" } else { "" };
    line(&format!("{}: {}{secret}", info.key, info.allowed()));
    line(&format!("    {}", doc(info)));
    if !info.aliases.is_empty() {
        line(&format!("    also: {}", info.aliases.join(", ")));
    }
    let default = match info.fallback {
        Fallback::Required => "must be given".to_owned(),
        _ => format!("default: {}", fallback(info)),
    };
    line(&format!("    {default}"));
    if let Some(example) = info.example {
        line(&format!("    example: {example}"));
    }
    if let Kind::Named(tables) = info.kind {
        let indent = format!("{indent}    ");
        tables.iter().copied().flatten().for_each(|info| describe(info, &indent, text));
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn as_json(connector: &Connector) -> Value {
    let side = |side: &Side| {
        let guarantees = side.guarantees.iter();
        let metadata = side.metadata.iter();
        json!({
            "guarantees": guarantees
                .map(|(guarantee, when)| json!({ "guarantee": guarantee.words(), "when": when }))
                .collect::<Value>(),
            "metadata": metadata
                .map(|field| json!({ "name": field.name, "doc": field.doc }))
                .collect::<Value>(),
            "options": options(side).map(option_as_json).collect::<Value>(),
        })
    };
    json!({
        "name": connector.name,
        "about": connector.about,
        "source": connector.source.as_ref().map(side),
        "sink": connector.sink.as_ref().map(side),
    })
}

fn option_as_json(info: &OptionInfo) -> Value {
    let choices = match info.kind {
        Kind::Choice(words) => Some(words),
        _ => None,
    };
    let inner = match info.kind {
        Kind::Named(tables) => {
            Some(tables.iter().copied().flatten().map(option_as_json).collect::<Value>())
        }
        _ => None,
    };
    json!({
        "key": info.key,
        "aliases": info.aliases,
        "type": info.kind.name(),
        "choices": choices,
        "unit": info.unit,
        "least": info.range.map(|(least, _)| least),
        "most": info.range.map(|(_, most)| most).filter(|most| *most < u64::MAX),
        "allowed": info.allowed(),
        "required": matches!(info.fallback, Fallback::Required),
        "default": info.default_text(),
        "absent": match info.fallback { Fallback::Absent(words) => Some(words), _ => None },
        "secret": info.secret,
        "doc": doc(info),
        "example": info.example,
        "options": inner,
    })
}

fn markdown<'a>(connectors: impl Iterator<Item = &'a Connector>) -> String {
    let mut text = "# Connectors\n\n\
        What `thalweg run` reads from and writes to. `thalweg connectors --markdown` writes this page from the\n\
        connectors' own descriptions; a test fails when the page is stale. Durations are written `250ms`, `10s`, `1h 30m`; \
        sizes in\nbytes, or `64KiB`, `1MiB`.\n"
        .to_owned();
    for connector in connectors {
        let _infallible = writeln!(text, "\n## {}\n{}", connector.name, connector.about);
        for (name, side) in sides(connector) {
            let _infallible = writeln!(text, "\n### `[{}.{}]`", name.section(), connector.name);
            for (guarantee, when) in side.guarantees {
                let _infallible = writeln!(text, "- {}: {when}", guarantee.words());
            }
            for field in side.metadata {
                let _infallible = writeln!(text, "- field `{}`: {}", field.name, field.doc);
            }
            rows(options(side), &mut text);
            for info in options(side) {
                if let Kind::Named(tables) = info.kind {
                    let _infallible = writeln!(text, "\nEach table of `{}` has:", info.key);
                    rows(tables.iter().copied().flatten(), &mut text);
                }
            }
        }
    }
    text
}

fn rows<'a>(infos: impl Iterator<Item = &'a OptionInfo>, text: &mut String) {
    let mut infos = infos.peekable();
    if infos.peek().is_none() {
        return;
    }
    text.push_str("\n| option | allowed | default | |\n|---|---|---|---|\n");
    // A bar would end the cell.
    let cell = |text: String| text.replace('|', "\\|");
    for info in infos {
        let names: Vec<_> = info.names().map(|name| format!("`{name}`")).collect();
        let default = match info.default_text() {
            Some(text) if !text.is_empty() => format!("`{text}`"),
            _ => fallback(info),
        };
        let example = info.example.map(|text| format!(" Example: `{text}`.")).unwrap_or_default();
        let cells = [names.join(", "), info.allowed(), default, doc(info) + &example];
        let _infallible = writeln!(text, "| {} |", cells.map(cell).join(" | "));
    }
}
