//! Identities that two machines use: noticed at greetings, logged, shown to operators and told to the device.
//!
//! [`hub_core::fleet`] decides; here are the addresses of the live connections and the words.

use std::net::SocketAddr;

use hub_core::fleet::{Cloned, Replaced, Sighting};

use super::{Admitted, Fleet};
use crate::api::ClonedView;
use crate::clock;

impl Fleet {
    /// Notes which process of an agent greets over the connection of an admitted device, where the agent says so. Returns the address of
    /// another machine with the same identity, as long as that is known.
    ///
    /// # Errors
    /// When the connection was replaced by a newer one.
    pub fn sighted(&self, admitted: &Admitted, instance: Option<u64>) -> Result<Option<SocketAddr>, Replaced> {
        let Some(instance) = instance else { return Ok(None) };
        let now = clock::unix_s();
        let mut inner = self.inner();
        let address = inner.live.get(&admitted.id).map(transport::Connection::remote_addr);
        let address = address.ok_or_else(|| Replaced(admitted.device.clone()))?;
        let log = inner.fleet.sighted(&admitted.device, admitted.id, Sighting { instance, address }, now)?;
        let cloned = inner.fleet.device(&admitted.device).and_then(|device| device.cloned.clone());
        drop(inner);
        if let Some(Cloned { addresses: [one, other], .. }) = log {
            tracing::warn!(
                device = %admitted.device,
                %one,
                %other,
                "two machines use the identity of one device: enrol one of them under another name, with its identity \
                 folder removed"
            );
        }
        Ok(cloned.filter(|cloned| cloned.is_shown(now)).map(|cloned| other_than(address, &cloned)))
    }
}

/// The address of the two that is not the one asked from; its port may have changed since.
fn other_than(address: SocketAddr, cloned: &Cloned) -> SocketAddr {
    let [one, other] = cloned.addresses;
    let is_one = one == address || (one.ip() == address.ip() && other.ip() != address.ip());
    if is_one { other } else { one }
}

/// Returns the view of it for operators.
pub(super) fn view(cloned: &Cloned) -> ClonedView {
    ClonedView {
        addresses: cloned.addresses.map(|address| address.to_string()),
        first_unix_ms: cloned.first_unix_s.saturating_mul(1000),
        last_unix_ms: cloned.last_unix_s.saturating_mul(1000),
    }
}
