//! How good the features are while training goes on.

use burn::tensor::Device;

use crate::config::TrainConfig;
use crate::data::{Labelled, Pictures};
use crate::error::ContrastiveError;
use crate::evaluate::{Features, centre_view, features_of_views, knn_accuracy};
use crate::health::{rank_me, spread};
use crate::model::Encoder;

/// Pictures of the training sets that are looked at where there are no labelled ones.
const UNLABELLED: usize = 256;

/// Pictures to judge features by.
#[derive(Debug)]
pub struct Probe {
    /// Views, and their side, pixels.
    views: Vec<Vec<u8>>,
    size: u32,
    /// Labels, and which rows are asked about; the others are the bank.
    labelled: Option<(Vec<u32>, [Vec<usize>; 2])>,
    k: usize,
    temperature: f64,
}

impl Probe {
    /// The labelled pictures that a configuration names; without, some of those that are trained on.
    ///
    /// # Errors
    /// Sets and pictures that cannot be read, and sets too small to ask about anything.
    pub fn open(config: &TrainConfig, pictures: &Pictures) -> Result<Self, ContrastiveError> {
        let Some(probe) = &config.probe else {
            let count = pictures.len().min(UNLABELLED);
            let size = config.views.size;
            let views: Result<Vec<_>, ContrastiveError> = (0..count)
                .map(|i| Ok(centre_view(&*pictures.decoded(i * pictures.len() / count)?, size)?))
                .collect();
            return Ok(Self { views: views?, size, labelled: None, k: 0, temperature: 1.0 });
        };
        let path = config.set_path(&probe.path);
        let set = Labelled::open(&path, Some(&probe.split), probe.limit)?;
        let size = if probe.size == 0 { config.views.size } else { probe.size };
        let all: Vec<usize> = (0..set.samples.len()).collect();
        let views: Result<Vec<_>, ContrastiveError> =
            all.iter().map(|i| Ok(centre_view(&set.read(*i)?, size)?)).collect();
        let parts = set.parts(probe.one_in);
        if parts.iter().any(Vec::is_empty) {
            return Err(ContrastiveError::FewPictures {
                what: format!("probe {}", path.display()),
                found: all.len(),
                expected: 2,
                advice: format!("one in {} is asked about, by the others", probe.one_in),
            });
        }
        Ok(Self {
            views: views?,
            size,
            labelled: Some((set.labels(&all), parts)),
            k: probe.k,
            temperature: probe.temperature,
        })
    }

    /// Figures of an encoder without autodiff.
    ///
    /// # Errors
    /// Features that are no numbers.
    pub fn score(&self, encoder: &Encoder, device: &Device) -> Result<Vec<(String, f64)>, ContrastiveError> {
        let (rows, width) = features_of_views(encoder, &self.views, self.size, device, &mut |_| {});
        let mut figures = Vec::new();
        let rank = rank_me(&rows, width);
        let spread = spread(&rows, width) * (width as f64).sqrt();
        if let Some((labels, [asked, bank])) = &self.labelled {
            let all = Features { rows, width, labels: labels.clone() };
            let accuracy = knn_accuracy(&all.select(bank), &all.select(asked), self.k, self.temperature)?;
            figures.push(("knn".to_owned(), accuracy));
        }
        figures.push(("rank_me".to_owned(), rank));
        figures.push(("spread".to_owned(), spread));
        Ok(figures)
    }
}
