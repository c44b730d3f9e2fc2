//! [`Mode`]: what a cache is used for.

use clap::ValueEnum;

/// Which way results go between a run and a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Mode {
    /// Neither: every step runs, and nothing is kept there.
    Off,
    /// Results are used; new ones are not kept there.
    Read,
    /// Every step runs, and its result is kept there.
    Write,
    /// Results are used, and new ones kept.
    #[default]
    ReadWrite,
}

impl Mode {
    /// Whether results are used.
    pub fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    /// Whether new results are kept.
    pub fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadWrite => "read-write",
        }
    }
}
