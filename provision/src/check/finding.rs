//! What a check found.

use serde_json::{Value, json};

use crate::spec::CheckId;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    Warn,
    Fail,
    /// The operator has answered it in the configuration.
    Skip,
    /// It could not be determined.
    Unknown,
}

/// One check's result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    pub(crate) id: CheckId,
    pub(crate) verdict: Verdict,
    /// What was measured.
    pub(crate) value: String,
    /// What it was compared with.
    pub(crate) threshold: String,
    /// What to do; empty when nothing is to be done.
    pub(crate) advice: String,
    /// The measured numbers, for machines.
    pub(crate) numbers: Value,
}

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
            Verdict::Skip => "skip",
            Verdict::Unknown => "unknown",
        }
    }
}

impl Finding {
    pub(super) fn new(
        id: CheckId,
        verdict: Verdict,
        value: impl Into<String>,
        threshold: impl Into<String>,
    ) -> Finding {
        Finding {
            id,
            verdict,
            value: value.into(),
            threshold: threshold.into(),
            advice: String::new(),
            numbers: Value::Null,
        }
    }

    pub(super) fn advice(mut self, advice: impl Into<String>) -> Finding {
        self.advice = advice.into();
        self
    }

    pub(super) fn numbers(mut self, numbers: Value) -> Finding {
        self.numbers = numbers;
        self
    }

    /// The finding for machines.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "check": self.id.name(),
            "status": self.verdict.word(),
            "value": self.value,
            "threshold": self.threshold,
            "fix": self.advice,
            "numbers": self.numbers,
        })
    }
}
