//! The dead letters of one message: which of its records each is, and how many there are.
//!
//! A message may hold thousands of records, all of which are refused for one reason. So a message has at most
//! [`LETTERS_MAX`] letters, which share its payload, and one more that says how many others there would be.

use thalweg_kernel::{Cause, DeadLetter};

use crate::dead_letters::DeadLetterOutput;

/// Letters of a message that are each about one record.
const LETTERS_MAX: usize = 16;

/// See the module.
#[derive(Default)]
pub(super) struct MessageLetters {
    /// What the source had emitted when the message began.
    begun: Option<usize>,
    kept: Vec<DeadLetter>,
    /// Of which the last of them speaks, too.
    more: usize,
}

impl MessageLetters {
    #[inline]
    pub(super) fn begin(&mut self, emitted: usize) {
        self.begun = Some(emitted);
    }

    /// A record was refused; `emitted` counts it.
    #[cold]
    pub(super) fn push(
        &mut self,
        emitted: usize,
        cause: Cause,
        letter: impl FnOnce() -> DeadLetter,
        to: &DeadLetterOutput,
    ) {
        let Some(begun) = self.begun else { return to.push(letter()) };
        if self.kept.len() > LETTERS_MAX {
            self.more += 1;
            return to.count(cause);
        }
        let mut letter = letter();
        letter.record = Some((number(emitted - begun), 0));
        if let Some(first) = self.kept.first()
            && first.payload == letter.payload
        {
            letter.payload = first.payload.clone();
        }
        self.kept.push(letter);
    }

    /// The message is over.
    #[inline]
    pub(super) fn end(&mut self, emitted: usize, to: &DeadLetterOutput) {
        if let Some(begun) = self.begun.take()
            && !self.kept.is_empty()
        {
            self.pass_on(number(emitted - begun), to);
        }
    }

    #[cold]
    fn pass_on(&mut self, of: u32, to: &DeadLetterOutput) {
        let more = std::mem::take(&mut self.more);
        if let Some(last) = self.kept.last_mut()
            && more > 0
        {
            last.reason
                .push_str(&format!("; and {more} more records of this message were refused"));
        }
        for mut letter in self.kept.drain(..) {
            letter.record = letter.record.map(|(record, _)| (record, of)).filter(|_| of > 1);
            to.push(letter);
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
