//! What became of a block that was found here.

/// Where a block stands now. Nothing in a chain is final: a reorganisation can take a block out and bring it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is part of the best chain.
    InChain {
        /// Blocks from it to the tip, itself counted: 1 at the tip.
        confirmations: u32,
    },
    /// It is not part of the best chain: the source keeps it beside that, or another block has its height.
    Orphaned,
    /// The source does not know it, and no block has its height yet: worth offering again.
    Missing,
}

/// Why the fate of a block cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FateError {
    /// There is no answer now; another attempt makes sense.
    #[error("{0}")]
    Unreachable(String),
    /// This source can never tell.
    #[error("{0}")]
    NotKnown(&'static str),
}
