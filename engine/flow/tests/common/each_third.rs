//! A watermark generator that keeps state, for tests of what is stored of it.

use thalweg_flow::WatermarkGenerator;
use thalweg_kernel::Timestamp;

/// After each third record the watermark stands 10 ms behind the latest one: so it depends on how many there were.
#[derive(Clone, Default)]
pub(crate) struct EachThird {
    count: u8,
    latest: i64,
}

impl<T: 'static> WatermarkGenerator<T> for EachThird {
    fn record(&mut self, _: &T, time: Timestamp) -> Option<Timestamp> {
        self.latest = self.latest.max(time.as_millis());
        self.count = (self.count + 1) % 3;
        (self.count == 0).then(|| Timestamp::from(self.latest - 10))
    }

    fn save(&self, out: &mut Vec<u8>) {
        out.push(self.count);
        out.extend_from_slice(&self.latest.to_le_bytes());
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), String> {
        let (count, latest) = saved.split_first().ok_or("nothing was saved")?;
        self.count = *count;
        self.latest = i64::from_le_bytes(latest.try_into().map_err(|_| "it has no nine bytes")?);
        Ok(())
    }
}
