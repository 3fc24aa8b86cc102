//! Standard output: a table where a person looks on, JSON lines where a program reads.
//!
//! Each batch is written as soon as it is flushed. When the reader of a pipe goes away (`| head`)
//! the job ends with an error that says so.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use thalweg_kernel::{ConnectorError, OpenContext, Sink, SinkSpec, Timestamp};

use crate::egress::{Egress, Outlet, Output};
use crate::table::Table;

/// Prints records to standard output; see the [module](self).
#[derive(Clone)]
pub struct StdoutSink {
    target: Target,
}

#[derive(Clone)]
enum Target {
    Stdout,
    /// Taken by the first shard that opens.
    Writer {
        writer: Arc<Mutex<Option<Box<dyn Write + Send>>>>,
        terminal: bool,
    },
}

impl StdoutSink {
    /// The sink.
    pub const fn new() -> Self {
        Self { target: Target::Stdout }
    }

    /// Prints to `writer` instead, as on a terminal or as in a pipe. For tests; opens once.
    pub fn to(writer: Box<dyn Write + Send>, terminal: bool) -> Self {
        Self { target: Target::Writer { writer: Arc::new(Mutex::new(Some(writer))), terminal } }
    }

    fn start(&self, cx: &OpenContext) -> Result<Egress, ConnectorError> {
        let (writer, terminal) = match &self.target {
            Target::Stdout => {
                let stdout = io::stdout();
                let terminal = stdout.is_terminal();
                (Box::new(stdout) as Box<dyn Write + Send>, terminal)
            }
            Target::Writer { writer, terminal } => {
                let taken = writer.lock().unwrap_or_else(PoisonError::into_inner).take();
                let twice = || ConnectorError::new("stdout", "this writer is in use already");
                (taken.ok_or_else(twice)?, *terminal)
            }
        };
        let table = terminal.then(Table::default);
        Egress::start(cx, "stdout".into(), None, move || Ok(Console { writer, table }))
    }
}

impl Default for StdoutSink {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for StdoutSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StdoutSink")
    }
}

/// Gets JSON lines from all shards; on a terminal it makes one table of them.
struct Console {
    writer: Box<dyn Write + Send>,
    table: Option<Table>,
}

impl Output for Console {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match &mut self.table {
            Some(table) => self.writer.write_all(table.render(lines).as_bytes())?,
            None => self.writer.write_all(lines)?,
        }
        self.writer.flush()
    }

    fn sync(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl<T: Serialize + 'static> SinkSpec<T> for StdoutSink {
    type Writer = StdoutWriter;

    fn describe(&self) -> String {
        "stdout".into()
    }

    fn open(&self, cx: &OpenContext) -> Result<StdoutWriter, ConnectorError> {
        let egress = cx.shared.get_or_try_init(cx.operator_id, || self.start(cx))?;
        Ok(StdoutWriter { outlet: Outlet::new(egress, cx.waker.clone()) })
    }
}

/// A [`StdoutSink`] on one shard.
pub struct StdoutWriter {
    outlet: Outlet,
}

impl<T: Serialize> Sink<T> for StdoutWriter {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        self.outlet.ready()
    }

    fn awaits_epoch(&self) -> bool {
        false
    }

    fn write(&mut self, _time: Timestamp, value: T) -> Result<(), ConnectorError> {
        let line = self.outlet.line();
        let start = line.len();
        if let Err(error) = serde_json::to_writer(&mut *line, &value) {
            line.truncate(start);
            return Err(self.outlet.error("cannot write the record as JSON", error));
        }
        self.outlet.end_line()
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        self.outlet.flush()
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        self.outlet.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Shard;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Serialize)]
    struct Row {
        device: &'static str,
        avg: f32,
    }

    fn printed(terminal: bool) -> String {
        let screen = Screen::default();
        let spec = StdoutSink::to(Box::new(screen.clone()), terminal);
        let mut shard = Shard::alone();
        let mut sink = SinkSpec::<Row>::open(&spec, &shard.cx).unwrap();
        for (device, avg) in [("boiler", 0.1), ("tank", 12.5)] {
            sink.write(Timestamp::default(), Row { device, avg }).unwrap();
            Sink::<Row>::flush(&mut sink).unwrap();
        }
        shard.until_closed::<Row>(&mut sink).unwrap();
        String::from_utf8(screen.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_table_on_a_terminal_and_json_lines_in_a_pipe() {
        assert_eq!(printed(true), "device  avg\n------  ---\nboiler  0.1\ntank    12.5\n");
        let lines = "{\"device\":\"boiler\",\"avg\":0.1}\n{\"device\":\"tank\",\"avg\":12.5}\n";
        assert_eq!(printed(false), lines);
    }

    #[test]
    fn a_pipe_that_closes_is_an_error_with_words() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let spec = StdoutSink::to(Box::new(writer), false);
        let mut shard = Shard::alone();
        let mut sink = SinkSpec::<u8>::open(&spec, &shard.cx).unwrap();
        sink.write(Timestamp::default(), 1u8).unwrap();
        let refused = shard.until_closed::<u8>(&mut sink).unwrap_err().to_string();
        assert!(
            refused.starts_with("stdout: nobody reads the output any more: Broken pipe"),
            "{refused}"
        );
    }
}
