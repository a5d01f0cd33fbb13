use proptest::prelude::*;

use super::*;

fn full_page(text: &str, value: f64) -> Page {
    let t = || text.to_owned();
    let image = RgbImage::from_pixel(3, 2, image::Rgb([200, 30, 90]));
    let mut page = Page::new(text);
    page.heading(text).paragraph(text).key_values(&[(text, text)]);
    page.table(&[text, "n"], &[vec![format!("x{text}"), "1".to_owned()]]);
    let series = vec![Series { name: t(), points: vec![(0.0, value), (1.0, 2.0), (value, 1.0)] }];
    page.line_chart(&LineChart { title: t(), x_label: t(), y_label: t(), series, ..LineChart::default() });
    let point = |x: f64| ScatterPoint { label: t(), group: format!("{text}{x}"), x, y: value };
    let points = vec![point(1.0), point(2.0)];
    let better = Some((Better::Lower, Better::Higher));
    page.scatter(&Scatter { title: t(), x_label: t(), y_label: t(), points, log_x: true, better });
    let bar = || BarSeries { name: t(), values: vec![value] };
    page.bars(&Bars { title: t(), labels: vec![t()], series: vec![bar(), bar()], full: None });
    page.matrix(&Matrix {
        title: t(),
        row_label: t(),
        column_label: t(),
        rows: vec![t()],
        columns: vec![t(), t()],
        values: vec![vec![value, 1.0]],
        ..Matrix::default()
    });
    page.pictures(&[Picture { caption: text, image: &image }]);
    let point =
        |x: f64| MapPoint { x, y: value, group: format!("{text}{x}"), name: t(), picture: Some(&image) };
    page.hover_map(&HoverMap { title: t(), points: vec![point(0.0), point(1.0)] });
    page.raw_json(text, &vec![text]).unwrap();
    page
}

/// The elements of a page with the names of their attributes, in order, and the text of its first heading. Only
/// well-formed HTML can be read so.
fn elements(html: &str) -> Result<(Vec<String>, String), String> {
    // As XML: elements without an end get one.
    let mut xml = String::new();
    let mut rest = html.strip_prefix("<!doctype html>\n").ok_or("no doctype")?;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').ok_or("a tag does not end")?;
        let void = ["<meta ", "<img "].iter().any(|void| rest[start..].starts_with(void));
        xml += &rest[..end];
        xml += if void { "/>" } else { ">" };
        rest = &rest[end + 1..];
    }
    xml += rest;
    let document = roxmltree::Document::parse(&xml).map_err(|error| format!("{error}\n{xml}"))?;
    let found = document.descendants().filter(roxmltree::Node::is_element).map(|node| {
        let attributes: Vec<_> = node.attributes().map(|attribute| attribute.name()).collect();
        format!("{} {}", node.tag_name().name(), attributes.join(" "))
    });
    let heading = document.descendants().find(|node| node.has_tag_name("h2")).and_then(|node| node.text());
    Ok((found.collect(), heading.unwrap_or_default().to_owned()))
}

const HOSTILE: &str =
    "[<>&\"'a-z/=!\u{0}\u{7f}\r\n{}\\[\\]-]{1,40}|</script><script>alert\\(1\\)</script>|\"><img src=x>|.+";

proptest! {
    #[test]
    fn text_stays_text(text in HOSTILE, value: f64) {
        let (found, heading) = elements(&full_page(&text, value).html()).map_err(TestCaseError::fail)?;
        let (expected, _) = elements(&full_page("plain", value).html()).map_err(TestCaseError::fail)?;
        prop_assert_eq!(found, expected);
        // What a reader sees is what was given, but for characters that no page may hold.
        let allowed = |c: char| if c == '\r' { ' ' } else if (c.is_control() && !"\n\t".contains(c)) || "\u{fffe}\u{ffff}".contains(c) { '\u{fffd}' } else { c };
        prop_assert_eq!(heading, text.chars().map(allowed).collect::<String>());
    }

    #[test]
    fn any_figure_gives_a_sound_page(value in proptest::num::f64::ANY) {
        let html = full_page("plain", value).html();
        elements(&html).map_err(TestCaseError::fail)?;
        prop_assert!(!html.contains("NaN") && !html.contains("inf"), "{}", html);
    }
}

#[test]
fn embedded_json_comes_back() {
    let value = serde_json::json!({ "a</script><!--": ["<b>", 1.5, "é\u{2028}"] });
    let mut page = Page::new("x");
    page.raw_json("the \"data\"", &value).unwrap();
    let html = page.html();
    let json = html.split_once("<script type=\"application/json\" id=\"the__data_\">").unwrap().1;
    let json = json.split_once("</script>").unwrap().0;
    assert!(!json.contains('<'));
    assert_eq!(serde_json::from_str::<serde_json::Value>(json).unwrap(), value);
}

#[test]
fn a_page_needs_nothing_from_outside() {
    let html = full_page("text", 1.0).html();
    for part in ["http:", "https:", "//", "@import", "url("] {
        let found = html.match_indices(part).find(|(at, _)| {
            // Base64 may hold two slashes.
            let line_start = html[..*at].rfind('"').unwrap_or(0);
            !html[line_start..*at].starts_with("\"data:image/jpeg;base64,")
        });
        assert!(found.is_none(), "{part} at {found:?}");
    }
    assert!(html.contains("prefers-color-scheme: dark") && html.contains("name=\"viewport\""));
}

#[test]
fn columns_of_numbers_stand_right() {
    for figure in ["1", "-0.5", "12.5 %", "0.81 ± 0.02", "1,234", "", "–", "1e-4", "3 ms"] {
        assert!(is_figure(figure), "{figure}");
    }
    for text in ["a", "inf", "NaN", "2x", "1 2 a".split_at(4).1, "B5"] {
        assert!(!is_figure(text), "{text}");
    }
    let mut page = Page::new("x");
    page.table(&["name", "value"], &[vec!["7", "1.0"], vec!["x", "2"]]);
    assert!(page.html().contains("<td>7</td><td class=\"number\">1.0</td>"));
}

#[test]
fn large_pictures_are_shrunk_and_empty_ones_named() {
    let bytes = jpeg(&RgbImage::new(4096, 3)).unwrap();
    let back = image::load_from_memory(&bytes).unwrap();
    assert_eq!((back.width(), back.height()), (1024, 1));
    assert!(jpeg(&RgbImage::new(0, 5)).is_none() && jpeg(&RgbImage::new(0, 0)).is_none());
}
