//! Views of a sample: what its region is cut to, and the random changes that a network is to see through.
//!
//! ```text
//! picture --choose a region, enlarge its box--> rectangle --crop, flip, colours, once a view--> views
//! ```

pub mod colour;
mod transform;

use kirie_data::{Image, resize_bilinear};
use kirie_engine::random::Streams;
use kirie_mask::Rle;
use rand::Rng;
use serde::{Deserialize, Serialize};

pub use transform::{Drawn, Jitter, Transform};

use crate::error::ContrastiveError;
use crate::regions::{Background, Region, RegionsConfig, choose, enlarged};

/// Mean of red, green and blue over ImageNet, 0..255.
pub const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
/// Standard deviation of red, green and blue over ImageNet, 0..255.
pub const STD: [f32; 3] = [58.395, 57.12, 57.375];

/// How views are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ViewsConfig {
    /// Published strengths.
    pub recipe: Recipe,
    /// Large views of a sample.
    pub global: usize,
    /// Their side, pixels.
    pub size: u32,
    /// Small views of a sample (multi-crop).
    pub local: usize,
    /// Their side, pixels.
    pub local_size: u32,
    /// Share of the area that a large view takes, in place of the recipe's.
    pub scale: Option<[f64; 2]>,
    /// Share of the area that a small view takes, in place of the recipe's.
    pub local_scale: Option<[f64; 2]>,
    /// Factor on the recipe's strength of colour jitter.
    pub strength: f64,
}

impl Default for ViewsConfig {
    fn default() -> Self {
        Self {
            recipe: Recipe::Samclr,
            global: 2,
            size: 64,
            local: 0,
            local_size: 32,
            scale: None,
            local_scale: None,
            strength: 1.0,
        }
    }
}

/// Published augmentations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// The SAMCLR authors' code for SimCLR and MoCo: crops of 0.5 to 1, colour strength 0.5.
    #[default]
    Samclr,
    /// SimCLR on ImageNet (appendix A, strength 1).
    Simclr,
    /// SimCLR on CIFAR-10: strength 0.5, no blur.
    Cifar,
    /// MoCo v2.
    Moco,
    /// DINO: the second large view is solarized and rarely blurred.
    Dino,
}

/// Views of one kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kind {
    /// Views of a sample.
    pub count: usize,
    /// How they are drawn.
    pub transform: Transform,
}

impl Recipe {
    /// All recipes.
    pub const ALL: [Self; 5] = [Self::Samclr, Self::Simclr, Self::Cifar, Self::Moco, Self::Dino];

    /// Shares of the area, of large and small views.
    fn scales(self) -> [[f64; 2]; 2] {
        match self {
            Self::Samclr => [[0.5, 1.0], [0.2, 0.5]],
            Self::Simclr | Self::Cifar => [[0.08, 1.0], [0.05, 0.14]],
            Self::Moco => [[0.2, 1.0], [0.05, 0.2]],
            Self::Dino => [[0.4, 1.0], [0.05, 0.4]],
        }
    }

    /// Strength of brightness, contrast, saturation and hue.
    fn strength(self) -> [f64; 4] {
        match self {
            Self::Samclr | Self::Cifar | Self::Moco => [0.4, 0.4, 0.4, 0.1],
            Self::Simclr => [0.8, 0.8, 0.8, 0.2],
            Self::Dino => [0.4, 0.4, 0.2, 0.1],
        }
    }

    /// Share of views blurred and solarized: of the first large view, the second, and small ones.
    fn blur_and_solarize(self) -> [[f64; 2]; 3] {
        match self {
            Self::Samclr | Self::Simclr | Self::Moco => [[0.5, 0.0]; 3],
            Self::Cifar => [[0.0, 0.0]; 3],
            Self::Dino => [[1.0, 0.0], [0.1, 0.2], [0.5, 0.0]],
        }
    }
}

impl ViewsConfig {
    /// Views of a sample.
    pub fn count(&self) -> usize {
        self.global + self.local
    }

    /// The kinds of views, large ones first, in the order of the views.
    pub fn kinds(&self) -> Vec<Kind> {
        let scales = self.recipe.scales();
        let of = |count: usize, size: u32, scale: [f64; 2], [blur, solarize]: [f64; 2]| Kind {
            count,
            transform: Transform {
                size,
                scale,
                flip: 0.5,
                jitter: 0.8,
                strength: self.recipe.strength().map(|strength| strength * self.strength),
                grayscale: 0.2,
                blur,
                solarize,
            },
        };
        let [first, second, small] = self.recipe.blur_and_solarize();
        let large = self.scale.unwrap_or(scales[0]);
        let mut kinds = if first == second {
            vec![of(self.global, self.size, large, first)]
        } else {
            // Where views differ, they take turns.
            vec![
                of(self.global.div_ceil(2), self.size, large, first),
                of(self.global / 2, self.size, large, second),
            ]
        };
        kinds.push(of(self.local, self.local_size, self.local_scale.unwrap_or(scales[1]), small));
        kinds.retain(|kind| kind.count > 0);
        kinds
    }

    /// Checks the numbers.
    pub(crate) fn check(&self) -> Result<(), ContrastiveError> {
        if self.global == 0 {
            return Err(ContrastiveError::setting("views.global", 0, "1 or more"));
        }
        if self.count() > 64 {
            return Err(ContrastiveError::setting(
                "views",
                self.count(),
                "64 at most, large and small together",
            ));
        }
        for (name, size) in [("views.size", self.size), ("views.local_size", self.local_size)] {
            if !(8..=1024).contains(&size) {
                return Err(ContrastiveError::setting(name, size, "8 to 1024 pixels"));
            }
        }
        for (name, scale) in [("views.scale", self.scale), ("views.local_scale", self.local_scale)] {
            if let Some([least, most]) = scale.filter(|[l, m]| !(*l > 0.0 && l <= m && *m <= 1.0)) {
                return Err(ContrastiveError::setting(
                    name,
                    format!("[{least}, {most}]"),
                    "two rising shares above 0 to 1",
                ));
            }
        }
        // Hue is at most half of the circle.
        if !(0.0..=2.5).contains(&self.strength) {
            return Err(ContrastiveError::setting("views.strength", self.strength, "0 to 2.5"));
        }
        Ok(())
    }
}

/// Views of one size, as a network takes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack {
    /// Side, pixels.
    pub size: u32,
    /// Views of a sample in it.
    pub views: usize,
    /// `[views * samples, 3, size, size]`, normalised; view after view.
    pub pixels: Vec<f32>,
}

/// All views of one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The rectangle that they are cut from: left, top, width and height, pixels of the picture.
    pub frame: [u32; 4],
    /// The chosen region's box, where there is one.
    pub region: Option<[u32; 4]>,
    /// Views in the order of [`ViewsConfig::kinds`]: side, and pixels of red, green, blue.
    pub views: Vec<(u32, Vec<u8>)>,
}

/// Draws all views of a sample from one picture.
///
/// Region and views come from streams of their own, by `place`: the same views are drawn of a region wherever it comes from.
///
/// # Errors
/// If a rectangle lies outside the picture.
pub fn sample(
    image: &Image,
    regions: &[Region],
    config: &RegionsConfig,
    kinds: &[Kind],
    streams: &Streams,
    place: &[u64],
) -> Result<Sample, ContrastiveError> {
    let size = [image.width(), image.height()];
    let region = choose(regions, config.choose, &mut streams.stream("region", place));
    let frame = region.map_or([0, 0, size[0], size[1]], |r| enlarged(r.bbox, config.box_scale, size));
    let cut;
    let (source, origin) = match region.and_then(|region| region.mask.as_ref()) {
        Some(mask) if config.background != Background::Keep => {
            cut = without_background(image, mask, frame, config.background)?;
            (&cut, [0, 0])
        }
        _ => (image, [frame[0], frame[1]]),
    };
    let mut rng = streams.stream("views", place);
    let mut views = Vec::new();
    for kind in kinds {
        for _ in 0..kind.count {
            views.push(view(source, origin, [frame[2], frame[3]], &kind.transform, &mut rng)?);
        }
    }
    Ok(Sample { frame, region: region.map(|r| r.bbox), views })
}

fn view(
    image: &Image,
    origin: [u32; 2],
    size: [u32; 2],
    transform: &Transform,
    rng: &mut impl Rng,
) -> Result<(u32, Vec<u8>), ContrastiveError> {
    let drawn = transform.draw(size, rng);
    Ok((transform.size, transform.apply(&drawn, image, origin)?))
}

/// A part of the picture with what is not in the mask replaced.
fn without_background(
    image: &Image,
    mask: &Rle,
    [x, y, width, height]: [u32; 4],
    background: Background,
) -> Result<Image, ContrastiveError> {
    // What is this many times smaller cannot be recognised.
    const SHRUNK: u32 = 16;
    let part = image.crop(x, y, width, height)?;
    let inside = mask.crop(x as usize, y as usize, width as usize, height as usize)?.to_mask();
    let blurred = match background {
        Background::Blur => {
            let small = resize_bilinear(&part, width.div_ceil(SHRUNK), height.div_ceil(SHRUNK))?;
            Some(resize_bilinear(&small, width, height)?.into_raw())
        }
        Background::Keep | Background::Mean => None,
    };
    let mean = MEAN.map(|v| v.round() as u8);
    let mut pixels = part.into_raw();
    for (n, (pixel, keep)) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(inside.as_slice()).enumerate() {
        if !keep {
            let other = blurred.as_ref().and_then(|blurred| blurred.as_chunks::<3>().0.get(n));
            *pixel = other.copied().unwrap_or(mean);
        }
    }
    Ok(Image::from_raw(width, height, pixels)?)
}

/// Puts the views of samples together, a stack a size, large ones first.
pub fn stacks(samples: &[Sample]) -> Vec<Stack> {
    let mut stacks: Vec<Stack> = Vec::new();
    let views = samples.first().map_or(0, |sample| sample.views.len());
    for v in 0..views {
        let size = samples[0].views[v].0;
        if stacks.last().is_none_or(|stack| stack.size != size) {
            stacks.push(Stack { size, views: 0, pixels: Vec::new() });
        }
        let Some(stack) = stacks.last_mut() else { continue };
        stack.views += 1;
        for (_, pixels) in samples.iter().filter_map(|sample| sample.views.get(v)) {
            normalise(pixels, &mut stack.pixels);
        }
    }
    stacks
}

/// Appends pixels of red, green, blue as `[3, pixels]`, with ImageNet's mean and deviation taken out.
pub fn normalise(pixels: &[u8], into: &mut Vec<f32>) {
    for channel in 0..3 {
        let table: [f32; 256] = std::array::from_fn(|v| (v as f32 - MEAN[channel]) / STD[channel]);
        into.extend(pixels.as_chunks::<3>().0.iter().map(|pixel| table[usize::from(pixel[channel])]));
    }
}

#[cfg(test)]
mod tests;
