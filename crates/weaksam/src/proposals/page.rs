//! The proposals to look at.

use std::collections::BTreeMap;

use kirie_data::Image;
use kirie_mask::Point;
use kirie_run::Stop;
use kirie_run::report::{BarSeries, Bars, Page, Picture};

use super::{Part, ProposalConfig, Tools, find};
use crate::WeakError;
use crate::files::{Proposals, Source, to_bbox};
use crate::show;

/// Pictures shown.
const EXAMPLES: usize = 6;
/// Boxes drawn into a picture, at most.
const DRAWN: usize = 25;

/// Pictures of how a picture's proposals came about, and what they show.
pub struct Example {
    /// The picture's file.
    file: String,
    panels: Vec<(String, Image)>,
}

impl Example {
    /// Looks at some pictures, spread evenly, once more.
    ///
    /// # Errors
    /// As [`super::propose`].
    pub fn some(
        pictures: Part<'_>,
        tools: &Tools<'_>,
        config: &ProposalConfig,
        stop: &Stop,
    ) -> Result<Vec<Self>, WeakError> {
        let count = EXAMPLES.min(pictures.len());
        (0..count).map(|n| Self::of(pictures, n * pictures.len() / count, tools, config, stop)).collect()
    }

    fn of(
        pictures: Part<'_>,
        index: usize,
        tools: &Tools<'_>,
        config: &ProposalConfig,
        stop: &Stop,
    ) -> Result<Self, WeakError> {
        let (_, file, _) = pictures.at(index);
        let found = find(pictures, index, tools, config, stop).map_err(WeakError::of_picture(file))?;
        let mut panels = Vec::new();
        if let Some(maps) = &found.maps {
            let size = [maps.height, maps.width];
            let name = |class: usize| tools.classes.get(class).map_or("?", String::as_str);
            for (at, class) in maps.classes.iter().enumerate().take(2) {
                let coarse = show::heat(&found.image, &maps.coarse[at], size)?;
                panels.push((format!("coarse map of {}", name(*class)), coarse));
                if let Some(fine) = maps.fine.get(at) {
                    panels.push((
                        format!("fine map of {}", name(*class)),
                        show::heat(&found.image, fine, size)?,
                    ));
                }
            }
            if let Some(first) = maps.cross.first().and_then(|maps| maps.last()) {
                panels.push(("attention of one head".to_owned(), show::heat(&found.image, first, size)?));
            }
        }
        let cues = found.cues.coarse.iter().chain(&found.cues.fine).flatten().chain(&found.cues.cross);
        let points: Vec<Point> = cues.map(|[x, y]| Point { x: *x, y: *y }).collect();
        let boxes = |grid: bool| {
            let mut chosen: Vec<_> = found
                .proposals
                .iter()
                .filter(|p| matches!(p.source, Source::Grid | Source::Search) == grid)
                .collect();
            chosen.sort_by(|a, b| b.score.total_cmp(&a.score));
            let all = chosen.len();
            (chosen.into_iter().take(DRAWN).map(|p| to_bbox(p.corners)).collect::<Vec<_>>(), all)
        };
        if !points.is_empty() {
            let (cued, all) = boxes(false);
            let caption = format!("{} points, and the best of their {all} boxes", points.len());
            panels.push((caption, show::boxes(&found.image, &cued, &points)?));
        }
        let (others, all) = boxes(true);
        if !others.is_empty() {
            let caption = format!("the best of the {all} other boxes");
            panels.push((caption, show::boxes(&found.image, &others, &[])?));
        }
        Ok(Self { file: file.to_owned(), panels })
    }
}

/// A self-contained page. `about` says, in names and values, how the proposals were made.
///
/// # Errors
/// If the figures have no JSON form.
pub fn page(
    proposals: &Proposals,
    examples: &[Example],
    about: &[(String, String)],
) -> Result<Page, WeakError> {
    let mut sources: BTreeMap<Source, usize> = BTreeMap::new();
    for source in proposals.images.iter().flat_map(|image| &image.source) {
        *sources.entry(*source).or_default() += 1;
    }
    let pictures = proposals.images.len().max(1) as f64;
    let all: usize = sources.values().sum();
    let mut page = Page::new("Proposals");
    let mut entries = about.to_vec();
    entries.push(("Pictures".to_owned(), proposals.images.len().to_string()));
    entries.push(("Classes".to_owned(), proposals.classes.join(", ")));
    entries.push(("Proposals a picture".to_owned(), format!("{:.1}", all as f64 / pictures)));
    page.key_values(&entries);
    page.bars(&Bars {
        title: "Proposals a picture, by what asked for them".to_owned(),
        labels: sources.keys().map(|source| source_name(*source).to_owned()).collect(),
        series: vec![BarSeries {
            name: "Proposals".to_owned(),
            values: sources.values().map(|count| *count as f64 / pictures).collect(),
        }],
        full: None,
    });
    for example in examples {
        page.heading(&example.file);
        let panels: Vec<Picture<'_>> =
            example.panels.iter().map(|(caption, image)| Picture { caption, image: image.rgb() }).collect();
        page.pictures(&panels);
    }
    Ok(page)
}

/// A source in words.
pub fn source_name(source: Source) -> &'static str {
    match source {
        Source::Grid => "grid",
        Source::Coarse => "coarse maps",
        Source::Fine => "fine maps",
        Source::Cross => "attention",
        Source::Search => "selective search",
    }
}
