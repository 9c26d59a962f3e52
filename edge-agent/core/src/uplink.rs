//! When to dial the hub, and where.
//!
//! Fed by the uplink task with what happened to the connection ([`Event`]); answers with one thing to do ([`Step`]).
//! A lost hub is dialled again for ever: at random moments within a ceiling that doubles, each of its addresses in
//! turn. A refusal that will not pass by itself (revoked, certificate expired, another CA, another version) bars the
//! way: it is reported once, and tried again at long intervals, because operators reinstate devices and clocks get set.

use std::time::{Duration, Instant};

use crate::Refused;
use crate::backoff::{Backoff, full_jitter};
use crate::route::HubState;

/// Waits between dials.
///
/// Two seconds spread ten thousand devices that lost their hub at one moment to 5,000 handshakes a second, which is
/// what one machine can do; a minute is what a device in a tunnel should wait at most.
pub const DIAL: Backoff = Backoff { base: Duration::from_secs(2), max: Duration::from_secs(60) };

/// Minimum age of a connection at its end for earlier failures to be forgotten.
///
/// Without it a hub that greets and falls over at once would be dialled at the shortest interval for ever.
pub const STABLE_AFTER: Duration = Duration::from_secs(60);

/// Longest time from the first packet to the hub's greeting: name resolution, handshake and hello at a loss of 20 %.
pub const GREETED_WITHIN: Duration = Duration::from_secs(20);

/// Ceiling and floor of the waits while the way is rejected.
///
/// A quarter to a whole hour: a thousand revoked devices cost the hub one handshake in two seconds.
pub const REJECTED_MAX: Duration = Duration::from_secs(3600);
/// Minimum wait of a refused device; see [`REJECTED_MAX`].
pub const REJECTED_MIN: Duration = Duration::from_secs(900);

/// Floor and ceiling of the waits while somebody else answers at the hub's address.
///
/// Nothing is wrong with this device, and the stranger may be gone in a moment: a captive network, a hub restored from
/// the wrong backup. Were it rejected like a revoked device, a passing impostor would silence it for an hour.
pub const STRANGER_MIN: Duration = Duration::from_secs(5);
/// Maximum wait of a device that met another hub; see [`STRANGER_MIN`].
pub const STRANGER_MAX: Duration = Duration::from_secs(30);

/// Longest pause that a hub may ask for when it says goodbye; a hostile one must not silence a device for longer.
pub const GOODBYE_MAX: Duration = Duration::from_secs(600);

/// A refusal that does not pass by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rejection {
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

impl Rejection {
    /// Returns the code in metrics, logs and `edge-agent status`.
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

    /// Returns advice for a person.
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

/// State of the connection to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not started, or stopped for good.
    Stopped,
    /// The handshake is under way.
    Dialing {
        /// Deadline of this attempt.
        until: Instant,
    },
    /// The hello is under way.
    Greeting {
        /// Deadline of this attempt.
        until: Instant,
    },
    /// Connected and greeted.
    Online {
        /// Time of the greeting.
        since: Instant,
    },
    /// Waiting before the next dial.
    BackingOff {
        /// Time of the next dial.
        until: Instant,
    },
    /// Refused for a reason that does not pass by itself.
    Rejected {
        /// Reason for the refusal.
        why: Rejection,
        /// Time of the next dial.
        until: Instant,
    },
}

impl State {
    /// Returns the name in errors, logs and `edge-agent status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Dialing { .. } => "dialing",
            Self::Greeting { .. } => "greeting",
            Self::Online { .. } => "online",
            Self::BackingOff { .. } => "backing off",
            Self::Rejected { .. } => "rejected",
        }
    }
}

/// Input of the connection's state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Begin to connect.
    Start,
    /// The handshake is done.
    Connected,
    /// The hub has welcomed this device.
    Welcomed,
    /// The dial or the hello failed, or the hub would not serve the device now; it may ask for a pause.
    Failed {
        /// Minimum time to stay away.
        retry_after: Option<Duration>,
    },
    /// The dial or the hello was refused, or a live connection was closed, for a reason that does not pass by itself.
    Rejected(Rejection),
    /// The connection is gone.
    Lost,
    /// The hub says that it goes; it may say for how long.
    Goodbye {
        /// Minimum time to stay away.
        retry_after: Option<Duration>,
    },
    /// Something that may end a rejection or a wait: another network, a new certificate, an operator's word.
    Nudge,
    /// The time of [`Uplink::poll_timeout`] has come. Harmless at any other time.
    Tick,
    /// Stop for good, with the agent.
    Stop,
}

impl Event {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Connected => "connected",
            Self::Welcomed => "welcomed",
            Self::Failed { .. } => "failed",
            Self::Rejected(_) => "rejected",
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
    /// Dial this address (`host:port`); ends with [`Event::Connected`], [`Event::Failed`] or [`Event::Rejected`].
    Dial {
        /// One of the hub's addresses.
        address: String,
    },
    /// Wait until a time.
    Wait {
        /// Time of the next dial.
        until: Instant,
    },
    /// Report the rejection (log, metrics, status), then wait. Not repeated until the reason changes.
    Reject {
        /// Reason for the refusal.
        why: Rejection,
        /// Time of the next dial.
        until: Instant,
    },
    /// Close the connection for good.
    Close,
    /// Say hello; ends with [`Event::Welcomed`], [`Event::Failed`] or [`Event::Rejected`].
    Greet,
    /// The device is online: pass that to [`crate::update`] and [`crate::renewal`], and send the outbox.
    GoOnline,
}

/// The connection to the hub.
#[derive(Debug, Clone)]
pub struct Uplink {
    addresses: Vec<String>,
    state: State,
    /// Index of the next address.
    next: usize,
    /// Failures in a row.
    failures: u32,
    /// Rejection that was reported last.
    logged: Option<Rejection>,
}

/// A hub without an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hub has no address: give at least one host:port")]
pub struct NoAddress;

impl Uplink {
    /// Creates a connection that is not started; the hub's addresses (`host:port`) are tried in this order.
    ///
    /// # Errors
    /// [`NoAddress`].
    pub fn new(addresses: Vec<String>) -> Result<Self, NoAddress> {
        if addresses.is_empty() {
            return Err(NoAddress);
        }
        Ok(Self { addresses, state: State::Stopped, next: 0, failures: 0, logged: None })
    }

    /// Returns the state of the connection.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns the number of failures in a row, for status and metrics.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns the state of the hub for [`crate::route`], given the connection's measured round trip.
    #[must_use]
    pub fn hub(&self, round_trip: Duration) -> HubState {
        match self.state {
            State::Online { .. } => HubState::Online { round_trip },
            State::Stopped
            | State::Dialing { .. }
            | State::Greeting { .. }
            | State::BackingOff { .. }
            | State::Rejected { .. } => HubState::Away,
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
            State::Rejected { until, .. } => Some((until, "next dial of a rejected device")),
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
                self.logged = None;
                Step::GoOnline
            }
            (State::Dialing { .. } | State::Greeting { .. }, Event::Failed { retry_after }) => {
                self.wait(retry_after, now, random)
            }
            // A live connection is refused when its device is revoked.
            (State::Dialing { .. } | State::Greeting { .. } | State::Online { .. }, Event::Rejected(why)) => {
                self.reject(why, now, random)
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
            (State::BackingOff { until } | State::Rejected { until, .. }, Event::Tick) if now >= until => {
                self.dial(now)
            }
            (State::BackingOff { .. } | State::Rejected { .. }, Event::Nudge) => self.dial(now),
            (_, Event::Tick | Event::Nudge) => return Ok(Vec::new()),

            (State::Stopped, Event::Connected | Event::Welcomed | Event::Failed { .. } | Event::Rejected(_))
            | (State::Stopped, Event::Lost | Event::Goodbye { .. })
            | (State::Dialing { .. }, Event::Start | Event::Welcomed | Event::Lost | Event::Goodbye { .. })
            | (State::Greeting { .. }, Event::Start | Event::Connected)
            | (State::Online { .. }, Event::Start | Event::Connected | Event::Welcomed | Event::Failed { .. })
            | (
                State::BackingOff { .. } | State::Rejected { .. },
                Event::Start
                | Event::Connected
                | Event::Welcomed
                | Event::Failed { .. }
                | Event::Rejected(_)
                | Event::Lost
                | Event::Goodbye { .. },
            ) => return Err(Refused { machine: "uplink", state: self.state.name(), event: event.name() }),
        };
        Ok(vec![step])
    }

    fn dial(&mut self, now: Instant) -> Step {
        self.state = State::Dialing { until: now + GREETED_WITHIN };
        // The constructor saw to it that there is one.
        let address = self.addresses.get(self.next % self.addresses.len()).cloned().unwrap_or_default();
        Step::Dial { address }
    }

    /// Backs off; the ceiling doubles when every address has had its turn.
    fn wait(&mut self, at_least: Option<Duration>, now: Instant, random: u64) -> Step {
        self.failures = self.failures.saturating_add(1);
        self.next = (self.next + 1) % self.addresses.len();
        let addresses = u32::try_from(self.addresses.len()).unwrap_or(u32::MAX);
        let rounds = self.failures.div_ceil(addresses);
        let pause = at_least.unwrap_or_default().min(GOODBYE_MAX);
        let until = now + pause + DIAL.delay(rounds, random);
        self.state = State::BackingOff { until };
        Step::Wait { until }
    }

    fn reject(&mut self, why: Rejection, now: Instant, random: u64) -> Step {
        self.failures = self.failures.saturating_add(1);
        self.next = (self.next + 1) % self.addresses.len();
        let (least, most) = match why {
            Rejection::WrongCa => (STRANGER_MIN, STRANGER_MAX),
            Rejection::Revoked | Rejection::CertificateExpired | Rejection::NotAuthorised | Rejection::Version => {
                (REJECTED_MIN, REJECTED_MAX)
            }
        };
        let until = now + least + full_jitter(most.saturating_sub(least), random);
        self.state = State::Rejected { why, until };
        if self.logged == Some(why) {
            return Step::Wait { until };
        }
        self.logged = Some(why);
        Step::Reject { why, until }
    }

    fn forgive(&mut self, since: Instant, now: Instant) {
        if now.saturating_duration_since(since) >= STABLE_AFTER {
            self.failures = 0;
        }
    }
}
