//! The stages of a batch, for whoever times them.

/// A stage of [`Engine::process`](crate::nat::Engine::process); each goes over the whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Headers, keys, hashes; index buckets on their way.
    Parse,
    /// Index buckets; sessions on their way.
    Probe,
    /// What becomes of each packet, and rewriting it.
    Decide,
    /// Expiry and other timers.
    Timers,
}

impl Stage {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [Self::Parse, Self::Probe, Self::Decide, Self::Timers];

    /// Its name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Probe => "probe",
            Self::Decide => "decide",
            Self::Timers => "timers",
        }
    }
}

/// Told whenever a batch has passed a stage. `()` does not listen, and costs nothing.
pub trait Observer {
    /// The batch has passed a stage.
    fn passed(&mut self, stage: Stage);
}

impl Observer for () {
    #[inline(always)]
    fn passed(&mut self, _: Stage) {}
}
