//! Files and standard output.
//!
//! | module | what it does |
//! |---|---|
//! | [`source`] | [`FileSource`]: lines of files, of named pipes and of standard input |
//! | [`sink`] | [`FileSink`]: one line per record into one file, from all shards |
//! | [`rolling`] | [`RollingFiles`]: part files in a directory, exactly once |
//! | [`stdout`] | [`StdoutSink`]: a table on a terminal, JSON lines in a pipe |
//! | [`connector`] | what they are as connectors, and what they can be told |
//! | `folder` | the thread that looks for files of a source which appear while the job runs |
//! | `content` | what a file holds, by its first bytes |
//! | `position` | where a file is to be read on, as it is stored, and which file that is |
//! | `reader` | the thread behind each partition of a source |
//! | `tail` | the bytes of a path, over all that becomes of it |
//! | `unzstd` | zstd frames, unpacked |
//! | `watch` | waiting for a file to grow or to be replaced |
//! | `egress` | the I/O thread that both sinks share their code for |
//!
//! Threads of this crate do all reading and writing, since it may take as long as it pleases. Shards meet them in
//! queues of blocks and never wait.

pub mod connector;
mod content;
mod egress;
mod folder;
mod position;
mod reader;
pub mod rolling;
pub mod sink;
pub mod source;
pub mod stdout;
mod table;
mod tail;
#[cfg(test)]
mod testing;
mod unzstd;
mod watch;

pub use connector::{FileConnector, FilesConnector, StdoutConnector};
pub use folder::FILES_OPEN_MAX;
pub use rolling::RollingFiles;
pub use sink::FileSink;
pub use source::FileSource;
pub use stdout::StdoutSink;
