//! What becomes of files, listing by listing, against what they are.

use super::*;

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn looking(entries: BTreeMap<PartitionId, Entry>) -> Looking {
    let interval = Duration::from_secs(10);
    Looking { pattern: vec!['*'], ours: Box::new(|_| true), entries, interval, told: false }
}

/// A file with this inode and size, changed in this second.
fn seen(inode: u64, bytes: u64, changed: u64) -> Seen {
    Seen { inode, bytes, changed: at(changed) }
}

fn compare(looking: &mut Looking, second: u64, files: &[(&str, Seen)]) -> Vec<String> {
    let listing = files.iter().map(|&(name, seen)| (PartitionId::new(name), seen)).collect();
    let text = |news: PartitionNews| match news {
        PartitionNews::Found(id) => format!("+{id}"),
        PartitionNews::Gone(id) => format!("-{id}"),
    };
    looking.compare(&listing, at(second)).into_iter().map(text).collect()
}

#[test]
fn names_match_as_in_a_shell() {
    let chars = |text: &str| text.chars().collect::<Vec<_>>();
    for (pattern, yes, no) in [
        ("*", &["", "a", "abc"][..], &[][..]),
        ("*.jsonl", &[".jsonl", "a.jsonl", "a.jsonl.jsonl"], &["a.json", "a.jsonl.tmp", ""]),
        ("a?c", &["abc", "aüc"], &["ac", "abbc"]),
        ("a*b*c", &["abc", "aXbYc", "abbcbc"], &["ab", "acb", "abcd"]),
        ("a", &["a"], &["", "aa", "b"]),
    ] {
        for name in yes {
            assert!(matches(&chars(pattern), &chars(name)), "{pattern} {name}");
        }
        for name in no {
            assert!(!matches(&chars(pattern), &chars(name)), "{pattern} {name}");
        }
    }
}

#[test]
fn a_file_is_taken_in_once_when_it_has_come_to_rest() {
    let mut looking = looking(BTreeMap::new());
    let old = ("a", seen(1, 5, 50));
    assert_eq!(compare(&mut looking, 100, &[old, ("b", seen(2, 5, 95))]), ["+a"]);
    assert_eq!(compare(&mut looking, 101, &[old, ("b", seen(2, 7, 101))]), [""; 0]);
    assert_eq!(compare(&mut looking, 102, &[old, ("b", seen(2, 7, 101))]), ["+b"]);
    assert_eq!(compare(&mut looking, 103, &[old, ("b", seen(2, 7, 101))]), [""; 0]);
    // Its clock is ahead of this machine's.
    let ahead = ("c", seen(3, 1, 500));
    assert_eq!(compare(&mut looking, 104, &[old, ahead]), ["-b"]);
    assert_eq!(compare(&mut looking, 105, &[old, ahead]), ["+c"]);
}

#[test]
fn a_file_that_grows_is_the_same_and_one_that_shrinks_or_has_another_inode_is_not() {
    let mut looking = looking(BTreeMap::new());
    assert_eq!(compare(&mut looking, 100, &[("a", seen(1, 5, 50))]), ["+a"]);
    assert_eq!(compare(&mut looking, 200, &[("a", seen(1, 9, 150))]), ["+a"]);
    assert_eq!(compare(&mut looking, 300, &[("a", seen(1, 8, 250))]), ["-a", "+a"]);
    assert_eq!(compare(&mut looking, 400, &[("a", seen(2, 8, 350))]), ["-a", "+a"]);
    assert_eq!(compare(&mut looking, 500, &[]), ["-a"]);
}

#[test]
fn what_an_earlier_run_knew_is_news_only_where_it_has_changed() {
    let known = |inode, bytes, begun| Entry { seen: None, taken: Some((inode, bytes)), begun };
    let entries = [
        ("ended", known(1, 5, false)),
        ("grown", known(2, 5, false)),
        ("other", known(3, 5, false)),
        ("absent", known(4, 5, false)),
        ("begun", known(5, 5, true)),
        ("unknown inode", known(0, 5, true)),
        ("begun anew", known(6, 5, true)),
    ];
    let entries = entries.map(|(name, entry)| (PartitionId::new(name), entry));
    let mut looking = looking(entries.into());
    let files = [
        ("ended", seen(1, 5, 50)),
        ("grown", seen(2, 6, 50)),
        ("other", seen(30, 5, 50)),
        // What was begun does not wait until it has come to rest.
        ("begun", seen(5, 9, 100)),
        ("unknown inode", seen(7, 5, 100)),
        ("begun anew", seen(60, 5, 100)),
    ];
    let news = compare(&mut looking, 100, &files);
    let expected =
        ["+begun", "-begun anew", "+begun anew", "+grown", "-other", "+other", "+unknown inode"];
    assert_eq!(news, expected);
    assert_eq!(compare(&mut looking, 200, &files), [""; 0], "what was never there is not gone");
}
