//! The initiator's half of the fence (D5): connections that come only to say, over whichever way to the
//! peer works, that nothing more may be written from the old connections of a rail. The first welcome
//! settles it. When nobody listens there any more, or another process does, there is nobody to fence.

use super::frame::{HEAD_LEN, Head, Hello, Kind, Status};
use super::{Close, Conn, Role, Stage, TcpTransport};
use crate::slice::DownCause;
use std::sync::atomic::Ordering;

impl TcpTransport {
    /// Opens a connection over every way; those of the call before the last are given up.
    pub(super) fn ask_fence(&mut self, rail: u32) {
        let Some(r) = self.client_rail(rail) else { return };
        let ways = std::sync::Arc::clone(&r.target().ways);
        let [latest, old] = r.fences();
        let stale = std::mem::replace(old, std::mem::take(latest));
        for key in stale {
            self.remove(key, true);
        }
        let mut gone = !ways.is_empty();
        for way in ways.iter().take(MAX_WAYS) {
            match self.open_way(*way, Role::Fence { rail, stage: Stage::Connecting }) {
                Ok(key) => {
                    gone = false;
                    if let Some(r) = self.client_rail(rail) {
                        r.fences()[0].push(key);
                    }
                }
                Err(e) => gone &= super::down_cause(&e) == DownCause::Refused,
            }
        }
        if gone {
            self.fenced(rail);
        }
    }

    /// The connection stands: say what it is for.
    pub(super) fn greet_fence(&mut self, conn: &mut Conn) {
        let epoch = self.shared.epoch.fetch_add(1, Ordering::Relaxed);
        let from = self.shared.regions.incarnation();
        let Role::Fence { rail, stage } = &mut conn.role else { return };
        *stage = Stage::Greeting;
        let rail = *rail;
        let Some(r) = self.client_rail(rail) else { return };
        let (to, slot) = (r.target().peer, r.target().slot << 1);
        let hello = Hello { from, to, slot, epoch, urgent: false, fence: true };
        conn.stream.queue(&hello.encode(), None, 0);
    }

    /// The answer: whoever is there writes nothing more from the old connections.
    pub(super) fn parse_fenced(&mut self, conn: &mut Conn) -> Result<bool, Close> {
        let Some(bytes) = conn.stream.take::<HEAD_LEN>() else { return Ok(false) };
        let Role::Fence { rail, .. } = conn.role else {
            return Err(Close::Failed(DownCause::Protocol));
        };
        let head = Head::decode(&bytes).filter(|h| h.kind == Kind::Welcome);
        match head.map(|h| h.status) {
            // another process has the port: the one that could write is gone
            Some(Status::Ok | Status::WrongPeer) => {
                self.fenced(rail);
                Err(Close::End)
            }
            _ => Err(Close::Failed(DownCause::Protocol)),
        }
    }

    /// One of the connections is gone. When all were refused, nobody is there who could write.
    pub(super) fn fence_closed(&mut self, rail: u32, key: u64, close: Close) {
        let Some(r) = self.client_rail(rail) else { return };
        for line in r.fences() {
            line.retain(|k| *k != key);
        }
        let none_left = r.fences().iter().all(Vec::is_empty);
        if none_left && close == Close::Failed(DownCause::Refused) {
            self.fenced(rail);
        }
    }

    fn fenced(&mut self, rail: u32) {
        if let Some(cause) = self.client_rail(rail).map(|r| r.cause()) {
            self.client_down(rail, cause);
        }
    }

    /// Ends the rail without a fence: the caller has waited longer than the peer writes from a silent
    /// connection.
    pub(super) fn forsake_client(&mut self, rail: u32) {
        self.abort_client(rail);
        self.fenced(rail);
    }
}

/// Ways over which a fence is asked for at a time.
const MAX_WAYS: usize = 16;
