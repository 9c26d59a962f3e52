//! A UDP proxy that simulates faulty networks: it loses, delays, reorders and duplicates packets, pauses, and changes
//! the port that the target sees (as a NAT does after a pause).
//!
//! Placed between a device and its hub; knows nothing of QUIC. The seed alone decides the fate of the n-th packet of a
//! flow in one direction, so a failing run can be repeated; the time depends on the system. Every queue is bounded: a
//! full one loses the packet, as a router would.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Maximum size of a UDP payload in bytes.
const PACKET_BYTES_MAX: usize = 65_535;

/// Maximum number of packets of one flow in flight: 256 of 1,400 bytes are 360 kB, a deep home router's queue.
const IN_FLIGHT_MAX: usize = 256;

/// Maximum number of packets from a client that wait for its flow.
const FLOW_QUEUE: usize = 256;

/// Maximum number of clients; packets of further ones are lost.
const FLOWS_MAX: usize = 256;

/// Faults of the network, in each direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Share of packets that are lost, 0 to 1.
    pub loss: f64,
    /// Share of packets that arrive twice, 0 to 1.
    pub duplicate: f64,
    /// Share of packets that are delayed by a further `reorder_by`, so that later packets overtake them, 0 to 1.
    pub reorder: f64,
    /// Additional delay of such a packet.
    pub reorder_by: Duration,
    /// Delay of every packet.
    pub delay: Duration,
    /// Maximum of a random additional delay. Reorders packets once it exceeds the gap between them.
    pub jitter: Duration,
    /// Whether all packets are lost.
    pub paused: bool,
}

impl Faults {
    /// A network without faults.
    pub const NONE: Self = Self {
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        reorder_by: Duration::ZERO,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        paused: false,
    };
}

/// Statistics of the proxy, over all flows and both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Number of forwarded packets, including duplicates.
    pub forwarded: u64,
    /// Number of lost packets: by chance, during a pause, or by a full queue.
    pub lost: u64,
    /// Number of packets sent twice.
    pub duplicated: u64,
    /// Number of packets delayed for reordering.
    pub reordered: u64,
}

#[derive(Debug, Default)]
struct Counters {
    forwarded: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
}

/// Settings that every flow observes.
#[derive(Debug, Clone, Copy)]
struct Setting {
    faults: Faults,
    /// Number of changes of the port that the target sees.
    generation: u64,
    target: SocketAddr,
}

/// A running proxy. Dropping it stops it.
#[derive(Debug)]
pub struct UdpProxy {
    addr: SocketAddr,
    setting: watch::Sender<Setting>,
    counters: Arc<Counters>,
    _tasks: JoinSet<()>,
}

impl UdpProxy {
    /// Starts a proxy on a free port of loopback in front of `target`.
    ///
    /// # Errors
    /// Fails when no socket can be opened.
    pub async fn start(target: SocketAddr, faults: Faults, seed: u64) -> std::io::Result<Self> {
        let front = Arc::new(UdpSocket::bind(("127.0.0.1", 0)).await?);
        let addr = front.local_addr()?;
        let (setting, watched) = watch::channel(Setting { faults, generation: 0, target });
        let counters = Arc::new(Counters::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(dispatch(front, watched, Arc::clone(&counters), seed));
        Ok(Self { addr, setting, counters, _tasks: tasks })
    }

    /// Returns the address that clients use instead of the target's.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes the faults for packets that arrive from now on.
    pub fn set(&self, faults: Faults) {
        self.setting.send_modify(|setting| setting.faults = faults);
    }

    /// Loses all packets until [`UdpProxy::resume`].
    pub fn pause(&self) {
        self.setting.send_modify(|setting| setting.faults.paused = true);
    }

    /// Forwards packets again.
    pub fn resume(&self) {
        self.setting.send_modify(|setting| setting.faults.paused = false);
    }

    /// Sends from a new port from now on, for every client, as a NAT does that forgot its mapping. Packets on their way
    /// to the old port are lost.
    pub fn rebind(&self) {
        self.setting.send_modify(|setting| setting.generation += 1);
    }

    /// Sends to another target from now on, as if a hub restarted on another port.
    pub fn retarget(&self, target: SocketAddr) {
        self.setting.send_modify(|setting| {
            setting.target = target;
            setting.generation += 1;
        });
    }

    /// Returns the statistics so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            forwarded: read(&self.counters.forwarded),
            lost: read(&self.counters.lost),
            duplicated: read(&self.counters.duplicated),
            reordered: read(&self.counters.reordered),
        }
    }
}

/// Passes each client's packets to its own flow.
async fn dispatch(front: Arc<UdpSocket>, setting: watch::Receiver<Setting>, counters: Arc<Counters>, seed: u64) {
    let mut flows: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    let mut number = 0;
    loop {
        // On Linux an unreachable port is reported as an error of the next receive; the socket is still usable.
        let Ok((length, client)) = front.recv_from(&mut buffer).await else { continue };
        let packet = buffer[..length].to_vec();
        if !flows.contains_key(&client) {
            flows.retain(|_, queue| !queue.is_closed());
            if flows.len() >= FLOWS_MAX {
                counters.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let (queue, from_client) = mpsc::channel(FLOW_QUEUE);
            flows.insert(client, queue);
            let flow = Flow {
                client,
                front: Arc::clone(&front),
                setting: setting.clone(),
                counters: Arc::clone(&counters),
                outward: Dice::new(seed, number * 2),
                inward: Dice::new(seed, number * 2 + 1),
                on_the_way: BinaryHeap::new(),
                sequence: 0,
            };
            number += 1;
            tasks.spawn(flow.run(from_client));
        }
        if flows.get(&client).is_some_and(|queue| queue.try_send(packet).is_err()) {
            counters.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Direction of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    ToTarget,
    ToClient,
}

/// A packet in flight: its arrival time, a number that keeps equal times in order, its direction, and its bytes.
type Packet = Reverse<(Instant, u64, Way, Vec<u8>)>;

/// The packets of one client, in both directions.
struct Flow {
    client: SocketAddr,
    front: Arc<UdpSocket>,
    setting: watch::Receiver<Setting>,
    counters: Arc<Counters>,
    outward: Dice,
    inward: Dice,
    on_the_way: BinaryHeap<Packet>,
    sequence: u64,
}

impl Flow {
    /// Runs until the proxy is dropped, or no socket can be opened.
    async fn run(mut self, mut from_client: mpsc::Receiver<Vec<u8>>) {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let mut generation = self.setting.borrow().generation;
        let Ok(mut back) = UdpSocket::bind(("127.0.0.1", 0)).await else { return };
        loop {
            let due = self.on_the_way.peek().map(|Reverse((due, ..))| *due);
            tokio::select! {
                packet = from_client.recv() => match packet {
                    Some(packet) => self.take(Way::ToTarget, packet),
                    None => return,
                },
                received = back.recv_from(&mut buffer) => {
                    if let Ok((length, _target)) = received {
                        self.take(Way::ToClient, buffer[..length].to_vec());
                    }
                }
                () = until(due) => self.deliver(&back).await,
                changed = self.setting.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = self.setting.borrow_and_update().generation;
                    if now != generation {
                        generation = now;
                        let Ok(fresh) = UdpSocket::bind(("127.0.0.1", 0)).await else { return };
                        back = fresh;
                    }
                }
            }
        }
    }

    /// Decides the fate of a packet.
    fn take(&mut self, way: Way, packet: Vec<u8>) {
        let faults = self.setting.borrow().faults;
        let dice = match way {
            Way::ToTarget => &mut self.outward,
            Way::ToClient => &mut self.inward,
        };
        // Every packet draws the same random numbers, whatever the faults, so that one fault does not shift another.
        let (lose, double, hold, late) = (dice.throw(), dice.throw(), dice.throw(), dice.throw());
        if faults.paused || lose < faults.loss || self.on_the_way.len() >= IN_FLIGHT_MAX {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut after = faults.delay + faults.jitter.mul_f64(late);
        if hold < faults.reorder {
            self.counters.reordered.fetch_add(1, Ordering::Relaxed);
            after += faults.reorder_by;
        }
        let due = Instant::now() + after;
        if double < faults.duplicate {
            self.counters.duplicated.fetch_add(1, Ordering::Relaxed);
            self.push(due, way, packet.clone());
        }
        self.push(due, way, packet);
    }

    fn push(&mut self, due: Instant, way: Way, packet: Vec<u8>) {
        self.sequence += 1;
        self.on_the_way.push(Reverse((due, self.sequence, way, packet)));
    }

    /// Forwards all packets that are due.
    async fn deliver(&mut self, back: &UdpSocket) {
        let target = self.setting.borrow().target;
        while self.on_the_way.peek().is_some_and(|Reverse((due, ..))| *due <= Instant::now()) {
            let Some(Reverse((_, _, way, packet))) = self.on_the_way.pop() else { return };
            let sent = match way {
                Way::ToTarget => back.send_to(&packet, target).await,
                Way::ToClient => self.front.send_to(&packet, self.client).await,
            };
            let counter = if sent.is_ok() { &self.counters.forwarded } else { &self.counters.lost };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Waits until a time, or forever if there is none.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): ten lines that produce the same numbers on every machine and in every release.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn new(seed: u64, stream: u64) -> Self {
        Self(seed ^ stream.wrapping_mul(0xa076_1d64_78bd_642f))
    }

    /// Returns a number from 0 up to, not including, 1.
    fn throw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // 32 bits are exact in f64 and fine enough for shares of packets.
        let top = u32::try_from(mixed >> 32).unwrap_or(u32::MAX);
        f64::from(top) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a target that returns every packet, and a client that reaches it through the proxy.
    async fn echo(faults: Faults, seed: u64) -> (UdpProxy, UdpSocket, JoinSet<()>) {
        let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = target.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = target.recv_from(&mut buffer).await {
                let mut answer = buffer[..length].to_vec();
                answer.extend_from_slice(&from.port().to_le_bytes());
                target.send_to(&answer, from).await.unwrap();
            }
        });
        let proxy = UdpProxy::start(addr, faults, seed).await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(proxy.addr()).await.unwrap();
        (proxy, client, tasks)
    }

    async fn ask(client: &UdpSocket, text: &[u8]) -> Vec<u8> {
        let mut buffer = [0; 64];
        client.send(text).await.unwrap();
        let length = client.recv(&mut buffer).await.unwrap();
        buffer[..length].to_vec()
    }

    #[tokio::test]
    async fn a_perfect_network_changes_nothing() {
        let (proxy, client, _tasks) = echo(Faults::NONE, 1).await;
        for text in [b"one", b"two"] {
            assert_eq!(ask(&client, text).await[..3], *text);
        }
        assert_eq!(proxy.counts(), Counts { forwarded: 4, ..Counts::default() });
    }

    #[tokio::test]
    async fn a_rebind_shows_another_port_to_the_target() {
        let (proxy, client, _tasks) = echo(Faults::NONE, 1).await;
        let before = ask(&client, b"x").await;
        proxy.rebind();
        let after = ask(&client, b"x").await;
        assert_ne!(before, after);
    }

    #[test]
    fn the_same_seed_loses_the_same_packets() {
        let throws = |seed, stream| {
            let mut dice = Dice::new(seed, stream);
            (0..1000).map(|_| dice.throw()).collect::<Vec<_>>()
        };
        assert_eq!(throws(7, 0), throws(7, 0));
        assert_ne!(throws(7, 0), throws(8, 0));
        assert_ne!(throws(7, 0), throws(7, 1));
        let lost = throws(7, 0).iter().filter(|&&throw| throw < 0.1).count();
        assert!((60..140).contains(&lost), "{lost} of 1,000 at 10 %");
    }
}
