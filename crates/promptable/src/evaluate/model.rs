//! What is measured: anything that answers prompts with masks.

use std::str::FromStr;

use kirie_data::Image;
use kirie_mask::Rle;
use kirie_sam::predictor::PROMPTS_PER_CALL;
use kirie_sam::{DecodeMode, Engine, Prediction, Predictor, Prompt};
use rayon::prelude::*;

use super::EvaluateError;

/// Answers prompts on one picture at a time.
pub trait Promptable {
    /// Its name, for reports.
    fn name(&self) -> &str;

    /// Whether it answers prompts without a box.
    fn takes_points(&self) -> bool {
        true
    }

    /// Makes itself ready for a picture. Called once per picture.
    ///
    /// # Errors
    /// [`EvaluateError::Sam`] when the model cannot run.
    fn set_picture(&mut self, picture: &Image) -> Result<(), EvaluateError>;

    /// One mask for each prompt, at the size of the picture that is set, in the prompts' order.
    ///
    /// # Errors
    /// [`EvaluateError::Sam`] for a prompt that cannot be answered, and when the model cannot run.
    fn masks(&mut self, prompts: &[Prompt]) -> Result<Vec<Answer>, EvaluateError>;
}

/// The answer to one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The pixels.
    pub mask: Rle,
    /// The model's own estimate of the IoU, where it has one.
    pub predicted_iou: Option<f32>,
    /// Low-resolution logits to start the next prompt from, where the model can.
    pub logits: Option<Vec<f32>>,
}

/// Which mask is the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MaskChoice {
    /// Of the three the one that the model rates highest: the published protocol, for all prompts.
    #[default]
    BestOfThree,
    /// The single mask of the decoder's first token.
    Single,
}

impl MaskChoice {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::BestOfThree => "best-of-three",
            Self::Single => "single",
        }
    }
}

impl FromStr for MaskChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::BestOfThree, Self::Single].into_iter().find(|choice| choice.name() == text);
        found.ok_or_else(|| format!("expected best-of-three or single, found {text:?}"))
    }
}

/// A model of the Segment Anything family.
pub struct SamModel<'a> {
    predictor: Predictor<'a>,
    mode: DecodeMode,
}

impl<'a> SamModel<'a> {
    /// A model run by `engine`. HQ models answer with their one mask either way.
    pub fn new(engine: &'a dyn Engine, choice: MaskChoice) -> Self {
        let mode = DecodeMode { multimask: choice == MaskChoice::BestOfThree, hq_only: false };
        Self { predictor: Predictor::new(engine), mode }
    }

    /// Answers boxes from a closer look; see [`Predictor::with_zoom`].
    pub fn with_zoom(mut self, context: Option<f64>) -> Self {
        self.predictor = self.predictor.with_zoom(context);
        self
    }
}

impl Promptable for SamModel<'_> {
    fn name(&self) -> &str {
        self.predictor.engine().model()
    }

    fn set_picture(&mut self, picture: &Image) -> Result<(), EvaluateError> {
        Ok(self.predictor.set_image(picture)?)
    }

    fn masks(&mut self, prompts: &[Prompt]) -> Result<Vec<Answer>, EvaluateError> {
        let predictor = &self.predictor;
        let answer = |mut prediction: Prediction| {
            prediction.keep_best();
            let logits = prediction.low_res.pop();
            let mask = predictor.masks_of(&prediction)?.mask(logits.as_deref().unwrap_or_default())?;
            // Those of a part of the picture cannot be fed to a prompt on the whole of it.
            let logits = logits.filter(|_| prediction.window.is_none());
            Ok(Answer { mask, predicted_iou: prediction.iou.pop(), logits })
        };
        let mut answers = Vec::with_capacity(prompts.len());
        // A call's three masks each are let go before the next call.
        for call in prompts.chunks(PROMPTS_PER_CALL) {
            let predictions = predictor.predict(call, self.mode)?;
            let masks: Result<Vec<Answer>, EvaluateError> = predictions.into_par_iter().map(answer).collect();
            answers.extend(masks?);
        }
        Ok(answers)
    }
}
