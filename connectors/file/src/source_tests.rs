//! The source against real files and pipes, torn lines and failing disks.

use std::fs;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use thalweg_format::{Json, Text};
use thalweg_testing::Random;

use super::*;
use crate::reader::BLOCK_BYTES;
use crate::testing::{Emitted, Shard, fifo};

fn read_file(content: &[u8], line_bytes_max: usize, records_max: usize) -> Emitted<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.txt");
    fs::write(&path, content).unwrap();
    let spec = FileSource::new(&path, Text::new().payload_bytes_max(usize::MAX));
    read(&spec.line_bytes_max(line_bytes_max), records_max)
}

fn read<D: Decode + Clone + 'static>(spec: &FileSource<D>, records_max: usize) -> Emitted<D::Item> {
    let mut shard = Shard::alone();
    let mut lines = open(spec, 0, &shard.cx).unwrap();
    shard.read(&mut lines, records_max).unwrap()
}

/// Opens a file of the list.
fn open<D: Decode + Clone + 'static>(
    spec: &FileSource<D>,
    number: usize,
    cx: &OpenContext,
) -> Result<Lines<D>, ConnectorError> {
    let Partitions::Fixed(ids) = spec.partitions() else { panic!("it has no list") };
    spec.open(&ids[number], cx)
}

/// Lines by the definition: offset and content.
fn naive(content: &[u8]) -> Vec<(u64, String)> {
    let mut at = 0;
    let mut lines = Vec::new();
    for piece in content.split(|&byte| byte == b'\n') {
        let line = piece.strip_suffix(b"\r").unwrap_or(piece);
        if !line.is_empty() {
            lines.push((at, String::from_utf8(line.to_vec()).unwrap()));
        }
        at += piece.len() as u64 + 1;
    }
    lines
}

#[test]
fn lines_end_in_every_usual_way() {
    for content in ["", "\n", "\r\n\n", "a", "a\n", "a\r\nb\r\n", "a\n\n\r\nb", "a\rb\n\r", "ä\nö"]
    {
        let read = read_file(content.as_bytes(), 100, 10);
        let found: Vec<_> = read.offsets.into_iter().zip(read.records).collect();
        assert_eq!(found, naive(content.as_bytes()), "{content:?}");
        assert!(read.letters.is_empty());
    }
}

/// Method: lines of all lengths over many blocks, against the definition.
#[test]
fn lines_across_blocks_agree_with_a_naive_reading() {
    let mut content = Vec::new();
    let mut random = Random::new(5);
    while content.len() < 12 * BLOCK_BYTES {
        let length = match random.below(2_000) {
            0 => BLOCK_BYTES + random.below(1 << 14),
            n => n % 90,
        };
        content.extend(std::iter::repeat_n(b'a' + random.below(26), length));
        content.extend_from_slice(if random.one_in(2) { b"\n" } else { b"\r\n" });
    }
    content.extend_from_slice(b"end");
    let expected = naive(&content);
    for records_max in [1, 7, 1000] {
        let read = read_file(&content, LINE_BYTES_MAX, records_max);
        assert!(read.letters.is_empty());
        assert!(read.records.iter().eq(expected.iter().map(|(_, line)| line)));
        assert!(read.offsets.iter().eq(expected.iter().map(|(offset, _)| offset)));
    }
}

#[test]
fn a_line_over_the_bound_is_one_dead_letter() {
    // Found within one block, and found while it is read.
    for bound in [10, 2 * BLOCK_BYTES] {
        for over in [1, 2, 3, BLOCK_BYTES, 3 * BLOCK_BYTES] {
            for end in ["\n", "\r\n", ""] {
                let long = "x".repeat(bound + over);
                let fits = "y".repeat(bound);
                let last = if end.is_empty() { "" } else { "last" };
                let content = format!("a\r\n{fits}\r\n{long}{end}{last}");
                let read = read_file(content.as_bytes(), bound, 2);
                let expected: Vec<_> =
                    ["a", &fits, last].into_iter().filter(|l| !l.is_empty()).collect();
                assert!(read.records == expected, "{bound} {over} {end:?}");
                let [letter] = &read.letters[..] else { panic!("{} letters", read.letters.len()) };
                assert_eq!(letter.cause, Cause::TooLarge);
                assert_eq!(letter.offset, Some(3 + bound as u64 + 2));
                assert_eq!(letter.payload_bytes, long.len() as u64, "{bound} {over} {end:?}");
                assert!(long.as_bytes().starts_with(&letter.payload) && !letter.payload.is_empty());
                assert!(letter.reason.ends_with(&format!("{bound} are allowed")));
            }
        }
    }
}

#[test]
fn bad_lines_are_dead_letters_with_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.jsonl");
    fs::write(&path, "[1]\n[1,]\n[2]\n\"\u{fe}").unwrap();
    let read = read(&FileSource::new(&path, Json::<Vec<u8>>::new()), 10);
    assert_eq!(read.records, [[1], [2]]);
    let places: Vec<_> = read.letters.iter().map(|l| (l.offset, l.position, l.line)).collect();
    assert_eq!(places, [(Some(4), Some(3), Some(2)), (Some(13), Some(3), Some(4))]);
    assert_eq!(read.letters[0].topic, path.display().to_string());
}

#[test]
fn each_file_is_a_partition() {
    let directory = tempfile::tempdir().unwrap();
    let paths: Vec<_> = ["a", "b"].map(|name| directory.path().join(name)).into();
    paths.iter().for_each(|path| fs::write(path, path.display().to_string()).unwrap());
    let spec = FileSource::all(&paths, Text::new());
    assert_eq!(spec.describe(), "2 files");
    for (partition, path) in paths.iter().enumerate() {
        let mut shard = Shard::alone();
        let mut lines = open(&spec, partition, &shard.cx).unwrap();
        assert_eq!(shard.read(&mut lines, 9).unwrap().records, [path.display().to_string()]);
    }
    assert!(spec.open(&PartitionId::new("c"), &Shard::alone().cx).is_err());
}

#[test]
fn what_cannot_be_opened_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |path: &Path| {
        open(&FileSource::new(path, Text::new()), 0, &Shard::alone().cx).err().unwrap().to_string()
    };
    let text = refused(&directory.path().join("missing"));
    assert!(text.contains("missing: is not there: check the path"), "{text}");
    let text = refused(directory.path());
    assert!(text.ends_with("is a directory: name the files in it"), "{text}");
}

#[test]
fn a_read_error_names_the_byte() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            match self.0 {
                1 => Err(io::ErrorKind::Interrupted.into()),
                2 => {
                    buffer[..5].copy_from_slice(b"a\nb\nc");
                    Ok(5)
                }
                _ => Err(io::Error::other("the card was pulled out")),
            }
        }
    }
    let mut shard = Shard::alone();
    let x = FileSource::new("x", Text::new()).line_bytes_max(10);
    let open: Open = Box::new(|| Ok(Box::new(Stream(Box::new(Broken(0))))));
    let opening = Opening { open, is_file: false, alive: None };
    let mut lines = Lines::open(Path::new("x"), opening, None, &x, &shard.cx).unwrap();
    let mut all = Emitted::default();
    let refused = loop {
        match lines.poll(Timestamp::default(), 10, &mut all) {
            Ok(status) => {
                assert_eq!(status, SourceStatus::Waiting(None));
                shard.wait();
            }
            Err(refused) => break refused.to_string(),
        }
    };
    assert_eq!(refused, "file x: cannot be read on from byte 5: the card was pulled out");
    assert_eq!(all.records, ["a", "b"]);
}

#[test]
fn a_reading_thread_that_panics_is_no_end_of_file() {
    let mut shard = Shard::alone();
    let x = FileSource::new("x", Text::new()).line_bytes_max(10);
    let open: Open = Box::new(|| std::panic::resume_unwind(Box::new("on purpose")));
    let opening = Opening { open, is_file: false, alive: None };
    let mut lines = Lines::open(Path::new("x"), opening, None, &x, &shard.cx).unwrap();
    let refused = shard.read(&mut lines, 1).err().unwrap().to_string();
    assert_eq!(refused, "file x: its reading thread panicked");
}

/// Goal: no wake-up is lost, and a line is there soon after it was written, long before its block
/// is full.
#[test]
fn a_slow_pipe_wakes_the_shard_for_every_line() {
    const LINES: usize = 300;
    let directory = tempfile::tempdir().unwrap();
    let path = fifo(directory.path());
    let mut shard = Shard::alone();
    let mut lines = open(&FileSource::new(&path, Text::new()), 0, &shard.cx).unwrap();
    let writer = thread::spawn(move || {
        let mut pipe = fs::OpenOptions::new().write(true).open(path).unwrap();
        for n in 0..LINES {
            // In two pieces, so that lines are cut everywhere.
            write!(pipe, "{n} half").unwrap();
            if n % 3 == 0 {
                thread::sleep(Duration::from_micros(300));
            }
            writeln!(pipe, " line").unwrap();
        }
    });
    let start = Instant::now();
    let all = shard.read(&mut lines, 4).unwrap();
    assert!(start.elapsed() < crate::testing::LOST);
    writer.join().unwrap();
    let expected: Vec<_> = (0..LINES).map(|n| format!("{n} half line")).collect();
    assert_eq!(all.records, expected);
}

/// Method: a shard that is faster than the pipe, so that it polls at every moment there is.
#[test]
fn a_pipe_at_full_speed_loses_no_wake_up() {
    const LINES: usize = 200_000;
    let directory = tempfile::tempdir().unwrap();
    let path = fifo(directory.path());
    let mut shard = Shard::alone();
    let mut lines = open(&FileSource::new(&path, Text::new()), 0, &shard.cx).unwrap();
    let writer = thread::spawn(move || {
        let mut pipe = io::BufWriter::with_capacity(
            700,
            fs::OpenOptions::new().write(true).open(path).unwrap(),
        );
        (0..LINES).for_each(|n| writeln!(pipe, "{n}").unwrap());
    });
    let all = shard.read(&mut lines, 64).unwrap();
    writer.join().unwrap();
    assert!(all.records.iter().enumerate().all(|(n, line)| line.parse() == Ok(n)));
    assert_eq!(all.records.len(), LINES);
}

#[test]
fn a_stop_emits_what_was_handed_over_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = fifo(directory.path());
    let mut shard = Shard::alone();
    let mut lines = open(&FileSource::new(&path, Text::new()), 0, &shard.cx).unwrap();
    let mut pipe = fs::OpenOptions::new().write(true).open(&path).unwrap();
    pipe.write_all(b"a\nb\nc\ntorn").unwrap();
    shard.wait();
    let mut all = Emitted::default();
    assert_eq!(lines.poll(0i64.into(), 1, &mut all).unwrap(), SourceStatus::Ready);
    lines.stop();
    // The pipe is still open, and yet it ends.
    assert_eq!(lines.poll(0i64.into(), 9, &mut all).unwrap(), SourceStatus::Ended);
    assert_eq!(all.records, ["a", "b", "c"]);

    // A file that is far from read through ends as well.
    let path = directory.path().join("long");
    fs::write(&path, "line\n".repeat(2_000_000)).unwrap();
    let mut shard = Shard::alone();
    let mut lines = open(&FileSource::new(&path, Text::new()), 0, &shard.cx).unwrap();
    shard.wait();
    lines.stop();
    let all = shard.read(&mut lines, 1000).unwrap();
    assert!((1..2_000_000).contains(&all.records.len()), "{}", all.records.len());
}

/// Method: a small file with empty, overlong and torn lines is left after every number of polls. The next run
/// goes on from the position that was noted. Together they emit what one reading does.
#[test]
fn a_file_is_read_on_from_where_it_was_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.txt");
    let long = "x".repeat(BLOCK_BYTES + 50);
    let content = format!("a\n\nb\r\n{long}\r\nc\n{long}\nd\n\n\ne");
    fs::write(&path, &content).unwrap();
    let spec = FileSource::new(&path, Text::new()).line_bytes_max(100);
    let whole = read(&spec, 10);
    assert_eq!((whole.records.join(""), whole.letters.len()), ("abcde".into(), 2));
    for polls in 0..12 {
        let mut shard = Shard::alone();
        let mut first = open(&spec, 0, &shard.cx).unwrap();
        let mut emitted = Emitted::default();
        for _ in 0..polls {
            while let SourceStatus::Waiting(_) =
                first.poll(Timestamp::default(), 1, &mut emitted).unwrap()
            {
                shard.wait();
            }
        }
        let mut position = Vec::new();
        first.snapshot(Epoch::new(1), &mut position);
        let mut shard = Shard::alone();
        shard.cx.durability.position = Some(position.into());
        let mut second = open(&spec, 0, &shard.cx).unwrap();
        let rest = shard.read(&mut second, 3).unwrap();
        let records = [emitted.records, rest.records].concat();
        let offsets = [emitted.offsets, rest.offsets].concat();
        assert_eq!((records, offsets), (whole.records.clone(), whole.offsets.clone()), "{polls}");
        assert_eq!(emitted.letters.len() + rest.letters.len(), 2, "{polls}");
    }
    let mut shard = Shard::alone();
    let refused = |shard: &Shard| {
        let Err(error) = open(&spec, 0, &shard.cx) else { panic!("opened") };
        error.to_string()
    };
    let other = [1_u64.to_le_bytes(), hash_of(Path::new("other"))].concat();
    shard.cx.durability.position = Some(other.into());
    assert!(refused(&shard).contains("another file"));
}

/// A line's words, each a record; `-` is no word.
#[derive(Clone)]
struct Words;

impl Decode for Words {
    type Item = String;

    fn decode(&mut self, _: &Message<'_>) -> Result<String, DecodeError> {
        Err(DecodeError::new(Cause::WrongType, "a line of words", None))
    }

    fn decode_each(
        &mut self,
        message: &Message<'_>,
        mut each: impl FnMut(Result<String, DecodeError>),
    ) {
        let line = String::from_utf8_lossy(message.payload);
        for word in line.split(' ').filter(|word| *word != "-") {
            let refused = || DecodeError::new(Cause::Malformed, "a bad word", None);
            each(if word == "bad" { Err(refused()) } else { Ok(word.to_owned()) });
        }
    }
}

/// Goal: a line that holds several records counts as read when all of them are emitted, however few a poll may emit.
#[test]
fn the_records_of_a_line_are_emitted_together() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.txt");
    fs::write(&path, "a b c\n-\nd bad e\n- -\nf\n-\n").unwrap();
    let spec = FileSource::new(&path, Words);
    let whole: [&[&str]; 7] = [
        &[],
        &["a", "b", "c"],
        &["a", "b", "c"],
        &["a", "b", "c", "d", "e"],
        &["a", "b", "c", "d", "e"],
        &["a", "b", "c", "d", "e", "f"],
        &["a", "b", "c", "d", "e", "f"],
    ];
    for (polls, first) in whole.into_iter().enumerate() {
        let mut shard = Shard::alone();
        let mut lines = open(&spec, 0, &shard.cx).unwrap();
        let mut emitted = Emitted::default();
        for _ in 0..polls {
            while let SourceStatus::Waiting(_) =
                lines.poll(Timestamp::default(), 1, &mut emitted).unwrap()
            {
                shard.wait();
            }
        }
        assert_eq!(emitted.records, first, "{polls}");
        let mut position = Vec::new();
        lines.snapshot(Epoch::new(1), &mut position);
        let mut shard = Shard::alone();
        shard.cx.durability.position = Some(position.into());
        let mut rest = open(&spec, 0, &shard.cx).unwrap();
        while rest.poll(Timestamp::default(), 2, &mut emitted).unwrap() != SourceStatus::Ended {}
        assert_eq!(emitted.records, ["a", "b", "c", "d", "e", "f"], "{polls}");
        assert_eq!(emitted.letters.len(), 1, "{polls}");
    }
}

/// Goal: a position that has moved is told, also where a line holds no record.
#[test]
fn a_line_without_records_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = fifo(directory.path());
    let mut shard = Shard::alone();
    let mut lines = open(&FileSource::new(&path, Words), 0, &shard.cx).unwrap();
    let mut pipe = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut all = Emitted::default();
    for (text, status) in [
        ("-\n", SourceStatus::Ready),
        ("a\n", SourceStatus::Waiting(None)),
        ("- -\n-\n", SourceStatus::Ready),
    ] {
        pipe.write_all(text.as_bytes()).unwrap();
        shard.wait();
        assert_eq!(lines.poll(Timestamp::default(), 9, &mut all).unwrap(), status, "{text}");
        assert_eq!(
            lines.poll(Timestamp::default(), 9, &mut all).unwrap(),
            SourceStatus::Waiting(None)
        );
    }
    assert_eq!(all.records, ["a"]);
}

/// A shard of a job with state whose position of the file is this one.
fn resuming(position: &[u8]) -> Shard {
    let mut shard = Shard::alone();
    shard.cx.durability.checkpoints = true;
    if !position.is_empty() {
        shard.cx.durability.position = Some(position.to_vec().into());
    }
    shard
}

/// One run of a job with state: what it read, and where it has left the file.
fn run(spec: &FileSource<Text>, position: &mut Vec<u8>) -> Vec<String> {
    let mut shard = resuming(position);
    let mut lines = open(spec, 0, &shard.cx).unwrap();
    let read = shard.read(&mut lines, 3).unwrap();
    position.clear();
    lines.snapshot(Epoch::new(1), position);
    read.records
}

/// Goal: whatever happens to a file between two runs, each line is read once, and none is made of two halves.
#[test]
fn a_file_that_grows_is_renamed_cut_or_replaced_is_read_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.log");
    let append = |text: &str| {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let spec = FileSource::new(&path, Text::new());
    let mut position = Vec::new();
    append("head\na1\nha");
    assert_eq!(run(&spec, &mut position), ["head", "a1"]);
    append("lf\nb1");
    assert_eq!(run(&spec, &mut position), ["half"], "b1 may be half of a line");
    assert_eq!(run(&spec, &mut position), [""; 0]);
    assert_eq!(Position::read(Some(&position)).unwrap().line, 4);
    // Renamed, with a rest that nobody had read; the new file has the header of the old one.
    append("\nc1\nlast");
    fs::rename(&path, directory.path().join("in.log.1")).unwrap();
    append("head\nd1\n");
    assert_eq!(run(&spec, &mut position), ["b1", "c1", "last", "head", "d1"]);
    // Cut to less, and to more than it was.
    fs::write(&path, "e1\n").unwrap();
    assert_eq!(run(&spec, &mut position), ["e1"]);
    fs::write(&path, "f1\nf2\nf3\nf4\n").unwrap();
    assert_eq!(run(&spec, &mut position), ["f1", "f2", "f3", "f4"]);
    append("f5\n");
    assert_eq!(run(&spec, &mut position), ["f5"]);
    // Replaced by a file of that name, while the old one is gone.
    fs::remove_file(&path).unwrap();
    append("f1\ng2\ng3\ng4\ng5\ng6\n");
    assert_eq!(run(&spec, &mut position), ["f1", "g2", "g3", "g4", "g5", "g6"]);
    // A job without state has no next run.
    append("torn");
    assert_eq!(read(&spec, 9).records.last().unwrap(), "torn");
}

/// A log that is copied and then cut has its rest in the copy, which has another number on the disk.
#[test]
fn what_was_copied_before_the_file_was_cut_is_read_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.log");
    let spec = FileSource::new(&path, Text::new());
    let mut position = Vec::new();
    let long = "x".repeat(300);
    fs::write(&path, format!("{long}\na\n")).unwrap();
    assert_eq!(run(&spec, &mut position), [&long, "a"]);
    fs::write(directory.path().join("in.log.1"), format!("{long}\na\nb\n")).unwrap();
    // A file of another name is no copy.
    fs::write(directory.path().join("aside"), format!("{long}\na\nc\n")).unwrap();
    fs::write(&path, "d\n").unwrap();
    assert_eq!(run(&spec, &mut position), ["b", "d"]);
}

/// Method: the bytes of gzip and zstd are those of their programs.
#[test]
fn packed_files_are_read_and_gone_on_with_by_their_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.jsonl");
    let mut packed = Vec::new();
    // Two members, as `cat a.gz b.gz` makes them.
    for part in ["a\nb\n", "c\nd"] {
        let level = flate2::Compression::default();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
        encoder.write_all(part.as_bytes()).unwrap();
        packed.extend(encoder.finish().unwrap());
    }
    fs::write(&path, &packed).unwrap();
    let spec = FileSource::new(&path, Text::new());
    assert_eq!(read(&spec, 9).records, ["a", "b", "c", "d"]);
    for polls in 0..6 {
        let mut shard = resuming(&[]);
        let mut first = open(&spec, 0, &shard.cx).unwrap();
        let mut emitted = Emitted::default();
        for _ in 0..polls {
            while let SourceStatus::Waiting(_) = first.poll(0_i64.into(), 1, &mut emitted).unwrap()
            {
                shard.wait();
            }
        }
        let mut position = Vec::new();
        first.snapshot(Epoch::new(1), &mut position);
        let rest = run(&spec, &mut position);
        assert_eq!([emitted.records, rest].concat(), ["a", "b", "c", "d"], "{polls}");
    }
    // `printf 'x\\ny\\n' | zstd`, twice.
    let frame = [
        0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x58, 0x21, 0, 0, b'x', b'\n', b'y', b'\n', 0xaf, 0x05, 0x1a,
        0xad,
    ];
    fs::write(&path, [frame, frame].concat()).unwrap();
    assert_eq!(read(&spec, 9).records, ["x", "y", "x", "y"]);
    fs::write(&path, &packed[..packed.len() - 9]).unwrap();
    let mut shard = Shard::alone();
    let mut lines = open(&spec, 0, &shard.cx).unwrap();
    let error = shard.read(&mut lines, 9).err().unwrap();
    assert!(error.lasting && error.to_string().contains("its end is missing"), "{error}");
}

#[test]
fn what_has_no_lines_is_refused_by_its_name_and_a_mark_is_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.jsonl");
    let spec = FileSource::new(&path, Text::new());
    fs::write(&path, b"\xef\xbb\xbfa\nb\n").unwrap();
    let marked = read(&spec, 9);
    assert_eq!((marked.records, marked.offsets), (vec!["a".into(), "b".into()], vec![3, 5]));
    for (bytes, what) in [(&b"\xff\xfea\0"[..], "UTF-16"), (b"[\n{},\n{}\n]", "JSON array")] {
        fs::write(&path, bytes).unwrap();
        let mut shard = Shard::alone();
        let mut lines = open(&spec, 0, &shard.cx).unwrap();
        let error = shard.read(&mut lines, 9).err().unwrap();
        assert!(error.lasting && error.to_string().contains(what), "{error}");
    }
}

/// Polls until `count` lines have come.
fn until(shard: &mut Shard, lines: &mut Lines<Text>, all: &mut Emitted<String>, count: usize) {
    while all.records.len() < count {
        if let SourceStatus::Waiting(pause) = lines.poll(0_i64.into(), 9, all).unwrap() {
            assert_eq!(pause, None, "an idle source has no timer");
            if all.records.len() < count {
                shard.wait();
            }
        }
    }
}

/// Goal: a file that is followed gives each line soon and once, whatever becomes of it, and its thread ends with it.
#[test]
fn a_file_that_is_followed_gives_what_is_appended_renamed_and_cut() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.log");
    let append = |text: &str| {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let mut shard = resuming(&[]);
    // It is not there yet.
    let spec = FileSource::new(&path, Text::new()).follow();
    let mut lines = open(&spec, 0, &shard.cx).unwrap();
    let mut all = Emitted::default();
    append("a1\na2\nha");
    until(&mut shard, &mut lines, &mut all, 2);
    append("lf\n");
    until(&mut shard, &mut lines, &mut all, 3);
    fs::rename(&path, directory.path().join("in.log.1")).unwrap();
    append("b1\n");
    until(&mut shard, &mut lines, &mut all, 4);
    // Copied and cut, and filled to more than it was.
    fs::write(&path, "c1 is longer than b1\n").unwrap();
    until(&mut shard, &mut lines, &mut all, 5);
    append("c2\n");
    until(&mut shard, &mut lines, &mut all, 6);
    assert_eq!(all.records, ["a1", "a2", "half", "b1", "c1 is longer than b1", "c2"]);
    let mut position = Vec::new();
    lines.snapshot(Epoch::new(1), &mut position);
    let position = Position::read(Some(&position)).unwrap();
    assert_eq!((position.offset, position.line), (24, 3));
    lines.stop();
    assert_eq!(lines.poll(0_i64.into(), 9, &mut all).unwrap(), SourceStatus::Ended);
    let pieces = lines.pieces.clone();
    drop(lines);
    // The thread's end closes the queue.
    let begun = Instant::now();
    while !pieces.is_disconnected() {
        assert!(begun.elapsed() < crate::testing::LOST, "its thread waits on");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Appends to a file.
fn add(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Goal: a daemon that writes on to its renamed file, until it is told, loses no line and tears none.
#[test]
fn what_is_written_to_a_renamed_file_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (path, old) = (directory.path().join("in.log"), directory.path().join("in.log.1"));
    let mut shard = resuming(&[]);
    let spec = FileSource::new(&path, Text::new()).follow();
    add(&path, "a1\nha");
    let mut lines = open(&spec, 0, &shard.cx).unwrap();
    let mut all = Emitted::default();
    until(&mut shard, &mut lines, &mut all, 1);
    fs::rename(&path, &old).unwrap();
    add(&path, "b1\n");
    // The thread has found the new file by the time at which it wakes the shard for this line.
    add(&old, "lf\n");
    until(&mut shard, &mut lines, &mut all, 2);
    add(&old, "a3\n");
    until(&mut shard, &mut lines, &mut all, 4);
    assert_eq!(all.records, ["a1", "half", "a3", "b1"]);
}

/// Goal: a copy with more lines, as an editor or `rsync` puts it there, is read on and not again.
#[test]
fn a_longer_copy_is_read_on_from_where_the_file_was_left() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.path().join("in.log"), directory.path().join(".copy"));
    let first = "x".repeat(300);
    add(&path, &format!("{first}\nha"));
    let mut shard = resuming(&[]);
    let mut lines = open(&FileSource::new(&path, Text::new()).follow(), 0, &shard.cx).unwrap();
    let mut all = Emitted::default();
    until(&mut shard, &mut lines, &mut all, 1);
    fs::write(&copy, format!("{first}\nhalf\nmore\n")).unwrap();
    fs::rename(&copy, &path).unwrap();
    until(&mut shard, &mut lines, &mut all, 3);
    add(&path, "last\n");
    until(&mut shard, &mut lines, &mut all, 4);
    assert_eq!(all.records, [first.as_str(), "half", "more", "last"]);
    let mut position = Vec::new();
    lines.snapshot(Epoch::new(1), &mut position);
    let position = Position::read(Some(&position)).unwrap();
    assert_eq!((position.offset, position.line), (316, 5));
}

/// Goal: what is behind a symbolic link is renamed in a folder of its own, and the link is turned to another file.
#[test]
fn a_file_behind_a_link_is_followed_over_its_renaming() {
    let directory = tempfile::tempdir().unwrap();
    let far = tempfile::tempdir().unwrap();
    let (path, real) = (directory.path().join("in.log"), far.path().join("real.log"));
    add(&real, "a1\n");
    std::os::unix::fs::symlink(&real, &path).unwrap();
    let mut shard = resuming(&[]);
    let mut lines = open(&FileSource::new(&path, Text::new()).follow(), 0, &shard.cx).unwrap();
    let mut all = Emitted::default();
    until(&mut shard, &mut lines, &mut all, 1);
    fs::rename(&real, far.path().join("real.log.1")).unwrap();
    add(&real, "b1\n");
    until(&mut shard, &mut lines, &mut all, 2);
    assert_eq!(all.records, ["a1", "b1"]);
}

/// Goal: one file of a folder that cannot be read is a letter, and the job reads the others.
#[test]
fn a_bad_file_of_a_folder_is_a_dead_letter() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.gz");
    let spec = FileSource::matching(directory.path().join("*"), Text::new());
    for (bytes, why) in [(&b"\xff\xfea\0"[..], "UTF-16"), (b"\x1f\x8b\x08\0\0\0\0\0", "damaged")] {
        fs::write(&path, bytes).unwrap();
        let mut shard = Shard::alone();
        let mut lines = spec.open(&id(&path), &shard.cx).unwrap();
        let read = shard.read(&mut lines, 9).unwrap();
        let [letter] = &read.letters[..] else { panic!("{} letters", read.letters.len()) };
        assert_eq!((letter.cause, &*letter.topic), (Cause::Malformed, path.to_str().unwrap()));
        assert!(letter.reason.contains(why), "{}", letter.reason);
        assert!(read.records.is_empty());
    }
}
