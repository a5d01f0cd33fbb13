//! `--zoom`.

use std::str::FromStr;

use kirie_sam::registry;

/// From how close boxes are answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ZoomArg {
    /// As the model's row of the registry says.
    Auto,
    /// From the whole picture.
    Off,
    /// From a window so many times as large as the box.
    Context(f64),
}

impl FromStr for ZoomArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => match text.parse() {
                Ok(context) if (1.0..=10.0).contains(&context) => Ok(Self::Context(context)),
                _ => Err("expected auto, off, or a number from 1 to 10".to_owned()),
            },
        }
    }
}

impl ZoomArg {
    /// The window's size over the box's, for a model of that name.
    pub(crate) fn context(self, model: &str) -> Option<f64> {
        match self {
            Self::Auto => registry::variant(model).ok().and_then(|variant| variant.zoom),
            Self::Off => None,
            Self::Context(context) => Some(context),
        }
    }
}
