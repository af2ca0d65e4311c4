//! Messages from peers: the inbox, bounded, in order of arrival, without duplicates.

use crate::control::wire::Notify;
use crate::engine::Notification;
use crate::id::Incarnation;
use crate::sync::lock;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Notification>,
    bytes: usize,
    /// Last message of each sender, so that one that was sent twice is taken once.
    last: HashMap<Incarnation, u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<State>);

impl Inbox {
    /// Takes a message in; `false` when the inbox is full and the sender must be told.
    pub(super) fn take_in(&self, note: Notify) -> bool {
        let mut state = lock(&self.0);
        let bytes = note.name.len() + note.message.len();
        if state.waiting.len() >= MAX_NOTES || state.bytes + bytes > MAX_BYTES {
            log::warn!("a notification was refused: {MAX_NOTES} wait to be taken");
            return false;
        }
        if let Some(origin) = note.origin {
            if state.last.get(&origin.from).is_some_and(|last| *last >= origin.seq) {
                return true;
            }
            if state.last.len() >= MAX_SENDERS {
                // senders that never come back; to see one message twice is the lesser evil
                state.last.clear();
            }
            state.last.insert(origin.from, origin.seq);
        }
        state.bytes += bytes;
        state.waiting.push_back(Notification { name: note.name, message: note.message });
        true
    }

    /// The oldest messages, at most `most`.
    pub(super) fn take(&self, most: usize) -> Vec<Notification> {
        let mut state = lock(&self.0);
        if most >= state.waiting.len() {
            state.bytes = 0;
            return std::mem::take(&mut state.waiting).into();
        }
        let taken: Vec<Notification> = state.waiting.drain(..most).collect();
        state.bytes -= taken.iter().map(|n| n.name.len() + n.message.len()).sum::<usize>();
        taken
    }
}

/// Messages that may wait to be taken.
const MAX_NOTES: usize = 1 << 20;
/// Their bytes, all together.
const MAX_BYTES: usize = 256 << 20;
/// Senders whose last message is remembered.
const MAX_SENDERS: usize = 1 << 16;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::control::wire::NotifyOrigin;

    #[test]
    fn once_and_in_order() {
        let inbox = Inbox::default();
        let note = |from, seq, text: &str| Notify {
            name: b"n".to_vec(),
            message: text.as_bytes().to_vec(),
            origin: Some(NotifyOrigin { from: Incarnation(from), seq }),
        };
        for n in
            [note(1, 1, "a"), note(2, 1, "x"), note(1, 2, "b"), note(1, 2, "b"), note(1, 1, "a")]
        {
            assert!(inbox.take_in(n));
        }
        let texts: Vec<_> = inbox.take(usize::MAX).into_iter().map(|n| n.message).collect();
        assert_eq!(texts, [b"a", b"x", b"b"]);
        assert!(inbox.take(usize::MAX).is_empty());
        let upstream = Notify { name: vec![], message: vec![0, 255], origin: None };
        assert!(inbox.take_in(upstream.clone()) && inbox.take_in(upstream));
        assert_eq!(inbox.take(usize::MAX).len(), 2);
    }

    #[test]
    fn a_part_is_taken_from_the_front_and_the_account_stays_right() {
        let inbox = Inbox::default();
        for text in ["a", "bb", "ccc"] {
            let message = text.as_bytes().to_vec();
            assert!(inbox.take_in(Notify { name: vec![], message, origin: None }));
        }
        let texts = |taken: Vec<Notification>| -> Vec<_> {
            taken.into_iter().map(|n| n.message.len()).collect()
        };
        assert_eq!(texts(inbox.take(2)), [1, 2]);
        assert_eq!(lock(&inbox.0).bytes, 3);
        assert_eq!(texts(inbox.take(2)), [3]);
        assert_eq!(lock(&inbox.0).bytes, 0);
    }
}
