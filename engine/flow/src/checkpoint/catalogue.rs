//! The catalogue: which states a job has, and whether what is stored fits them.
//!
//! Each state is stored with its kind, its schema number and its [`Layout`]. When a job starts they are compared:
//!
//! | stored | comes to |
//! |---|---|
//! | as the job has it | it is read |
//! | with an earlier schema, for which the job has a migration | it is read by that |
//! | as a list or map in one piece, by release 0.1 | it is read and written anew |
//! | in any other form | the job does not start; or the state begins anew, if `begin_anew` names it |
//! | for no operator of the job | the job does not start; or it is dropped, if `drop_unknown` or `begin_anew` says so |
//!
//! `begin_anew` is a permission and no order: what fits is kept, so it can stay where it is set. The positions of
//! sources and the notes of sinks cannot begin anew, which would lose or repeat records.
//!
//! A catalogue of release 0.1 holds the names of types and no layouts. [`Layout::types_may_fit`] compares the names as
//! far as they tell: types that both sides know must be equal, and a user's type may have been renamed.

use std::any::type_name;
use std::collections::{BTreeSet, HashSet};

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{ConnectorError, Durable, Layout, StateInfo, StateKind, Str};

use super::Permissions;
use crate::uid::Uid;

/// What a state is, as it is registered.
#[derive(Clone)]
pub(crate) struct Description {
    pub(crate) node: u32,
    pub(crate) name: Str,
    pub(crate) kind: StateKind,
    pub(crate) schema: u32,
    pub(crate) types: String,
    pub(crate) layout: Layout,
    /// The earlier schemas that can be read.
    pub(crate) migrations: Vec<Reads>,
    /// The types by which release 0.1 knew it, where it stored it in another form.
    pub(crate) whole_types: Option<String>,
}

/// An earlier schema that a migration reads.
#[derive(Clone)]
pub(crate) struct Reads {
    pub(crate) schema: u32,
    pub(crate) layout: Layout,
    /// For a catalogue without layouts. What the engine itself reads has none: it wrote that.
    pub(crate) types: Option<String>,
}

/// The types of a state, for people.
pub(crate) fn types_of<K, V>() -> String {
    format!("{} -> {}", type_name::<K>(), type_name::<V>())
}

impl Description {
    /// A state of `node` with keys and values of these types.
    pub(crate) fn of<K, V: Durable>(node: u32, name: &str, kind: StateKind) -> Self {
        Self {
            node,
            name: name.into(),
            kind,
            schema: 1,
            types: types_of::<K, V>(),
            layout: Layout::of::<K, V>(),
            migrations: Vec::new(),
            whole_types: None,
        }
    }

    /// Something else is part of what the keys mean, such as the length of windows.
    pub(crate) fn with_keys_of(mut self, what: &str) -> Self {
        self.types = format!("{what}: {}", self.types);
        self.layout = self.layout.with_keys_of(what);
        self
    }

    /// Why stored state does not fit, if it does not.
    fn misfit(&self, stored: &StateInfo) -> Option<String> {
        let here = |what: &dyn std::fmt::Display| format!("schema {} ({what})", self.schema);
        let there = || match &stored.layout {
            Some(layout) => format!("schema {} ({layout})", stored.schema),
            None => format!("schema {} ({})", stored.schema, stored.types),
        };
        let migration = "say how it is read with StateOptions::schema and migrate";
        let was_whole = self.kind.was_whole(stored.kind);
        if self.kind != stored.kind && !was_whole {
            return Some(format!(
                "was stored as {:?}, and the job has {:?}",
                stored.kind, self.kind
            ));
        }
        if stored.schema > self.schema {
            let (there, here) = (there(), here(&self.layout));
            return Some(format!(
                "was stored with {there}, and the job has {here}, an earlier one"
            ));
        }
        if stored.schema < self.schema && was_whole {
            return Some(format!(
                "was stored in one piece for each key by an earlier release, with {}, and the job has {}; \
                 start the job once with the earlier schema",
                there(),
                here(&self.layout)
            ));
        }
        let fits = match (&stored.layout, stored.schema < self.schema) {
            (Some(layout), false) => {
                *layout == self.layout || seeded(Defect::FlowAcceptsOtherLayout)
            }
            (None, false) => Layout::types_may_fit(
                &stored.types,
                self.whole_types.as_ref().filter(|_| was_whole).unwrap_or(&self.types),
            ),
            (layout, true) => {
                let known = self.migrations.iter().find(|reads| reads.schema == stored.schema);
                let Some(Reads { schema, layout: reads, types }) = known else {
                    return Some(format!(
                        "was stored with {}, and the job has {}; say how to read it with \
                         StateOptions::migrate({}, ..)",
                        there(),
                        here(&self.layout),
                        stored.schema
                    ));
                };
                let may_migrate = match layout {
                    Some(layout) => reads.may_migrate(layout),
                    None => {
                        let types = types.as_ref();
                        types.is_none_or(|types| Layout::types_may_fit(&stored.types, types))
                    }
                };
                if !may_migrate {
                    return Some(format!(
                        "was stored with {}, and the job would migrate it from schema {schema} ({reads}); migrate \
                         it from the type that it had",
                        there()
                    ));
                }
                true
            }
        };
        (!fits).then(|| {
            format!(
                "was stored with {}, and the job has {}: it would be read as something that it is not; \
                 {migration}",
                there(),
                here(&self.layout)
            )
        })
    }
}

/// What becomes of a stored state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is restored.
    Restored,
    /// It is dropped: the job does not have it, or begins it anew.
    Dropped,
}

/// What becomes of a stored state in a job with these ones. An error if the job must not start.
pub(super) fn fate(
    stored: &StateInfo,
    ours: &[(StateInfo, Description)],
    allowed: &Permissions,
) -> Result<Fate, ConnectorError> {
    let (operator, name) = (stored.operator.as_str(), stored.name.as_str());
    let path = format!("{operator}/{name}");
    let begin_anew = allowed.begin_anew.contains(&path);
    let Some((_, here)) = ours.iter().find(|(info, _)| info.id == stored.id) else {
        if allowed.drop_unknown || begin_anew {
            return Ok(Fate::Dropped);
        }
        let what = format!(
            "there is stored state {name:?} of an operator {operator:?}, which the job does not have; give \
             operators stable names with .uid(..), or allow stored state to be dropped: this one \
             (state.begin_anew = [{path:?}]) or all of that kind (state.drop_unknown)"
        );
        return Err(ConnectorError::new("job", what));
    };
    let Some(why) = here.misfit(stored) else { return Ok(Fate::Restored) };
    let what = format!("its state {name:?} {why}");
    if matches!(stored.kind, StateKind::Source | StateKind::Sink) {
        return Err(ConnectorError::new(operator, what));
    }
    if begin_anew {
        return Ok(Fate::Dropped);
    }
    let what = format!(
        "{what}; or begin this state anew and keep the rest (state.begin_anew = [{path:?}]); or start the version \
         of the job that wrote it"
    );
    Err(ConnectorError::new(operator, what))
}

/// The name of an operator without its number among the operators of its kind.
fn kind_of(operator: &str) -> &str {
    match operator.rsplit_once(" #") {
        Some((kind, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => kind,
        _ => operator,
    }
}

/// Checks that operators which only their numbers tell apart have not become more. If one were added in front of
/// another, each would go on with the state of its neighbour.
pub(super) fn check_numbered(
    stored: &[StateInfo],
    uids: &[Uid],
    ours: &[StateInfo],
) -> Result<(), ConnectorError> {
    let given: HashSet<_> = uids.iter().filter(|uid| uid.given).map(|uid| &uid.name).collect();
    let names = |of: &[StateInfo], kind: &str| -> BTreeSet<Str> {
        let alike = of.iter().filter(|info| kind_of(&info.operator) == kind);
        alike.map(|info| info.operator.clone()).filter(|name| !given.contains(name)).collect()
    };
    for kind in ours.iter().map(|info| kind_of(&info.operator)) {
        let (there, here) = (names(stored, kind), names(ours, kind));
        if !there.is_empty() && here.len() > there.len() {
            let names =
                |of: &BTreeSet<Str>| of.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>();
            let what = format!(
                "the job has {} of an operator that stored state has {} of ({}), and only their order would \
                 tell which is which; give those that were there these names with .uid(..), or \
                 .source_as(..) and .sink_as(..), and others to the new ones",
                here.len(),
                there.len(),
                names(&there).join(", ")
            );
            return Err(ConnectorError::new("job", what));
        }
    }
    Ok(())
}

#[cold]
pub(super) fn twice(first: &(Str, Str), second: &(Str, Str)) -> ConnectorError {
    let what = if first == second {
        format!(
            "two operators have the stable name {:?}, or one has two states called {:?}; give each \
             its own with .uid(..)",
            first.0, first.1
        )
    } else {
        format!(
            "{first:?} and {second:?} have the same number in storage; rename one with .uid(..)"
        )
    };
    ConnectorError::new("job", what)
}
