//! When to dial the hub, and where.
//!
//! Fed by the uplink task with what happened to the connection ([`Event`]); answers with one thing to do ([`Step`]).
//! A lost hub is dialled again for ever: at random moments within a ceiling that doubles, each of its addresses in
//! turn. A refusal that will not pass by itself (revoked, certificate expired, another CA, another version) bars the
//! way: it is told once, and tried again at long intervals, because operators reinstate devices and clocks get set.

use std::time::{Duration, Instant};

use crate::Refused;
use crate::backoff::{Backoff, full_jitter};
use crate::route::HubState;

/// Waits between dials.
///
/// Two seconds spread ten thousand devices that lost their hub at one moment to 5,000 handshakes a second, which is
/// what one machine can do; a minute is what a device in a tunnel should wait at most.
pub const DIAL: Backoff = Backoff { base: Duration::from_secs(2), max: Duration::from_secs(60) };

/// How long a connection must have held for earlier failures to be forgotten.
///
/// Without it a hub that greets and falls over at once would be dialled at the shortest interval for ever.
pub const STABLE_AFTER: Duration = Duration::from_secs(60);

/// Longest time from the first packet to the hub's greeting: name resolution, handshake and hello at a loss of 20 %.
pub const GREETED_WITHIN: Duration = Duration::from_secs(20);

/// Ceiling and floor of the waits while the way is barred.
///
/// A quarter to a whole hour: a thousand revoked devices cost the hub one handshake in two seconds.
pub const BARRED_MAX: Duration = Duration::from_secs(3600);
/// See [`BARRED_MAX`].
pub const BARRED_MIN: Duration = Duration::from_secs(900);

/// Floor and ceiling of the waits while somebody else answers at the hub's address.
///
/// Nothing is wrong with this device, and the stranger may be gone in a moment: a captive network, a hub restored from
/// the wrong backup. Were it barred like a revoked device, a passing impostor would silence it for an hour.
pub const STRANGER_MIN: Duration = Duration::from_secs(5);
/// See [`STRANGER_MIN`].
pub const STRANGER_MAX: Duration = Duration::from_secs(30);

/// Longest pause that a hub may ask for when it says goodbye; a hostile one must not silence a device for longer.
pub const GOODBYE_MAX: Duration = Duration::from_secs(600);

/// A refusal that does not pass by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bar {
    /// The hub's operator has revoked this device.
    Revoked,
    /// The hub does not know this device or this key.
    NotAuthorised,
    /// A certificate has expired by one of the clocks, this device's own for longer than the hub renews it.
    CertificateExpired,
    /// The hub shows a certificate of another CA.
    WrongCa,
    /// The hub speaks another major version.
    Version,
}

impl Bar {
    /// The code in metrics, logs and `edge-agent status`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::NotAuthorised => "not-authorised",
            Self::CertificateExpired => "certificate-expired",
            Self::WrongCa => "wrong-ca",
            Self::Version => "version",
        }
    }

    /// What to do next.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Revoked | Self::NotAuthorised => {
                "ask the hub's operator, then enrol again with a new token: `edge-agent enroll TOKEN`"
            }
            Self::CertificateExpired => {
                "set the clock if it is wrong, else enrol again with a new token: `edge-agent enroll TOKEN`"
            }
            Self::WrongCa => "this is not the hub that enrolled the device: check `hub` in agent.toml, or enrol again",
            Self::Version => "bring agent and hub to the same major version",
        }
    }
}

/// Where the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not started, or stopped for good.
    Stopped,
    /// The handshake is under way.
    Dialing {
        /// When it is given up.
        until: Instant,
    },
    /// The hello is under way.
    Greeting {
        /// When it is given up.
        until: Instant,
    },
    /// Greeted.
    Online {
        /// Since when.
        since: Instant,
    },
    /// Waiting before the next dial.
    BackingOff {
        /// When it comes.
        until: Instant,
    },
    /// Refused for a reason that does not pass by itself.
    Barred {
        /// Why.
        why: Bar,
        /// When it is tried again.
        until: Instant,
    },
}

impl State {
    /// The name in errors, logs and `edge-agent status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Dialing { .. } => "dialing",
            Self::Greeting { .. } => "greeting",
            Self::Online { .. } => "online",
            Self::BackingOff { .. } => "backing off",
            Self::Barred { .. } => "barred",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Begin.
    Start,
    /// The handshake is done.
    Connected,
    /// The hub has welcomed this device.
    Welcomed,
    /// The dial or the hello failed, or the hub would not serve the device now; it may ask for a pause.
    Failed {
        /// How long to stay away at least.
        retry_after: Option<Duration>,
    },
    /// The dial or the hello was refused, or a live connection was closed, for a reason that does not pass by itself.
    Refused(Bar),
    /// The connection is gone.
    Lost,
    /// The hub says that it goes; it may say for how long.
    Goodbye {
        /// How long to stay away at least.
        retry_after: Option<Duration>,
    },
    /// Something that may lift a bar or end a wait: another network, a new certificate, an operator's word.
    Nudge,
    /// The time of [`Uplink::poll_timeout`] has come. Harmless at any other time.
    Tick,
    /// The agent stops.
    Stop,
}

impl Event {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Connected => "connected",
            Self::Welcomed => "welcomed",
            Self::Failed { .. } => "failed",
            Self::Refused(_) => "refused",
            Self::Lost => "lost",
            Self::Goodbye { .. } => "goodbye",
            Self::Nudge => "nudge",
            Self::Tick => "tick",
            Self::Stop => "stop",
        }
    }
}

/// Order to the shell. An earlier connection is closed before any step but [`Step::Greet`] and [`Step::GoOnline`] is obeyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Dial this address (`host:port`); ends with [`Event::Connected`], [`Event::Failed`] or [`Event::Refused`].
    Dial {
        /// Which of the hub's addresses.
        address: String,
    },
    /// Wait.
    Wait {
        /// Until when.
        until: Instant,
    },
    /// Tell people (log, metrics, status) that the way is barred, then wait. Said once until the reason changes.
    Bar {
        /// Why.
        why: Bar,
        /// When it is tried again.
        until: Instant,
    },
    /// Close the connection for good.
    Close,
    /// Say hello; ends with [`Event::Welcomed`], [`Event::Failed`] or [`Event::Refused`].
    Greet,
    /// The device is online: tell [`crate::update`] and [`crate::renewal`], and send what waits in the outbox.
    GoOnline,
}

/// The connection to the hub.
#[derive(Debug, Clone)]
pub struct Uplink {
    addresses: Vec<String>,
    state: State,
    /// Which address is next.
    turn: usize,
    /// Failures in a row.
    failures: u32,
    /// The bar that was told last.
    told: Option<Bar>,
}

/// A hub without an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hub has no address: give at least one host:port")]
pub struct NoAddress;

impl Uplink {
    /// A connection that is not started; the hub's addresses (`host:port`) are tried in this order.
    ///
    /// # Errors
    /// [`NoAddress`].
    pub fn new(addresses: Vec<String>) -> Result<Self, NoAddress> {
        if addresses.is_empty() {
            return Err(NoAddress);
        }
        Ok(Self { addresses, state: State::Stopped, turn: 0, failures: 0, told: None })
    }

    /// Where the connection stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Failures in a row, for status and metrics.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// What [`crate::route`] may count on, given the connection's measured round trip.
    #[must_use]
    pub fn hub(&self, round_trip: Duration) -> HubState {
        match self.state {
            State::Online { .. } => HubState::Online { round_trip },
            State::Stopped
            | State::Dialing { .. }
            | State::Greeting { .. }
            | State::BackingOff { .. }
            | State::Barred { .. } => HubState::Away,
        }
    }

    /// Returns the time at which the shell must send [`Event::Tick`], and the reason.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.state {
            State::Stopped | State::Online { .. } => None,
            State::Dialing { until } => Some((until, "dialing takes too long")),
            State::Greeting { until } => Some((until, "greeting takes too long")),
            State::BackingOff { until } => Some((until, "next dial")),
            State::Barred { until, .. } => Some((until, "next dial of a barred device")),
        }
    }

    /// Decides what follows from `event`. `random` is uniform over all of `u64`.
    ///
    /// # Errors
    /// [`Refused`] for an event that makes no sense now; nothing has changed.
    pub fn handle(&mut self, event: Event, now: Instant, random: u64) -> Result<Vec<Step>, Refused> {
        let step = match (self.state, event) {
            (State::Stopped, Event::Start) => self.dial(now),
            (_, Event::Stop) => {
                self.state = State::Stopped;
                Step::Close
            }
            (State::Dialing { .. }, Event::Connected) => {
                self.state = State::Greeting { until: now + GREETED_WITHIN };
                Step::Greet
            }
            (State::Greeting { .. }, Event::Welcomed) => {
                self.state = State::Online { since: now };
                self.told = None;
                Step::GoOnline
            }
            (State::Dialing { .. } | State::Greeting { .. }, Event::Failed { retry_after }) => {
                self.wait(retry_after, now, random)
            }
            // A live connection is refused when its device is revoked.
            (State::Dialing { .. } | State::Greeting { .. } | State::Online { .. }, Event::Refused(why)) => {
                self.bar(why, now, random)
            }
            (State::Greeting { .. }, Event::Lost) => self.wait(None, now, random),
            (State::Greeting { .. }, Event::Goodbye { retry_after }) => self.wait(retry_after, now, random),
            (State::Online { since }, Event::Lost) => {
                self.forgive(since, now);
                self.wait(None, now, random)
            }
            (State::Online { since }, Event::Goodbye { retry_after }) => {
                self.forgive(since, now);
                self.wait(retry_after, now, random)
            }
            (State::Dialing { until } | State::Greeting { until }, Event::Tick) if now >= until => {
                self.wait(None, now, random)
            }
            (State::BackingOff { until } | State::Barred { until, .. }, Event::Tick) if now >= until => self.dial(now),
            (State::BackingOff { .. } | State::Barred { .. }, Event::Nudge) => self.dial(now),
            (_, Event::Tick | Event::Nudge) => return Ok(Vec::new()),

            (State::Stopped, Event::Connected | Event::Welcomed | Event::Failed { .. } | Event::Refused(_))
            | (State::Stopped, Event::Lost | Event::Goodbye { .. })
            | (State::Dialing { .. }, Event::Start | Event::Welcomed | Event::Lost | Event::Goodbye { .. })
            | (State::Greeting { .. }, Event::Start | Event::Connected)
            | (State::Online { .. }, Event::Start | Event::Connected | Event::Welcomed | Event::Failed { .. })
            | (
                State::BackingOff { .. } | State::Barred { .. },
                Event::Start
                | Event::Connected
                | Event::Welcomed
                | Event::Failed { .. }
                | Event::Refused(_)
                | Event::Lost
                | Event::Goodbye { .. },
            ) => return Err(Refused { machine: "uplink", state: self.state.name(), event: event.name() }),
        };
        Ok(vec![step])
    }

    fn dial(&mut self, now: Instant) -> Step {
        self.state = State::Dialing { until: now + GREETED_WITHIN };
        // The constructor saw to it that there is one.
        let address = self.addresses.get(self.turn % self.addresses.len()).cloned().unwrap_or_default();
        Step::Dial { address }
    }

    /// Backs off; the ceiling doubles when every address has had its turn.
    fn wait(&mut self, at_least: Option<Duration>, now: Instant, random: u64) -> Step {
        self.failures = self.failures.saturating_add(1);
        self.turn = (self.turn + 1) % self.addresses.len();
        let addresses = u32::try_from(self.addresses.len()).unwrap_or(u32::MAX);
        let rounds = self.failures.div_ceil(addresses);
        let pause = at_least.unwrap_or_default().min(GOODBYE_MAX);
        let until = now + pause + DIAL.delay(rounds, random);
        self.state = State::BackingOff { until };
        Step::Wait { until }
    }

    fn bar(&mut self, why: Bar, now: Instant, random: u64) -> Step {
        self.failures = self.failures.saturating_add(1);
        self.turn = (self.turn + 1) % self.addresses.len();
        let (least, most) = match why {
            Bar::WrongCa => (STRANGER_MIN, STRANGER_MAX),
            Bar::Revoked | Bar::CertificateExpired | Bar::NotAuthorised | Bar::Version => (BARRED_MIN, BARRED_MAX),
        };
        let until = now + least + full_jitter(most.saturating_sub(least), random);
        self.state = State::Barred { why, until };
        if self.told == Some(why) {
            return Step::Wait { until };
        }
        self.told = Some(why);
        Step::Bar { why, until }
    }

    fn forgive(&mut self, since: Instant, now: Instant) {
        if now.saturating_duration_since(since) >= STABLE_AFTER {
            self.failures = 0;
        }
    }
}
