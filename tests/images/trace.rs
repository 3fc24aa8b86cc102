//! Reads what `strace -f -y -xx` wrote: every change of files below a directory, every sync, and every line that
//! the traced process said. They come in the order in which they began and ended.
//!
//! A call is between its two line numbers: where threads are interleaved, strace prints its beginning
//! (`<unfinished ...>`) and its end (`resumed`) apart. Calls that failed changed nothing and are left out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The calls to trace.
pub(crate) const CALLS: &str = "trace=openat,open,creat,lseek,pwrite64,pwritev,pwritev2,write,writev,fdatasync,fsync,\
                                sync_file_range,msync,fallocate,ftruncate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir";

/// A file, whatever its name.
pub(crate) type Inode = usize;

/// What a call did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// A new, empty file.
    Create(PathBuf, Inode),
    /// A new directory.
    Mkdir(PathBuf),
    /// Bytes were written; `durably`, if the file is open with `O_DSYNC`.
    Write { file: Inode, offset: u64, bytes: Vec<u8>, durably: bool },
    /// The length was set.
    Truncate(Inode, u64),
    /// Room was reserved: zeros, and the length if it was shorter.
    Allocate { file: Inode, offset: u64, length: u64 },
    /// A file was made durable.
    Sync(Inode),
    /// The names in a directory were made durable.
    SyncDir(PathBuf),
    /// A file has another name.
    Rename(PathBuf, PathBuf),
    /// A name is gone.
    Unlink(PathBuf),
    /// The process said something.
    Said(String),
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// The line at which it began.
    pub(crate) begun: usize,
    /// The line at which it ended.
    pub(crate) ended: usize,
    pub(crate) op: Op,
}

/// The trace of what happened below `dir`.
pub(crate) fn parse(text: &str, dir: &Path) -> Result<Vec<Event>> {
    let mut reader = Reader {
        dir,
        events: Vec::new(),
        unfinished: HashMap::new(),
        inodes: 0,
        names: HashMap::new(),
        durably: HashMap::new(),
        positions: HashMap::new(),
    };
    for (number, line) in text.lines().enumerate() {
        reader.line(number, line).with_context(|| {
            let shown: String = line.chars().take(200).collect();
            format!("line {} of the trace: {shown}", number + 1)
        })?;
    }
    reader.events.sort_by_key(|event| event.begun);
    Ok(reader.events)
}

struct Reader<'a> {
    dir: &'a Path,
    events: Vec<Event>,
    /// Calls of each thread that have begun.
    unfinished: HashMap<&'a str, (usize, &'a str)>,
    inodes: usize,
    names: HashMap<PathBuf, Inode>,
    /// Whether each open file is written durably.
    durably: HashMap<u64, bool>,
    /// Where `write` goes on in each open file.
    positions: HashMap<u64, u64>,
}

impl<'a> Reader<'a> {
    fn line(&mut self, number: usize, line: &'a str) -> Result<()> {
        let Some((thread, call)) = line.split_once(' ') else { return Ok(()) };
        let call = call.trim_start();
        if call.starts_with("+++") || call.starts_with("---") {
            return Ok(());
        }
        if let Some(head) = call.strip_suffix(" <unfinished ...>") {
            self.unfinished.insert(thread, (number, head));
            return Ok(());
        }
        if call.starts_with("<... ") {
            let (_, tail) = call.split_once(" resumed>").context("no end of a call")?;
            let (begun, head) = self.unfinished.remove(thread).context("it never began")?;
            return self.call(begun, number, &format!("{head}{tail}"));
        }
        self.call(number, number, call)
    }

    fn call(&mut self, begun: usize, ended: usize, call: &str) -> Result<()> {
        let (name, rest) = call.split_once('(').context("not a call")?;
        let (arguments, result) = rest.rsplit_once(") ").context("a call without its result")?;
        let result = result.trim_start().strip_prefix("= ").context("no result")?;
        if result.starts_with(['-', '?']) {
            return Ok(());
        }
        let arguments = split(arguments);
        let argument = |at: usize| arguments.get(at).copied().context("an argument is missing");
        let op = match name {
            "openat" => self.open(argument(1)?, argument(2)?, result)?,
            "open" => self.open(argument(0)?, argument(1)?, result)?,
            "creat" => self.open(argument(0)?, "O_CREAT|O_TRUNC", result)?,
            "pwrite64" => {
                let (bytes, offset) = (string(argument(1)?)?, argument(3)?.parse()?);
                self.write(argument(0)?, bytes, Some(offset), result)?
            }
            "pwritev" | "pwritev2" => {
                let (bytes, offset) = (vectors(argument(1)?)?, argument(3)?.parse()?);
                self.write(argument(0)?, bytes, Some(offset), result)?
            }
            "write" => self.write(argument(0)?, string(argument(1)?)?, None, result)?,
            "writev" => self.write(argument(0)?, vectors(argument(1)?)?, None, result)?,
            "fdatasync" | "fsync" => {
                let path = opened(argument(0)?)?.1;
                match self.names.get(&path) {
                    Some(&file) => Some(Op::Sync(file)),
                    None if path.starts_with(self.dir) => Some(Op::SyncDir(path)),
                    None => None,
                }
            }
            "ftruncate" => {
                let length = argument(1)?.parse()?;
                self.file(argument(0)?)?.map(|file| Op::Truncate(file, length))
            }
            "fallocate" => {
                let (offset, length) = (argument(2)?.parse()?, argument(3)?.parse()?);
                let file = self.file(argument(0)?)?;
                match argument(1)? {
                    "0" => file.map(|file| Op::Allocate { file, offset, length }),
                    // Room only: nothing that could be read is another.
                    "FALLOC_FL_KEEP_SIZE" => None,
                    mode => bail!("fallocate is not known here with {mode}"),
                }
            }
            "rename" => self.rename(path(argument(0)?)?, path(argument(1)?)?),
            "renameat" | "renameat2" => self.rename(path(argument(1)?)?, path(argument(3)?)?),
            "unlink" => self.unlink(path(argument(0)?)?),
            "unlinkat" => self.unlink(path(argument(1)?)?),
            "mkdir" => self.mkdir(path(argument(0)?)?),
            "mkdirat" => self.mkdir(path(argument(1)?)?),
            "lseek" => {
                self.positions.insert(opened(argument(0)?)?.0, result.parse()?);
                None
            }
            // Whoever begins to use these has to teach this reader what they promise.
            _ => match arguments.iter().find_map(|a| opened(a).ok()) {
                Some((_, path)) if path.starts_with(self.dir) => {
                    bail!("the call {name} is not known here")
                }
                _ => None,
            },
        };
        self.events.extend(op.map(|op| Event { begun, ended, op }));
        Ok(())
    }

    fn open(&mut self, name: &str, flags: &str, result: &str) -> Result<Option<Op>> {
        let name = path(name)?;
        let (number, _) = opened(result)?;
        let has = |flag: &str| flags.split('|').any(|known| known == flag);
        self.durably.insert(number, has("O_DSYNC") || has("O_SYNC"));
        self.positions.insert(number, 0);
        if !name.starts_with(self.dir) {
            return Ok(None);
        }
        match self.names.get(&name) {
            Some(&file) => Ok(has("O_TRUNC").then_some(Op::Truncate(file, 0))),
            None if has("O_CREAT") => {
                self.inodes += 1;
                self.names.insert(name.clone(), self.inodes);
                Ok(Some(Op::Create(name, self.inodes)))
            }
            // A directory.
            None => Ok(None),
        }
    }

    fn file(&self, descriptor: &str) -> Result<Option<Inode>> {
        Ok(self.names.get(&opened(descriptor)?.1).copied())
    }

    fn write(
        &mut self,
        descriptor: &str,
        mut bytes: Vec<u8>,
        offset: Option<u64>,
        result: &str,
    ) -> Result<Option<Op>> {
        bytes.truncate(result.parse()?);
        let (number, _) = opened(descriptor)?;
        if number == 1 {
            return Ok(Some(Op::Said(String::from_utf8(bytes)?)));
        }
        let Some(file) = self.file(descriptor)? else { return Ok(None) };
        let offset = match offset {
            Some(offset) => offset,
            None => {
                let position = self.positions.entry(number).or_default();
                *position += bytes.len() as u64;
                *position - bytes.len() as u64
            }
        };
        let durably = self.durably.get(&number).copied().unwrap_or_default();
        Ok(Some(Op::Write { file, offset, bytes, durably }))
    }

    fn rename(&mut self, from: PathBuf, to: PathBuf) -> Option<Op> {
        let file = self.names.remove(&from)?;
        self.names.insert(to.clone(), file);
        Some(Op::Rename(from, to))
    }

    fn unlink(&mut self, name: PathBuf) -> Option<Op> {
        self.names.remove(&name)?;
        Some(Op::Unlink(name))
    }

    fn mkdir(&self, name: PathBuf) -> Option<Op> {
        name.starts_with(self.dir).then_some(Op::Mkdir(name))
    }
}

/// Arguments, at the commas outside of brackets and strings. (Strings are all hex: no quote is within one.)
fn split(arguments: &str) -> Vec<&str> {
    let (mut parts, mut from, mut depth, mut quoted) = (Vec::new(), 0, 0, false);
    for (at, byte) in arguments.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'[' | b'{' | b'<' if !quoted => depth += 1,
            b']' | b'}' | b'>' if !quoted => depth -= 1,
            b',' if depth == 0 && !quoted => {
                parts.push(arguments[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(arguments[from..].trim());
    parts
}

/// The bytes of `\x01\x02`.
fn hex(text: &str) -> Result<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let bytes = text.as_bytes().chunks(4).map(|chunk| match chunk {
        &[b'\\', b'x', high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    bytes.collect::<Option<_>>().context("not a string in hex")
}

/// The bytes of a quoted string, which must not have been cut off.
fn string(text: &str) -> Result<Vec<u8>> {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    hex(inner.context("not a whole string")?)
}

fn path(text: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(String::from_utf8(string(text)?)?))
}

/// The bytes of `[{iov_base="..", iov_len=1}, ..]`.
fn vectors(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((_, from)) = rest.split_once("iov_base=\"") {
        let (inner, behind) = from.split_once('"').context("a string without an end")?;
        if behind.starts_with("...") {
            bail!("strace has cut a string off");
        }
        bytes.extend(hex(inner)?);
        rest = behind;
    }
    Ok(bytes)
}

/// The number and the path of `3</path>`.
fn opened(text: &str) -> Result<(u64, PathBuf)> {
    let (number, name) = text.split_once('<').context("a file without its path")?;
    let (name, _) = name.split_once('>').context("a path without an end")?;
    // Pipes and the like are no hex.
    let name = hex(name).ok().and_then(|name| String::from_utf8(name).ok()).unwrap_or_default();
    Ok((number.trim().parse()?, PathBuf::from(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hexed(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    #[test]
    fn calls_of_several_threads_are_put_together() {
        let (dir, a, b) = (hexed("/d"), hexed("/d/a"), hexed("/d/b"));
        let text = format!(
            "10 openat(AT_FDCWD<{dir}>, \"{a}\", O_RDWR|O_CREAT|O_DSYNC, 0644) = 3<{a}>\n\
             10 pwrite64(3<{a}>, \"\\x01\\x02\", 2, 512 <unfinished ...>\n\
             11 fsync(4<{dir}> <unfinished ...>\n\
             10 <... pwrite64 resumed>)          = 2\n\
             11 <... fsync resumed>)             = 0\n\
             10 pwritev(3<{a}>, [{{iov_base=\"\\x03\", iov_len=1}}, {{iov_base=\"\\x04\", iov_len=1}}], 2, 0) = 2\n\
             10 lseek(3<{a}>, 7, SEEK_SET) = 7\n\
             10 writev(3<{a}>, [{{iov_base=\"\\x05\", iov_len=1}}], 1) = 1\n\
             10 rename(\"{a}\", \"{b}\") = 0\n\
             10 rename(\"{a}\", \"{b}\") = -1 ENOENT (No such file or directory)\n\
             10 fdatasync(3<{b}>) = 0\n\
             10 write(1<pipe:[7]>, \"{}\", 3) = 3\n\
             10 +++ exited with 0 +++\n",
            hexed("hi\n")
        );
        let events = parse(&text, Path::new("/d")).unwrap();
        let event = |begun, ended, op| Event { begun, ended, op };
        let write = |offset, bytes: &[u8]| Op::Write {
            file: 1,
            offset,
            bytes: bytes.to_vec(),
            durably: true,
        };
        let expected = [
            event(0, 0, Op::Create("/d/a".into(), 1)),
            event(1, 3, write(512, &[1, 2])),
            event(2, 4, Op::SyncDir("/d".into())),
            event(5, 5, write(0, &[3, 4])),
            event(7, 7, write(7, &[5])),
            event(8, 8, Op::Rename("/d/a".into(), "/d/b".into())),
            event(10, 10, Op::Sync(1)),
            event(11, 11, Op::Said("hi\n".into())),
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn a_string_that_was_cut_off_is_an_error() {
        let a = hexed("/d/a");
        let open = format!("10 open(\"{a}\", O_RDWR|O_CREAT, 0644) = 3<{a}>");
        let text = format!("{open}\n10 pwrite64(3<{a}>, \"\\x01\"..., 2, 0) = 2");
        assert!(parse(&text, Path::new("/d")).is_err());
    }
}
