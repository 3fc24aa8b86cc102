//! [`Frames`]: what a file of zstd frames holds, one frame after the other.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::StreamingDecoder;

/// See the module.
pub(crate) struct Frames<R: Read>(State<R>);

enum State<R: Read> {
    /// A frame begins, or the file ends.
    Between(R),
    Within(Box<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>),
    Ended,
}

impl<R: BufRead> Frames<R> {
    pub(crate) fn new(input: R) -> Self {
        Self(State::Between(input))
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.0, State::Ended) {
                State::Ended => return Ok(0),
                State::Between(mut input) => {
                    if input.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    let frame = StreamingDecoder::new(input).map_err(io::Error::other)?;
                    self.0 = State::Within(Box::new(frame));
                }
                State::Within(mut frame) => {
                    let count = frame.read(buffer)?;
                    if count > 0 || buffer.is_empty() {
                        self.0 = State::Within(frame);
                        return Ok(count);
                    }
                    self.0 = State::Between(frame.into_inner());
                }
            }
        }
    }
}
