//! No circles of files. Within a crate, each file uses names of other files; these uses form a
//! graph. A circle in it means that none of its files can be understood or moved alone.
//!
//! One circle is welcome: that of a parent and its children. A parent is made of its children, and
//! they may use what it holds for all of them. So a circle is a fault unless one of its files is
//! the ancestor of all others in it.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::{Crate, Source};
use crate::names::{self, Uses};
use crate::rules::Complaint;

/// Within each crate, files use each other one way.
pub(crate) fn circles(sources: &[Source], crates: &[Crate]) -> Vec<Complaint> {
    let roots = crates.iter().flat_map(|krate| &krate.roots);
    let mut complaints: Vec<Complaint> =
        roots.flat_map(|root| of_root(&names::uses(sources, root), root)).collect();
    complaints.sort_by(|one, other| one.place.cmp(&other.place));
    complaints.dedup();
    complaints
}

fn of_root(uses: &Uses, root: &str) -> Vec<Complaint> {
    let files: BTreeSet<&str> =
        uses.names.keys().flat_map(|(from, to)| [from.as_str(), to.as_str()]).collect();
    let mut found = Vec::new();
    search(uses, files, &mut found);
    found.iter().map(|circle| complaint(uses, root, circle)).collect()
}

/// Finds the circles among `files`: sets of files that reach each other, without an ancestor of all.
fn search<'a>(uses: &'a Uses, files: BTreeSet<&'a str>, found: &mut Vec<BTreeSet<&'a str>>) {
    for mut circle in components(uses, &files) {
        let above = circle.iter().copied().find(|file| {
            circle.iter().all(|other| other == file || is_ancestor(uses, file, other))
        });
        match above {
            // All circles through it are its family's. What is left may still be one.
            Some(ancestor) => {
                circle.remove(ancestor);
                search(uses, circle, found);
            }
            None => found.push(circle),
        }
    }
}

/// Is the module of `file` above that of `other`?
fn is_ancestor(uses: &Uses, file: &str, other: &str) -> bool {
    let mut above = uses.parents.get(other);
    while let Some(parent) = above {
        if parent == file {
            return true;
        }
        above = uses.parents.get(parent);
    }
    false
}

/// The sets of two and more files that reach each other.
fn components<'a>(uses: &'a Uses, files: &BTreeSet<&'a str>) -> Vec<BTreeSet<&'a str>> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in uses
        .names
        .keys()
        .filter(|(from, to)| files.contains(from.as_str()) && files.contains(to.as_str()))
    {
        next.entry(from).or_default().push(to);
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        files.iter().map(|file| (*file, reach(&next, file))).collect();
    let mut components: Vec<BTreeSet<&str>> = Vec::new();
    for file in files {
        let around: BTreeSet<&str> =
            reached[file].iter().copied().filter(|other| reached[other].contains(file)).collect();
        if around.len() > 1 && !components.contains(&around) {
            components.push(around);
        }
    }
    components
}

/// The files that `start` reaches; itself only by a way back.
fn reach<'a>(next: &BTreeMap<&str, Vec<&'a str>>, start: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![start];
    while let Some(file) = open.pop() {
        for to in next.get(file).into_iter().flatten() {
            if reached.insert(*to) {
                open.push(to);
            }
        }
    }
    reached
}

fn complaint(uses: &Uses, root: &str, circle: &BTreeSet<&str>) -> Complaint {
    let folder = root.rsplit_once('/').map_or("", |(folder, _)| folder);
    let short = |file: &str| file.strip_prefix(folder).unwrap_or(file).trim_matches('/').to_owned();
    let ways: String = uses
        .names
        .iter()
        .filter(|((from, to), _)| circle.contains(from.as_str()) && circle.contains(to.as_str()))
        .map(|((from, to), names)| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            format!("\n    {} uses of {}: {}", short(from), short(to), names.join(", "))
        })
        .collect();
    Complaint::new(
        circle.first().copied().unwrap_or_default(),
        format!("a circle of {} files{ways}", circle.len()),
        "move the misplaced name to the file that it is about; what several share gets a file of its own",
    )
}

#[cfg(test)]
#[path = "circles_tests.rs"]
mod tests;
