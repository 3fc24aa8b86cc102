//! What files and standard output are as connectors: `file`, `files` and `stdout`.

use std::path::PathBuf;
use std::time::Duration;

use thalweg_kernel::connector::{
    Access, Connector, Decoder, Encoder, Format, Guarantee, Side, SinkConnector, SourceConnector,
    UsedPath,
};
use thalweg_kernel::{Column, ConfigError, Record, options};

use crate::rolling::{ROLL_AFTER, ROLL_BYTES, RollingFiles};
use crate::sink::FileSink;
use crate::source::{FileSource, LINE_BYTES_MAX};
use crate::stdout::StdoutSink;

/// What a file is.
pub static FILE: Connector = Connector {
    name: "file",
    about: "Lines of files, of named pipes and of standard input; or one file, a line for each record.",
    source: Some(Side::new::<FileSourceOptions>(&[
        (Guarantee::ExactlyOnce, "from files that only grow, in a job with a state directory"),
        (Guarantee::AtMostOnce, "from pipes and standard input"),
    ])),
    sink: Some(Side::new::<FileSinkOptions>(&[(Guarantee::AtLeastOnce, "always")])),
};

/// What a directory of part files is.
pub static FILES: Connector = Connector {
    name: "files",
    about: "A directory of files that never change once they can be seen.",
    source: None,
    sink: Some(Side::new::<FilesOptions>(&[
        (Guarantee::ExactlyOnce, "in a job with a state directory"),
        (Guarantee::AtLeastOnce, "without one, and with `at_least_once`"),
    ])),
};

/// What standard output is.
pub static STDOUT: Connector = Connector {
    name: "stdout",
    about: "Standard output: a table on a terminal, JSON lines in a pipe.",
    source: None,
    sink: Some(Side::new::<()>(&[(Guarantee::AtLeastOnce, "always")])),
};

options! {
    /// Which files are read.
    #[derive(Clone, Debug)]
    pub struct FileSourceOptions {
        /// The files, each read to its end; `-` is standard input. What is packed by gzip or zstd is unpacked.
        #[example = "[\"readings.jsonl\"]"]
        paths: Vec<PathBuf>,
        /// Whether more is waited for at the end of each file, as `tail -F` does. A file may be not there yet, or
        /// renamed or cut. Then the job goes on until it is stopped.
        follow: bool = false,
        /// Longer lines become dead letters.
        #[unit = "bytes"]
        #[range(1, u64::MAX)]
        line_bytes_max: usize = LINE_BYTES_MAX,
    }
}

options! {
    /// Which file is written.
    #[derive(Clone, Debug)]
    pub struct FileSinkOptions {
        /// The file.
        #[example = "averages.csv"]
        path: PathBuf,
        /// How records are written.
        #[absent = "`csv` if the name ends in `.csv`, else `json`"]
        format: Option<Format>,
        /// Whether what the file holds is kept. Without it the file is emptied at the start, unless the job goes on from
        /// its state.
        append: bool = false,
    }
}

options! {
    /// Which directory is filled, and when a file is whole.
    #[derive(Clone, Debug)]
    pub struct FilesOptions {
        /// The directory; it is made if it is not there.
        #[example = "averages"]
        dir: PathBuf,
        /// How records are written.
        format: Format = Format::Json,
        /// A file is whole at this size.
        #[unit = "bytes"]
        #[range(1, u64::MAX)]
        roll_bytes: u64 = ROLL_BYTES,
        /// A file is whole at this age.
        #[range(1, u64::MAX)]
        roll_after: Duration = ROLL_AFTER,
        /// A file is whole when it got no line for this long.
        #[range(1, u64::MAX)]
        roll_idle: Duration = ROLL_AFTER,
        /// Whether a file is seen as soon as it is whole, also in a job with a state directory.
        at_least_once: bool = false,
    }
}

/// The connector `file`, for a registry.
#[derive(Debug)]
pub struct FileConnector(());

impl SourceConnector for FileConnector {
    const CONNECTOR: &'static Connector = &FILE;
    type Options = FileSourceOptions;
    type Source<D: Decoder> = FileSource<D>;

    fn source<D: Decoder>(
        options: FileSourceOptions,
        decoder: D,
    ) -> Result<FileSource<D>, ConfigError> {
        if options.paths.is_empty() {
            return Err(ConfigError::new("paths", "[]", "at least one file"));
        }
        let files = FileSource::all(options.paths, decoder).line_bytes_max(options.line_bytes_max);
        Ok(if options.follow { files.follow() } else { files })
    }

    fn paths(options: &FileSourceOptions) -> Vec<UsedPath> {
        let read =
            |path: &PathBuf| UsedPath { key: "paths", path: path.clone(), access: Access::Reads };
        options.paths.iter().map(read).collect()
    }
}

impl SinkConnector for FileConnector {
    const CONNECTOR: &'static Connector = &FILE;
    type Options = FileSinkOptions;
    type Sink<T: Record, E: Encoder<T>> = FileSink<E>;

    fn sink<T: Record, E: Encoder<T>>(
        options: FileSinkOptions,
        _: &[Column],
    ) -> Result<FileSink<E>, ConfigError> {
        let is_csv = options.path.extension().is_some_and(|end| end == "csv");
        let format = options.format.unwrap_or(if is_csv { Format::Csv } else { Format::Json });
        let sink = FileSink::new(options.path, E::of(format));
        Ok(if options.append { sink.append() } else { sink })
    }

    fn paths(options: &FileSinkOptions) -> Vec<UsedPath> {
        vec![UsedPath { key: "path", path: options.path.clone(), access: Access::Writes }]
    }
}

/// The connector `files`, for a registry.
#[derive(Debug)]
pub struct FilesConnector(());

impl SinkConnector for FilesConnector {
    const CONNECTOR: &'static Connector = &FILES;
    type Options = FilesOptions;
    type Sink<T: Record, E: Encoder<T>> = RollingFiles<E>;

    fn sink<T: Record, E: Encoder<T>>(
        options: FilesOptions,
        _: &[Column],
    ) -> Result<RollingFiles<E>, ConfigError> {
        let suffix = match options.format {
            Format::Json => ".jsonl",
            Format::Csv => ".csv",
        };
        let files = RollingFiles::new(options.dir, E::of(options.format))
            .suffix(suffix)
            .roll_bytes(options.roll_bytes)
            .roll_after(options.roll_after)
            .roll_idle(options.roll_idle);
        let files = if options.at_least_once { files.at_least_once() } else { files };
        files.check()?;
        Ok(files)
    }

    fn paths(options: &FilesOptions) -> Vec<UsedPath> {
        vec![UsedPath { key: "dir", path: options.dir.clone(), access: Access::Fills }]
    }
}

/// The connector `stdout`, for a registry.
#[derive(Debug)]
pub struct StdoutConnector(());

impl SinkConnector for StdoutConnector {
    const CONNECTOR: &'static Connector = &STDOUT;
    type Options = ();
    type Sink<T: Record, E: Encoder<T>> = StdoutSink;

    fn sink<T: Record, E: Encoder<T>>((): (), _: &[Column]) -> Result<StdoutSink, ConfigError> {
        Ok(StdoutSink::new())
    }
}
