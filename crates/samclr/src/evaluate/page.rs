//! A page that shows what was found.

use kirie_data::Image;
use kirie_run::report::{HoverMap, LineChart, MapPoint, Page, PictureMap, Series};

use super::{ByShare, Evaluation, Features};
use crate::health::principal_plane;

/// Thumbnails on the map, at most.
const THUMBNAILS: usize = 250;

/// The page of an evaluation: the accuracies by share of labels, and a map of the features of the pictures asked about, with
/// `thumbnails` by their order.
pub fn page(
    title: &str,
    evaluation: &Evaluation,
    test: &Features,
    thumbnails: &[Option<Image>],
    about: &[(String, String)],
) -> Page {
    let percent = |share: f64| format!("{:.2}", 100.0 * share);
    let mut page = Page::new(title);
    page.key_values(about);
    let protocol = &evaluation.protocol;
    page.paragraph(&format!(
        "Frozen features of {} numbers. Nearest neighbours: temperature {}, features of length 1. Linear classifier: {} \
         epochs in batches of {}, rate {} for 256, accuracy after the last epoch. {} pictures to learn from, {} asked about, each \
         at {} pixels; the largest class has {} % of the latter.",
        evaluation.width,
        protocol.temperature,
        protocol.linear.epochs,
        protocol.linear.batch,
        protocol.linear.rate,
        evaluation.pictures[0],
        evaluation.pictures[1],
        protocol.size,
        percent(evaluation.chance),
    ));
    let with_spread = |[mean, deviation]: [f64; 2]| {
        if deviation > 0.0 { format!("{} ± {}", percent(mean), percent(deviation)) } else { percent(mean) }
    };
    let linear = |share: &ByShare| share.linear.map_or_else(|| "-".to_owned(), with_spread);
    let rows: Vec<Vec<String>> = evaluation
        .by_share
        .iter()
        .map(|s| vec![percent(s.share), s.labels.to_string(), s.k.to_string(), with_spread(s.knn), linear(s)])
        .collect();
    page.heading("Accuracy")
        .table(&["labels used, %", "labels", "k", "nearest neighbours, %", "linear, %"], &rows);
    if let Some(reason) = evaluation.by_share.iter().find_map(|share| share.diverged.as_ref()) {
        page.paragraph(&format!("No figure where {reason}."));
    }
    if evaluation.by_share.len() > 1 {
        let line = |name: &str, value: &dyn Fn(&ByShare) -> Option<f64>| Series {
            name: name.to_owned(),
            points: evaluation
                .by_share
                .iter()
                .filter_map(|s| Some((100.0 * s.share, 100.0 * value(s)?)))
                .collect(),
        };
        page.line_chart(&LineChart {
            title: "Accuracy by share of labels".to_owned(),
            x_label: "labels used, %".to_owned(),
            y_label: "right, %".to_owned(),
            series: vec![
                line("nearest neighbours", &|s| Some(s.knn[0])),
                line("linear", &|s| s.linear.map(|[mean, _]| mean)),
            ],
            ..LineChart::default()
        });
    }
    let (places, shares) = principal_plane(&test.rows, test.width);
    let every = places.len().div_ceil(THUMBNAILS).max(1);
    let points = places.iter().enumerate().map(|(i, place)| MapPoint {
        x: place[0],
        y: place[1],
        group: test
            .labels
            .get(i)
            .and_then(|l| evaluation.classes.get(*l as usize))
            .cloned()
            .unwrap_or_default(),
        name: String::new(),
        picture: thumbnails.get(i).and_then(Option::as_ref).filter(|_| i % every == 0).map(Image::rgb),
    });
    page.heading("Map of the features");
    page.paragraph(&format!(
        "The two widest directions of the features of the pictures asked about (principal components; they hold {} % and {} % of the \
         variance). The features use about {:.1} of {} directions (RankMe); their spread is {:.2} of 1.",
        percent(shares[0]),
        percent(shares[1]),
        evaluation.rank_me,
        evaluation.width,
        evaluation.spread,
    ));
    page.picture_map(&PictureMap { title: "Principal components".to_owned(), points: points.collect() });
    page
}

/// What a map of features shows of a picture.
#[derive(Clone, Debug)]
pub struct Plotted {
    /// Which one it is.
    pub name: String,
    /// Its class.
    pub class: String,
    /// The picture; it may be shrunk.
    pub picture: Image,
    /// Where it lies.
    pub place: [f64; 2],
}

/// The page of a map on which neighbours stay neighbours ([`super::neighbour_map`]); it shows pictures under the pointer.
pub fn plot(title: &str, pictures: &[Plotted], about: &[(String, String)]) -> Page {
    let mut page = Page::new(title);
    page.key_values(about);
    page.paragraph(
        "Pictures with like features lie together. Distances between groups, and their sizes, mean little; axes mean nothing. A picture shows under \
         the pointer, or by the Tab key.",
    );
    let points = pictures.iter().map(|own| MapPoint {
        x: own.place[0],
        y: own.place[1],
        group: own.class.clone(),
        name: own.name.clone(),
        picture: Some(own.picture.rgb()),
    });
    page.hover_map(&HoverMap {
        title: "Neighbours among the features (t-SNE)".to_owned(),
        points: points.collect(),
    });
    page
}
