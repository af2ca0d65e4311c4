//! Why the command ends without success: the cause, the cure, and the exit code that scripts see.

use std::fmt;
use std::process::ExitCode;

/// What was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A transfer failed, or bytes are wrong.
    Transfer,
    /// The arguments make no sense together.
    Usage,
    /// No library, no engine, no peer: nothing was measured.
    Setup,
    /// `--strict` and a target was missed.
    Missed,
}

/// One line for stderr.
#[derive(Debug, Clone)]
pub(crate) struct Fail {
    pub(crate) kind: Kind,
    pub(crate) cause: String,
    pub(crate) cure: String,
}

pub(crate) type Result<T> = std::result::Result<T, Fail>;

impl Fail {
    pub(crate) fn transfer(cause: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { kind: Kind::Transfer, cause: cause.into(), cure: cure.into() }
    }

    pub(crate) fn usage(cause: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, cause: cause.into(), cure: cure.into() }
    }

    pub(crate) fn setup(cause: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { kind: Kind::Setup, cause: cause.into(), cure: cure.into() }
    }

    /// For system calls: the cure depends on the call, so the caller gives it.
    pub(crate) fn system(what: &str, error: &std::io::Error, cure: &str) -> Self {
        Self::setup(format!("{what}: {error}"), cure)
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Transfer => 1,
            Kind::Usage => 2,
            Kind::Setup => 3,
            Kind::Missed => 4,
        })
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause.replace('\n', " "))?;
        if self.cure.is_empty() { Ok(()) } else { write!(f, " (cure: {})", self.cure) }
    }
}
