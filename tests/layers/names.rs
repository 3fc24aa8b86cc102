//! Which file of a crate uses which names of which other file. It reads the module tree of one
//! root: a library, a program, a test. It follows each `use` and each path in code through
//! re-exports to the file that defines the name. It leaves out what `#[cfg(test)]` marks.
//!
//! It reads tokens, not syntax trees, and so has limits. It sees no method calls, no names that a
//! macro makes, and no names that only a comment links to.

use std::collections::{BTreeMap, BTreeSet};

use crate::code;
use crate::facts::Source;

/// The files of one root, and what they use of each other.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    /// For each pair of files, what the first uses of the second.
    pub(crate) names: BTreeMap<(String, String), BTreeSet<String>>,
    /// For each file, the file whose module has its module.
    pub(crate) parents: BTreeMap<String, String>,
}

/// No chain of re-exports is longer. It ends a search in imports that go round.
const STEPS_MAX: usize = 16;

/// What the files of one root use of each other.
pub(crate) fn uses(sources: &[Source], root: &str) -> Uses {
    let mut tree = Tree::default();
    tree.add(sources, root, None, true);
    tree.uses()
}

/// A `use` of one name: `use path as name`.
#[derive(Debug)]
struct Import {
    path: Vec<String>,
    /// The name that it has here; `*` for all of a module's names.
    name: String,
    /// Others find it here by this name.
    exported: bool,
}

/// A file, read.
#[derive(Debug, Default)]
struct Module {
    path: String,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    items: BTreeSet<String>,
    imports: Vec<Import>,
    /// The paths in its code: `a::b::C`, or one name.
    paths: BTreeSet<Vec<String>>,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Module(usize),
    Item(usize, String),
}

/// The module tree of one root, the root first.
#[derive(Debug, Default)]
struct Tree {
    modules: Vec<Module>,
    /// Macros that the whole crate sees, and the module of each.
    macros: BTreeMap<String, usize>,
}

impl Tree {
    fn add(&mut self, sources: &[Source], path: &str, parent: Option<usize>, owns_folder: bool) {
        let Some(source) = sources.iter().find(|source| source.path == path) else { return };
        let index = self.modules.len();
        let mut reader = Reader::new(&source.text);
        reader.read();
        let Reader { module, children, macros, .. } = reader;
        self.modules.push(Module { path: path.to_owned(), parent, ..module });
        self.macros.extend(macros.into_iter().map(|name| (name, index)));
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let own = if owns_folder {
            folder.to_owned()
        } else {
            format!("{folder}/{}", file.trim_end_matches(".rs"))
        };
        for (name, given) in children {
            let candidates = match &given {
                Some(given) => vec![(flat(&format!("{folder}/{given}")), true)],
                None => vec![
                    (format!("{own}/{name}.rs"), false),
                    (format!("{own}/{name}/mod.rs"), true),
                ],
            };
            for (candidate, owns_folder) in candidates {
                let next = self.modules.len();
                self.add(sources, &candidate, Some(index), owns_folder);
                if self.modules.len() > next {
                    self.modules[index].children.insert(name.clone(), next);
                }
            }
        }
    }

    /// Where `path`, written in the module `from`, leads; nothing if out of the crate.
    fn resolve(&self, from: usize, path: &[String], steps: usize) -> Option<Found> {
        if steps == STEPS_MAX {
            return None;
        }
        let (head, mut rest) = path.split_first()?;
        let mut at = match head.as_str() {
            "crate" => 0,
            "self" => from,
            "super" => self.modules[from].parent?,
            _ => match self.find(from, head, steps + 1)? {
                Found::Module(module) => module,
                item => return Some(item),
            },
        };
        while let Some((name, after)) = rest.split_first() {
            rest = after;
            at = match name.as_str() {
                "super" => self.modules[at].parent?,
                "self" => at,
                _ => match self.find(at, name, steps + 1) {
                    Some(Found::Module(module)) => module,
                    Some(item) => return Some(item),
                    None => {
                        let home = self.macros.get(name).filter(|_| at == 0).copied();
                        return Some(Found::Item(home.unwrap_or(at), name.clone()));
                    }
                },
            };
        }
        Some(Found::Module(at))
    }

    /// What `name` is in the module `at`.
    fn find(&self, at: usize, name: &str, steps: usize) -> Option<Found> {
        let module = &self.modules[at];
        if let Some(child) = module.children.get(name) {
            return Some(Found::Module(*child));
        }
        if module.items.contains(name) {
            return Some(Found::Item(at, name.to_owned()));
        }
        if steps >= STEPS_MAX {
            return None;
        }
        let named = module.imports.iter().filter(|import| import.name == name);
        let direct = named.filter_map(|import| self.resolve(at, &import.path, steps + 1)).next();
        direct.or_else(|| {
            let all = module.imports.iter().filter(|import| import.name == "*");
            let modules = all.filter_map(|import| self.resolve(at, &import.path, steps + 1));
            modules
                .filter_map(|found| match found {
                    Found::Module(other) if other != at => self.find(other, name, steps + 4),
                    _ => None,
                })
                .next()
        })
    }

    fn uses(&self) -> Uses {
        let mut uses = Uses::default();
        for (index, module) in self.modules.iter().enumerate() {
            let private = module.imports.iter().filter(|import| !import.exported);
            for path in private.map(|import| &import.path).chain(&module.paths) {
                if let Some(Found::Item(home, name)) = self.resolve(index, path, 0)
                    && home != index
                {
                    let files = (module.path.clone(), self.modules[home].path.clone());
                    uses.names.entry(files).or_default().insert(name);
                }
            }
            if let Some(parent) = module.parent {
                uses.parents.insert(module.path.clone(), self.modules[parent].path.clone());
            }
        }
        uses
    }
}

/// A path without `..`.
fn flat(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// A word or a sign of code, and where it stands (in characters).
#[derive(Clone, Debug)]
struct Token {
    text: String,
    at: usize,
}

fn tokens(code: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut last = None;
    for (at, c) in code.chars().enumerate() {
        let joins = match (last, c) {
            (Some(before), _) if is_word(before) && is_word(c) => true,
            (Some(':'), ':') => tokens.last().is_some_and(|token| token.text == ":"),
            _ => false,
        };
        match tokens.last_mut() {
            Some(token) if joins => token.text.push(c),
            _ if !c.is_whitespace() => tokens.push(Token { text: c.to_string(), at }),
            _ => {}
        }
        last = Some(c);
    }
    tokens
}

/// Reads one file.
struct Reader<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    /// Braces that are open.
    depth: usize,
    /// Inline modules that are open: the depth in each.
    inline: Vec<usize>,
    module: Module,
    children: Vec<(String, Option<String>)>,
    macros: Vec<String>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Reader {
            text,
            tokens: tokens(&code::code_only(text)),
            at: 0,
            depth: 0,
            inline: Vec::new(),
            module: Module::default(),
            children: Vec::new(),
            macros: Vec::new(),
        }
    }

    fn peek(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", |token| token.text.as_str())
    }

    fn read(&mut self) {
        let (mut exported, mut given, mut macro_exported) = (false, None, false);
        while self.at < self.tokens.len() {
            let at_top = self.inline.last().map_or(self.depth == 0, |depth| self.depth == *depth);
            match self.peek(0) {
                "#" if self.peek(1) == "[" || self.peek(1) == "!" && self.peek(2) == "[" => {
                    let attribute = self.attribute();
                    let words: Vec<&str> = attribute.iter().map(|t| t.text.as_str()).collect();
                    if words.starts_with(&["cfg", "(", "test", ")"]) {
                        self.skip_item();
                    }
                    if words.first() == Some(&"path") {
                        given = self.literal(&attribute);
                    }
                    macro_exported |= words == ["macro_export"];
                    continue;
                }
                "pub" => {
                    exported = true;
                    self.at += 1;
                    if self.peek(0) == "(" {
                        self.skip_group();
                    }
                    continue;
                }
                "use" if self.peek(1) != "<" => self.import(exported && at_top),
                "mod" if at_top && self.peek(2) == ";" => {
                    let name = self.peek(1).to_owned();
                    self.children.push((name, given.take()));
                    self.at += 3;
                }
                "mod" if at_top && self.peek(2) == "{" => {
                    self.module.items.insert(self.peek(1).to_owned());
                    self.at += 3;
                    self.depth += 1;
                    self.inline.push(self.depth);
                }
                "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" | "union"
                    if at_top =>
                {
                    self.at += 1;
                    if !matches!(self.peek(0), "fn" | "unsafe" | "extern" | "mut") {
                        self.module.items.insert(self.peek(0).to_owned());
                        self.at += 1;
                    }
                }
                "macro_rules" => {
                    let name = self.peek(2).to_owned();
                    if macro_exported {
                        self.macros.push(name.clone());
                    }
                    self.module.items.insert(name);
                    self.at += 3;
                }
                "{" => {
                    self.depth += 1;
                    self.at += 1;
                }
                "}" => {
                    if self.inline.last() == Some(&self.depth) {
                        self.inline.pop();
                    }
                    self.depth = self.depth.saturating_sub(1);
                    self.at += 1;
                }
                word if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => self.path(),
                _ => self.at += 1,
            }
            (exported, given, macro_exported) = (false, None, false);
        }
    }

    /// What stands in `#[..]` or `#![..]`.
    fn attribute(&mut self) -> Vec<Token> {
        self.at += if self.peek(1) == "!" { 2 } else { 1 };
        let start = self.at;
        self.skip_group();
        let inside = (start + 1).min(self.at)..self.at;
        self.tokens[inside].to_vec()
    }

    /// The string in an attribute, which reading as code has blanked.
    fn literal(&self, attribute: &[Token]) -> Option<String> {
        let (first, last) = (attribute.first()?.at, attribute.last()?.at);
        let text: String = self.text.chars().skip(first).take(last - first).collect();
        text.split('"').nth(1).map(str::to_owned)
    }

    /// Goes behind what a bracket opens.
    fn skip_group(&mut self) {
        let mut open = 0_usize;
        while self.at < self.tokens.len() {
            match self.peek(0) {
                "(" | "[" | "{" => open += 1,
                ")" | "]" | "}" => open = open.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
            if open == 0 {
                return;
            }
        }
    }

    /// Goes behind an item, a statement or a field that an attribute leaves out.
    fn skip_item(&mut self) {
        while self.at < self.tokens.len() {
            match self.peek(0) {
                "{" => return self.skip_group(),
                "(" | "[" => self.skip_group(),
                ";" | "," => return self.at += 1,
                ")" | "]" | "}" => return,
                _ => self.at += 1,
            }
        }
    }

    /// `use a::{b, c as d};`
    fn import(&mut self, exported: bool) {
        self.at += 1;
        self.branch(&mut Vec::new(), exported);
    }

    fn branch(&mut self, path: &mut Vec<String>, exported: bool) {
        let start = path.len();
        loop {
            match self.peek(0) {
                "::" => self.at += 1,
                "{" => {
                    self.at += 1;
                    while !matches!(self.peek(0), "}" | "") {
                        self.branch(path, exported);
                        self.at += usize::from(matches!(self.peek(0), "," | ";"));
                    }
                    self.at += 1;
                    path.truncate(start);
                    return;
                }
                "as" => {
                    let name = self.peek(1).to_owned();
                    self.at += 2;
                    self.bind(path, name, exported);
                    path.truncate(start);
                    return;
                }
                ";" | "," | "}" | "" => {
                    if let Some(name) = path.last().cloned().filter(|_| path.len() > start) {
                        self.bind(path, name, exported);
                    }
                    path.truncate(start);
                    return;
                }
                word => {
                    path.push(word.to_owned());
                    self.at += 1;
                }
            }
        }
    }

    fn bind(&mut self, path: &[String], mut name: String, exported: bool) {
        let Some(mut path) = self.outwards(path.to_vec()) else { return };
        if matches!(name.as_str(), "*" | "self") && path.last() == Some(&name) {
            path.pop();
            if name == "self" {
                name = path.last().cloned().unwrap_or_default();
            }
        }
        self.module.imports.push(Import { path, name, exported });
    }

    /// A path in code, or one name.
    fn path(&mut self) {
        let after = self.at.checked_sub(1).map(|before| self.tokens[before].text.clone());
        let mut path = vec![self.peek(0).to_owned()];
        self.at += 1;
        while self.peek(0) == "::"
            && self.peek(1).starts_with(|c: char| c.is_alphabetic() || c == '_')
        {
            path.push(self.peek(1).to_owned());
            self.at += 2;
        }
        // A field, a method, a path that goes on, a lifetime.
        if !matches!(after.as_deref(), Some("." | "::" | "'"))
            && let Some(path) = self.outwards(path)
        {
            self.module.paths.insert(path);
        }
    }

    /// A path of an inline module as the file would write it; nothing if it stays in the file.
    fn outwards(&self, mut path: Vec<String>) -> Option<Vec<String>> {
        for _ in &self.inline {
            match path.first().map(String::as_str) {
                Some("super") => drop(path.remove(0)),
                Some("self") => return None,
                _ => break,
            }
        }
        (!path.is_empty()).then_some(path)
    }
}
