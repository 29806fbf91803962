//! Responses that are made while the client takes them, and looked after while it does not.
//!
//! A response of many answers does its work in whoever writes it: polled, it reads what is asked and gives what is ready.
//! While the client takes nothing, nobody polls. For that there is one task beside each: every second it gives back the
//! memory of what is durable, and it ends a response that nobody takes.

use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// How often a response is looked after.
const TICK: Duration = Duration::from_secs(1);

/// What a response does when nobody polls it.
pub trait Answers: Send + 'static {
    /// Gives back what is needed no more. May poll what it waits for with no one to wake: the response is polled soon.
    fn settle(&mut self);

    /// Lets go of everything: the client does not take what it asked for. Who polls again hears why.
    fn give_up(&mut self);
}

/// A response that is looked after until it is dropped.
#[derive(Debug)]
pub struct Attended<T>(Arc<Mutex<Attention<T>>>);

#[derive(Debug)]
struct Attention<T> {
    answers: T,
    /// Since somebody looked the last time.
    polled: bool,
    /// Who polls.
    waker: Option<Waker>,
}

impl<T: Answers> Attended<T> {
    /// Gives it up when it is not polled for `unread_max`. Must be called in a tokio runtime.
    pub fn new(answers: T, unread_max: Duration) -> Attended<T> {
        let attention = Arc::new(Mutex::new(Attention { answers, polled: true, waker: None }));
        tokio::spawn(look_after(Arc::downgrade(&attention), unread_max));
        Attended(attention)
    }

    /// Polls the response with `poll`.
    ///
    /// # Panics
    /// If it panicked before.
    pub fn poll<R>(&self, cx: &mut Context<'_>, poll: impl FnOnce(&mut T, &mut Context<'_>) -> Poll<R>) -> Poll<R> {
        let mut attention = self.0.lock().expect("what panics here ends the response");
        attention.polled = true;
        if !attention.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            attention.waker = Some(cx.waker().clone());
        }
        poll(&mut attention.answers, cx)
    }
}

/// Ends with the response, a tick later at most.
async fn look_after<T: Answers>(attention: Weak<Mutex<Attention<T>>>, unread_max: Duration) {
    let mut polled_at = Instant::now();
    loop {
        tokio::time::sleep(TICK.min(unread_max / 4)).await;
        let Some(attention) = attention.upgrade() else { return };
        let Ok(mut attention) = attention.lock() else { return };
        if std::mem::take(&mut attention.polled) {
            polled_at = Instant::now();
        }
        attention.answers.settle();
        let unread = polled_at.elapsed() >= unread_max;
        if unread {
            attention.answers.give_up();
        }
        // One that merely waits for its client polls now, and shows that it is not forgotten.
        if let Some(waker) = &attention.waker {
            waker.wake_by_ref();
        }
        if unread {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[derive(Default)]
    struct Told {
        settled: u32,
        given_up: bool,
    }

    impl Answers for Told {
        fn settle(&mut self) {
            self.settled += 1;
        }

        fn give_up(&mut self) {
            self.given_up = true;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_polled_is_settled_and_in_the_end_given_up() {
        let response = Arc::new(Attended::new(Told::default(), Duration::from_secs(60)));
        // One that waits, is woken, and polls again.
        let waiting = Arc::clone(&response);
        let waiting = tokio::spawn(poll_fn(move |cx| {
            waiting.poll::<()>(cx, |told, _| (!told.given_up).then_some(()).map_or(Poll::Ready(()), |()| Poll::Pending))
        }));
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(!waiting.is_finished());
        waiting.abort();
        let look = |told: &mut Told, _: &mut Context<'_>| Poll::Ready((told.settled, told.given_up));
        let Poll::Ready((before, given_up)) = response.poll(&mut Context::from_waker(Waker::noop()), look) else {
            panic!("ready")
        };
        assert!(before >= 500 && !given_up, "{before} {given_up}");
        for (seconds, expected) in [(55, false), (55, false), (65, true)] {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let Poll::Ready((settled, given_up)) = response.poll(&mut Context::from_waker(Waker::noop()), look) else {
                panic!("ready")
            };
            assert!(settled > before && given_up == expected, "{settled} {given_up}");
        }
    }
}
