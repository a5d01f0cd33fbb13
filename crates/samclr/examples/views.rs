//! How many views one core makes in a second.
//!
//! ```text
//! cargo run --release -p kirie-samclr --example views -- PICTURES [SIZE] [SECONDS]
//! ```
//!
//! PICTURES is a folder. Pictures are decoded once and kept; the time is that of choosing, cutting, resizing and changing colours, two
//! views a sample by each recipe, on one thread. What torchvision does to compare with, on one thread as well:
//! `RandomResizedCrop(SIZE, interpolation=BICUBIC)`, `RandomHorizontalFlip`, `RandomApply([ColorJitter], 0.8)`, `RandomGrayscale(0.2)`,
//! `RandomApply([GaussianBlur], 0.5)`, `ToTensor`, `Normalize`.

use std::error::Error;
use std::time::{Duration, Instant};

use kirie_data::datasets::open;
use kirie_engine::random::Streams;
use kirie_samclr::regions::RegionsConfig;
use kirie_samclr::views::{Recipe, ViewsConfig, sample, stacks};

/// Pictures that are kept.
const PICTURES: usize = 200;

#[allow(clippy::print_stdout, reason = "it is what the example is for")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("which folder of pictures?")?;
    let size: u32 = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let set = open(&folder, None)?;
    let began = Instant::now();
    let images: Vec<_> =
        set.samples.iter().take(PICTURES).map(|sample| set.picture(sample)).collect::<Result<_, _>>()?;
    let each = began.elapsed().as_secs_f64() / images.len().max(1) as f64;
    println!("{} pictures, decoded in {:.2} ms each", images.len(), 1e3 * each);
    let (regions, streams) = (RegionsConfig::default(), Streams::new(0));
    for recipe in Recipe::ALL {
        let kinds = ViewsConfig { recipe, size, ..ViewsConfig::default() }.kinds();
        let (began, mut views, mut n) = (Instant::now(), 0, 0_u64);
        while began.elapsed() < Duration::from_secs(seconds) {
            let image = &images[n as usize % images.len()];
            let drawn = sample(image, &[], &regions, &kinds, &streams, &[n])?;
            views += drawn.views.len();
            std::hint::black_box(stacks(&[drawn]));
            n += 1;
        }
        println!(
            "{recipe:?}: {:.0} views of {size} pixels a second",
            views as f64 / began.elapsed().as_secs_f64()
        );
    }
    Ok(())
}
