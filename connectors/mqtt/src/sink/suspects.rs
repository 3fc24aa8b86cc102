//! [`Suspects`]: which result it is that a broker cannot take, found by how its connections end. Pure.
//!
//! Some brokers answer a publish that they do not take by ending the connection, without a word: for its topic, its size, or
//! rights. Sent again in its turn it would hold up all others for ever. But a bad network ends connections, too, and so does
//! a broker whose disk is full, on whatever is published. So a result is set aside in steps:
//!
//! 1. A connection has ended twice with one result first in line: on the next one results go one by one, then two by two, and
//!    so on while they are acknowledged.
//! 2. A connection that ends while one result alone is on its way counts against that result. After the third time the result
//!    is *held*: others go first.
//! 3. As soon as the broker has taken another one, the held result is tried once more, alone. If the connection ends with it
//!    again it is set aside: a dead letter. If it is acknowledged it was innocent.
//!
//! So a result is lost to a letter only where the broker took another one right before. Where it takes none at all, nothing
//! is set aside, and all wait. A few behind which nothing comes for a minute, or since the sink closes, are tried once
//! more. (The broker must have taken a result in this run.)
//!
//! What is known here is not stored. After a restart the result is found again, which takes six connections at most for each.

use thalweg_kernel::defects::{Defect, seeded};

/// The connections that end in the wake of a result before others go first.
pub(crate) const STRIKES_MAX: u8 = 3;
/// A window this large is as good as none.
const WINDOW_MAX: usize = 1 << 16;

/// A result in whose wake connections end.
struct Case {
    seq: u64,
    strikes: u8,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is sent in its turn.
    InTurn,
    /// Others go first.
    Held,
    /// The broker has taken another one meanwhile: it is tried once more.
    Ripe,
}

/// What the end of a connection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Nothing,
    /// Whose turn it is, or whether it is a single result, is being found out: the next connection is to come soon.
    Closer,
    /// Others go first.
    Hold(u64),
    /// It is set aside.
    SetAside(u64),
}

/// See the module.
pub(crate) struct Suspects {
    /// The most results on their way.
    window: usize,
    /// The first in line when the last connection ended with more than one on its way.
    first: Option<u64>,
    cases: Vec<Case>,
}

impl Suspects {
    pub(crate) const fn new() -> Self {
        Self { window: WINDOW_MAX, first: None, cases: Vec::new() }
    }

    /// The most results that may be on their way.
    #[inline]
    pub(crate) fn window(&self) -> usize {
        self.window
    }

    /// Whether there are any.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Whether others go before this one.
    pub(crate) fn holds(&self, seq: u64) -> bool {
        self.cases.iter().any(|case| case.seq == seq && case.standing != Standing::InTurn)
    }

    /// Those before which others go.
    pub(crate) fn held(&self) -> impl Iterator<Item = u64> {
        let held = self.cases.iter().filter(|case| case.standing != Standing::InTurn);
        held.map(|case| case.seq)
    }

    /// One that is to be tried, alone.
    pub(crate) fn ripe(&self) -> Option<u64> {
        self.cases.iter().find(|case| case.standing == Standing::Ripe).map(|case| case.seq)
    }

    /// The broker has answered for a result, with whatever answer. Whether that frees one that was held.
    #[inline]
    pub(crate) fn acked(&mut self, seq: u64) -> bool {
        if self.window < WINDOW_MAX {
            self.window *= 2;
        }
        !self.cases.is_empty() && self.clear(seq)
    }

    #[cold]
    fn clear(&mut self, seq: u64) -> bool {
        if let Some(at) = self.cases.iter().position(|case| case.seq == seq) {
            return self.cases.swap_remove(at).standing != Standing::InTurn;
        }
        self.ripen();
        false
    }

    /// Nothing comes that could show more: all that are held are tried once more.
    #[cold]
    pub(crate) fn ripen(&mut self) {
        for case in &mut self.cases {
            if case.standing == Standing::Held {
                case.standing = Standing::Ripe;
            }
        }
    }

    /// This one is not sent any more.
    pub(crate) fn withdraw(&mut self, seq: u64) {
        self.cases.retain(|case| case.seq != seq);
    }

    /// A connection ended with this many results on their way, of which this was the first in line.
    pub(crate) fn ended(&mut self, on_way: usize, first: Option<u64>) -> Finding {
        let Some(first) = first else { return Finding::Nothing };
        if seeded(Defect::MqttNeverSetsAside) {
            return Finding::Nothing;
        }
        if on_way > 1 {
            let again = self.first.replace(first) == Some(first);
            if again || self.window < WINDOW_MAX {
                self.window = 1;
            }
            return if again { Finding::Closer } else { Finding::Nothing };
        }
        let at = self.cases.iter().position(|case| case.seq == first).unwrap_or_else(|| {
            self.cases.push(Case { seq: first, strikes: 0, standing: Standing::InTurn });
            self.cases.len() - 1
        });
        let case = &mut self.cases[at];
        case.strikes += 1;
        self.window = 1;
        match case.standing {
            Standing::Ripe => {
                self.cases.swap_remove(at);
                Finding::SetAside(first)
            }
            Standing::InTurn if case.strikes >= STRIKES_MAX => {
                case.standing = Standing::Held;
                Finding::Hold(first)
            }
            Standing::InTurn | Standing::Held => Finding::Closer,
        }
    }

    /// Begins anew: what was found meant something else.
    pub(crate) fn forget(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A broker that takes results in order, and ends the connection at one of these.
    struct Broker {
        bad: Vec<u64>,
        /// It ends the connection at whatever it is given.
        is_down: bool,
        connections: u32,
    }

    impl Broker {
        /// Sends `results` as a sink does until all are settled or `connections_max` are used up. In their order: those
        /// that were taken, and those that were set aside.
        fn play(
            &mut self,
            suspects: &mut Suspects,
            mut results: Vec<u64>,
            inflight: usize,
            connections_max: u32,
        ) -> (Vec<u64>, Vec<u64>) {
            let (mut taken, mut aside) = (Vec::new(), Vec::new());
            while !results.is_empty() && self.connections < connections_max {
                self.connections += 1;
                loop {
                    let batch: Vec<u64> = match suspects.ripe() {
                        Some(seq) => vec![seq],
                        None => results
                            .iter()
                            .copied()
                            .filter(|seq| !suspects.holds(*seq))
                            .take(suspects.window().min(inflight))
                            .collect(),
                    };
                    if batch.is_empty() {
                        return (taken, aside);
                    }
                    let bad = batch.iter().position(|seq| self.is_down || self.bad.contains(seq));
                    let good = &batch[..bad.unwrap_or(batch.len())];
                    for seq in good {
                        suspects.acked(*seq);
                        results.retain(|it| it != seq);
                        taken.push(*seq);
                    }
                    let Some(bad) = bad else { continue };
                    match suspects.ended(batch.len() - bad, batch.get(bad).copied()) {
                        Finding::SetAside(seq) => {
                            results.retain(|it| *it != seq);
                            aside.push(seq);
                        }
                        Finding::Nothing | Finding::Closer | Finding::Hold(_) => {}
                    }
                    break;
                }
            }
            (taken, aside)
        }
    }

    #[test]
    fn what_a_broker_cannot_take_is_found_wherever_it_stands_and_nothing_else_is() {
        for inflight in [1, 2, 20, 1_024] {
            for bad in [vec![0], vec![7], vec![98], vec![0, 1, 2], vec![3, 50, 51], vec![97, 98]] {
                let mut broker = Broker { bad: bad.clone(), is_down: false, connections: 0 };
                let mut suspects = Suspects::new();
                let (taken, aside) =
                    broker.play(&mut suspects, (0..100).collect(), inflight, 1_000);
                let mut found = aside.clone();
                found.sort_unstable();
                assert_eq!(found, bad, "{inflight}");
                assert!(taken.is_sorted() && taken.len() == 100 - bad.len(), "in order");
                assert!(suspects.is_empty());
                let most = 6 * bad.len() as u32 + 1;
                assert!(broker.connections <= most, "{} connections", broker.connections);
            }
        }
    }

    /// Goal: a broker whose disk is full costs nothing but time.
    #[test]
    fn a_broker_that_takes_nothing_has_nothing_set_aside() {
        let mut broker = Broker { bad: Vec::new(), is_down: true, connections: 0 };
        let mut suspects = Suspects::new();
        let (taken, aside) = broker.play(&mut suspects, (0..5).collect(), 20, 1_000);
        assert_eq!((taken, aside), (vec![], vec![]));
        // Mended: what was held is delivered with the rest.
        broker.is_down = false;
        let (taken, aside) = broker.play(&mut suspects, (0..6).collect(), 20, 1_000);
        assert_eq!((taken.len(), aside), (6, vec![]));
        assert!(suspects.is_empty());
    }

    #[test]
    fn one_behind_which_nothing_comes_is_tried_once_more() {
        let mut suspects = Suspects::new();
        assert_eq!([(); 2].map(|()| suspects.ended(1, Some(7))), [Finding::Closer; 2]);
        suspects.ripen();
        assert_eq!(suspects.ripe(), None, "it is sent in its turn");
        assert_eq!(suspects.ended(1, Some(7)), Finding::Hold(7));
        assert!(suspects.holds(7) && suspects.held().eq([7]) && suspects.ripe().is_none());
        suspects.ripen();
        assert_eq!(suspects.ripe(), Some(7));
        assert_eq!(suspects.ended(1, Some(7)), Finding::SetAside(7));
        assert!(suspects.is_empty());
        suspects.ended(1, Some(8));
        suspects.withdraw(8);
        assert!(suspects.is_empty());
    }

    #[test]
    fn a_bad_network_is_no_proof() {
        let mut suspects = Suspects::new();
        for seq in 0..1_000 {
            assert_ne!(suspects.ended(1, Some(seq)), Finding::Hold(seq));
            suspects.acked(seq);
            assert_eq!(suspects.ended(20, Some(seq + 1)), Finding::Nothing);
            assert_eq!(suspects.ended(0, None), Finding::Nothing);
            suspects.acked(seq + 1);
        }
        assert!(suspects.is_empty());
    }

    #[test]
    fn a_window_grows_while_results_are_acknowledged() {
        let mut suspects = Suspects::new();
        assert_eq!(suspects.ended(20, Some(0)), Finding::Nothing);
        assert!(suspects.window() >= 65_535, "one connection is nothing");
        assert_eq!(suspects.ended(20, Some(0)), Finding::Closer);
        let windows: Vec<_> = (0..5)
            .map(|seq| {
                let window = suspects.window();
                suspects.acked(seq);
                window
            })
            .collect();
        assert_eq!(windows, [1, 2, 4, 8, 16]);
        (0..20).for_each(|seq| {
            suspects.acked(seq);
        });
        assert!(suspects.window() >= 65_535);
    }
}
