//! [`Flow::dead_letters`]: the stream that reads the dead letters of a job.

use thalweg_kernel::{ConnectorError, DeadLetter};

use crate::exchange::inbox::{Inbox, Port};
use crate::flow::Flow;
use crate::graph::At;
use crate::stream::Stream;

impl Flow {
    /// The dead letters of this job's sources and operators, with their time of arrival as event time.
    ///
    /// They are counted in any case, by cause (`numDeadLetters`), and once a minute the log says how many have come, with an
    /// example. There is one such stream in a job: a second call fails the job.
    pub fn dead_letters(&self) -> Stream<Inbox<DeadLetter>> {
        let shared = self.shared_dead_letters();
        let inbox = shared.open();
        if inbox.is_none() {
            self.fail(ConnectorError::new(
                "dead letters",
                "the job calls dead_letters() twice; call it once and split() the stream",
            ));
        }
        let node = self.add_node::<DeadLetter>("Dead letters", self.shards(), vec![]);
        shared.reader.set(Some(node));
        let inbox = self.inbox(inbox.into_iter().map(Port::Local).collect(), node);
        Stream { flow: self.clone(), chain: inbox, at: At { node, producers: self.shards() } }
    }
}
