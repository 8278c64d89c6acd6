//! What is known of others, to set beside this machine's numbers.

use crate::speed::Scenario;

/// Where the numbers below come from.
pub const SOURCE: &str = "FD.io VPP nat44-ed: measured elsewhere (2 vCPU, 2.6 GHz TSC, 2 MiB huge pages, 64-byte UDP, flows hit \
                          at random, one worker, TSC cycles a packet from Ethernet input to interface output); only ratios \
                          on one machine compare. The floor is a loop that only touches one cache line a flow, here and there: \
                          what it takes here by what it took there says how much slower memory is here";

/// A row of the table: what natgate measures, what VPP takes elsewhere, and what natgate wants.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What the row is about.
    pub name: &'static str,
    /// Sessions.
    pub sessions: usize,
    /// Packets given to the engine at once.
    pub batch: usize,
    /// Whether the row is about new sessions instead of known ones.
    pub is_new: bool,
    /// Cycles of VPP: SNAT, DNAT, and forwarding without NAT.
    pub vpp: [Option<u32>; 3],
    /// Cycles of a loop that only touches one cache line a flow, on the machine where VPP was measured.
    pub floor: Option<f64>,
    /// Cycles that natgate is to take at most, and those that it aims at.
    pub wanted: (u32, u32),
}

impl Row {
    /// What is measured for a row.
    pub fn scenarios(&self) -> &'static [Scenario] {
        if self.is_new { &[Scenario::NewSession] } else { &[Scenario::Snat, Scenario::DnatPort] }
    }
}

const fn row(
    name: &'static str,
    sessions: usize,
    batch: usize,
    vpp: [Option<u32>; 3],
    wanted: (u32, u32),
) -> Row {
    Row { name, sessions, batch, is_new: false, vpp, floor: None, wanted }
}

const fn with_floor(row: Row, cycles: f64) -> Row {
    Row { floor: Some(cycles), ..row }
}

/// The table.
pub const ROWS: [Row; 8] = [
    row("1 session", 1, 256, [Some(106), Some(105), Some(41)], (70, 45)),
    with_floor(row("1,000 sessions", 1000, 256, [Some(128), Some(119), Some(41)], (100, 60)), 7.7),
    with_floor(row("65,536 sessions", 65_536, 256, [Some(403), Some(393), None], (150, 85)), 13.0),
    with_floor(row("1,048,576 sessions", 1_048_576, 256, [Some(1127), Some(1072), None], (250, 140)), 36.0),
    row("10,000,000 sessions", 10_000_000, 256, [None, None, None], (400, 200)),
    Row {
        name: "a new session (1M hosts, 64 EIPs)",
        sessions: 1_000_000,
        batch: 256,
        is_new: true,
        vpp: [Some(3400), Some(1470), None],
        floor: None,
        wanted: (700, 400),
    },
    row("1,000 sessions, batches of 4", 1000, 4, [Some(377), None, None], (200, 120)),
    row("1,000 sessions, batches of 1", 1000, 1, [Some(1185), None, None], (500, 250)),
];

/// Bytes a session: VPP's, and what natgate wants at most and aims at.
pub const BYTES_PER_SESSION: (u32, (u32, u32)) = (600, (192, 128));
