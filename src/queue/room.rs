//! Memory for content on its way out: so many octets, given out in order of asking.
//!
//! A quarter is for small messages only, so that a few receivers that take large ones slowly do not hold up everybody
//! else's mail. A message larger than the rest goes when no other large one does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

/// The largest message that may use the quarter for small ones.
const SMALL: usize = 64 << 10;

/// The memory there is.
#[derive(Debug)]
pub(super) struct Room {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    max: usize,
    small: Line,
    large: Line,
}

/// Who has room, and who waits for it.
#[derive(Debug, Default)]
struct Line {
    used: usize,
    waiting: VecDeque<(usize, oneshot::Sender<Share>)>,
}

/// Room that somebody has; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Room>,
    octets: usize,
}

impl Room {
    /// So many octets in all.
    pub(super) fn new(max: usize) -> Arc<Room> {
        let state = State { max, small: Line::default(), large: Line::default() };
        Arc::new(Room { state: Mutex::new(state) })
    }

    /// Changes the limit. What is in use above a lower one drains by itself.
    pub(super) fn set_max(self: &Arc<Room>, max: usize) {
        self.lock().max = max;
        self.hand_out();
    }

    /// Room for `octets`, after those of about this size who asked before.
    ///
    /// # Cancel safety
    /// Safe: who no longer waits loses his place, which is seen when somebody gives back room.
    pub(super) async fn take(self: &Arc<Room>, octets: usize) -> Share {
        let share = || Share { room: Arc::clone(self), octets };
        let waiting = {
            let mut state = self.lock();
            if state.line(octets).waiting.is_empty() && state.fits(octets) {
                state.line(octets).used += octets;
                return share();
            }
            let (sender, waiting) = oneshot::channel();
            state.line(octets).waiting.push_back((octets, sender));
            waiting
        };
        waiting.await.expect("only a grant takes it out of the line")
    }

    /// Gives room to those first in line for as long as there is some.
    fn hand_out(self: &Arc<Room>) {
        let mut granted = Vec::new();
        {
            let mut state = self.lock();
            for large in [true, false] {
                while let Some((octets, sender)) = state.next(large) {
                    if !sender.is_closed() {
                        state.line(octets).used += octets;
                        granted.push((octets, sender));
                    }
                }
            }
        }
        // Not under the lock: a share that nobody waits for any more comes back at once.
        for (octets, sender) in granted {
            let _ = sender.send(Share { room: Arc::clone(self), octets });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics under this lock")
    }

    /// Octets given out.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        let state = self.lock();
        state.small.used + state.large.used
    }
}

impl State {
    fn line(&mut self, octets: usize) -> &mut Line {
        if octets <= SMALL { &mut self.small } else { &mut self.large }
    }

    /// Whether there is room for `octets`, were nobody before them.
    fn fits(&self, octets: usize) -> bool {
        let (small, large, quarter) = (self.small.used, self.large.used, self.max / 4);
        let all = small + large + octets <= self.max;
        match (octets <= SMALL, self.large.waiting.is_empty()) {
            (true, true) => small == 0 || all || small + octets <= quarter,
            // One that waits gets what small ones leave, so they leave it all but their quarter.
            (true, false) => small == 0 || small + octets <= quarter,
            (false, _) if large == 0 => all || small <= quarter,
            (false, _) => all && large + octets <= self.max - quarter,
        }
    }

    /// Takes the first in line out of it, if there is room or it has gone away.
    fn next(&mut self, large: bool) -> Option<(usize, oneshot::Sender<Share>)> {
        let line = if large { &self.large } else { &self.small };
        let (octets, sender) = line.waiting.front()?;
        let octets = *octets;
        if !sender.is_closed() && !self.fits(octets) {
            return None;
        }
        self.line(octets).waiting.pop_front()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.lock().line(self.octets).used -= self.octets;
        self.room.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const KB: usize = 1024;

    struct Asker(Pin<Box<dyn Future<Output = Share>>>, Option<Share>);

    impl Asker {
        fn has(&mut self) -> bool {
            if self.1.is_none()
                && let Poll::Ready(share) = self.0.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                self.1 = Some(share);
            }
            self.1.is_some()
        }
    }

    fn ask(room: &Arc<Room>, octets: usize) -> Asker {
        let room = Arc::clone(room);
        let mut asker = Asker(Box::pin(async move { room.take(octets).await }), None);
        asker.has();
        asker
    }

    /// Asks for each in turn (KiB) of 1,000 KiB; says who has room, and again after each of `leaves` has gone.
    #[track_caller]
    fn check(asks: &[usize], has: &str, leaves: &[(usize, &str)]) {
        let room = Room::new(1000 * KB);
        let mut askers: Vec<Option<Asker>> = asks.iter().map(|octets| Some(ask(&room, octets * KB))).collect();
        let show = |askers: &mut Vec<Option<Asker>>| -> String {
            let letter = |asker: &mut Option<Asker>| match asker.as_mut().map(Asker::has) {
                Some(true) => '+',
                Some(false) => '.',
                None => '-',
            };
            askers.iter_mut().map(letter).collect()
        };
        assert_eq!(show(&mut askers), has);
        for (place, has) in leaves {
            askers[*place] = None;
            assert_eq!(show(&mut askers), *has, "after {place} left");
        }
        askers.clear();
        assert_eq!(room.used(), 0);
        assert!(ask(&room, 5000 * KB).has(), "nobody is left in line");
    }

    #[test]
    fn room_is_given_in_order_of_asking() {
        check(&[700, 60, 300, 70, 60], "++..+", &[(0, "-++++")]);
        check(&[400, 300, 100, 80], "++..", &[(1, "+-++")]);
        // Who gives up leaves the place to the next.
        check(&[400, 350, 100, 80], "++..", &[(2, "++-."), (0, "-+-+")]);
    }

    #[test]
    fn large_ones_leave_a_quarter_to_small_ones() {
        check(&[750, 70, 60, 60, 60, 60, 60], "+.++++.", &[(2, "+.-++++"), (0, "-+-++++")]);
    }

    #[test]
    fn small_ones_leave_the_rest_to_a_large_one_that_waits() {
        let small = [60; 16];
        check(
            &[&small[..], &[600, 60]].concat(),
            "++++++++++++++++..",
            &[(0, "-+++++++++++++++.."), (1, "--++++++++++++++..")],
        );
        let room = Room::new(1000 * KB);
        let mut small: Vec<Asker> = (0..16).map(|_| ask(&room, 60 * KB)).collect();
        let mut large = ask(&room, 700 * KB);
        let mut late = ask(&room, 60 * KB);
        small.drain(..10);
        assert!(!large.has() && !late.has(), "360 of 300 are in use beside it");
        small.drain(..1);
        assert!(large.has() && !late.has(), "the small ones still have more than their quarter");
        small.drain(..2);
        assert!(late.has());
    }

    #[test]
    fn what_is_larger_than_all_goes_alone() {
        check(&[5000, 6000, 60, 60], "+.++", &[(0, "-+++")]);
        check(&[100, 5000, 100], "+..", &[(0, "-+."), (1, "--+")]);
    }

    #[test]
    fn the_limit_may_change() {
        let room = Room::new(100 * KB);
        let (mut first, mut second) = (ask(&room, 70 * KB), ask(&room, 70 * KB));
        assert!(first.has() && !second.has());
        room.set_max(200 * KB);
        assert!(second.has());
        room.set_max(KB);
        let mut third = ask(&room, 10);
        assert!(third.has(), "one small one may always go");
    }
}
