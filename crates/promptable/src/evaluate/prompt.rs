//! What a model is asked with.

use std::fmt;
use std::str::FromStr;

/// Most clicks on one object.
const MAX_CLICKS: u32 = 1000;

/// What a model is asked with, one object at a time; written `box` or `points:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PromptKind {
    /// The object's own box.
    Box,
    /// So many clicks, each where the answer to those before is most wrong.
    Points(u32),
}

impl fmt::Display for PromptKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Box => f.write_str("box"),
            Self::Points(clicks) => write!(f, "points:{clicks}"),
        }
    }
}

impl FromStr for PromptKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "box" {
            return Ok(Self::Box);
        }
        let clicks = text.strip_prefix("points:").and_then(|n| n.parse().ok());
        match clicks {
            Some(clicks @ 1..=MAX_CLICKS) => Ok(Self::Points(clicks)),
            _ => Err(format!("expected box, or points:N with N from 1 to {MAX_CLICKS}, found {text:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        for (text, kind) in [("box", PromptKind::Box), ("points:3", PromptKind::Points(3))] {
            assert_eq!(text.parse(), Ok(kind));
            assert_eq!(kind.to_string(), text);
        }
        for bad in ["", "points", "points:", "points:0", "points:-1", "points:1001", "Box", "boxes"] {
            assert!(bad.parse::<PromptKind>().is_err(), "{bad}");
        }
    }
}
