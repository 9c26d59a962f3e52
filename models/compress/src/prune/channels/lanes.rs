//! Channels and which of them stand or fall together.

/// One channel of one value.
pub(super) type Channel = usize;

/// The channels of a value, in order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lane {
    /// One for each place along axis 1.
    pub channels: Vec<Channel>,
    /// Dimensions of the value.
    pub rank: usize,
    /// Flattened: each channel stands for as many neighbours along axis 1 as its plane had places.
    pub flat: bool,
}

/// All channels; those that were joined share a root.
#[derive(Debug, Default)]
pub(super) struct Channels {
    parents: Vec<Channel>,
    /// Of a root: why it must stay.
    pinned: Vec<Option<String>>,
}

impl Channels {
    /// New channels that nothing ties together.
    pub(super) fn fresh(&mut self, count: usize) -> Vec<Channel> {
        let start = self.parents.len();
        self.parents.extend(start..start + count);
        self.pinned.resize(start + count, None);
        (start..start + count).collect()
    }

    /// The one that speaks for all that are joined with this one.
    pub(super) fn root(&self, channel: Channel) -> Channel {
        let mut at = channel;
        while self.parents[at] != at {
            at = self.parents[at];
        }
        at
    }

    /// The root, with the way there made short for the next time.
    fn settle(&mut self, channel: Channel) -> Channel {
        let root = self.root(channel);
        let mut at = channel;
        while self.parents[at] != root {
            at = std::mem::replace(&mut self.parents[at], root);
        }
        root
    }

    /// From now on both stay or both go.
    pub(super) fn join(&mut self, a: Channel, b: Channel) {
        let (a, b) = (self.settle(a), self.settle(b));
        if a == b {
            return;
        }
        // The older speaks, so that results do not depend on the order of joining.
        let (root, other) = (a.min(b), a.max(b));
        self.parents[other] = root;
        if self.pinned[root].is_none() {
            self.pinned[root] = self.pinned[other].take();
        }
    }

    /// From now on all of these stay.
    pub(super) fn pin(&mut self, channels: &[Channel], reason: &str) {
        for &channel in channels {
            let root = self.root(channel);
            self.pinned[root].get_or_insert_with(|| reason.to_owned());
        }
    }

    /// Returns the reason why it must stay, if it must.
    pub(super) fn reason(&self, channel: Channel) -> Option<&str> {
        self.pinned[self.root(channel)].as_deref()
    }

    /// Returns the number of elements.
    pub(super) fn len(&self) -> usize {
        self.parents.len()
    }
}
