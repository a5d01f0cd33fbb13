//! The page in headless Chromium, driven by its own driver. Without them the test says that it skips; `tests/serve/browser.sh`
//! installs them (Debian) and runs it. Screenshots are left in the target folder's `tmp/screenshots`.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::actions::{
    Actions, InputSource, KeyAction, KeyActions, MOUSE_BUTTON_LEFT, MOUSE_BUTTON_RIGHT, MouseActions,
    PointerAction,
};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::common::{SIZE, Service, disc, pictures};

/// The driver; killed when dropped.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A browser, if there is one on this machine.
async fn browser() -> Option<(Driver, Client)> {
    let there = |name: &str| {
        Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    if !there("chromedriver") || !there("chromium") {
        eprintln!("SKIPPED: there is no chromium with its driver here; tests/serve/browser.sh installs them");
        return None;
    }
    let port = free_port();
    let driver = Command::new("chromedriver")
        .arg(format!("--port={port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let driver = Driver(driver);
    let options = json!({ "goog:chromeOptions": { "args": ["--headless=new", "--no-sandbox", "--disable-gpu",
        "--disable-dev-shm-usage", "--window-size=1280,860", "--force-color-profile=srgb"] },
        "goog:loggingPrefs": { "browser": "ALL" } });
    let Value::Object(options) = options else { return None };
    let begin = Instant::now();
    loop {
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(options.clone());
        match builder.connect(&format!("http://127.0.0.1:{port}")).await {
            Ok(client) => return Some((driver, client)),
            Err(error) if begin.elapsed() > Duration::from_secs(40) => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

struct Page {
    client: Client,
    /// Width and height of the picture that is open.
    size: [u32; 2],
}

impl Page {
    /// What a script returns.
    async fn script(&self, text: &str) -> Value {
        self.client.execute(text, Vec::new()).await.unwrap()
    }

    /// Waits until an expression is true.
    async fn until(&self, what: &str) {
        let begin = Instant::now();
        while self.script(&format!("return Boolean({what});")).await != true {
            if begin.elapsed() > Duration::from_mins(2) {
                self.shot("failed").await;
                let status = self.script("return document.body.innerText;").await;
                panic!("never: {what}; the page says {status}");
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    async fn click(&self, selector: &str) {
        self.client.find(Locator::Css(selector)).await.unwrap().click().await.unwrap();
    }

    async fn text(&self, selector: &str) -> String {
        self.client.find(Locator::Css(selector)).await.unwrap().text().await.unwrap()
    }

    async fn shot(&self, name: &str) {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let bytes = self.client.screenshot().await.unwrap();
        std::fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }

    /// Where a place of the picture is in the window: the picture fills 97 % of the canvas.
    async fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let rect = self.script("const r = document.getElementById('canvas').getBoundingClientRect(); return [r.x, r.y, r.width, r.height];").await;
        let [left, top, width, height] = [0, 1, 2, 3].map(|at| rect[at].as_f64().unwrap());
        let (w, h) = (f64::from(self.size[0]), f64::from(self.size[1]));
        let scale = (width / w).min(height / h) * 0.97;
        (left + (width - w * scale) / 2.0 + x * scale, top + (height - h * scale) / 2.0 + y * scale)
    }

    async fn mouse(&self, from: (f64, f64), to: (f64, f64), button: u64) {
        let (a, b) = (self.place(from.0, from.1).await, self.place(to.0, to.1).await);
        let move_to =
            |(x, y): (f64, f64)| PointerAction::MoveTo { duration: Some(Duration::from_millis(60)), x, y };
        let actions = MouseActions::new("mouse".to_owned())
            .then(move_to(a))
            .then(PointerAction::Down { button })
            .then(move_to(b))
            .then(PointerAction::Up { button });
        self.client.perform_actions(Actions::from(actions)).await.unwrap();
    }

    async fn press(&self, keys: &[char]) {
        let actions = keys.iter().fold(KeyActions::new("keys".to_owned()), |actions, key| {
            actions.then(KeyAction::Down { value: *key }).then(KeyAction::Up { value: *key })
        });
        self.client.perform_actions(actions).await.unwrap();
    }

    async fn ready(&self) {
        self.until("document.getElementById('status').textContent.includes('ready') && document.getElementById('waiting').hidden").await;
    }

    /// From the pointer event until the mask's frame is drawn, so many times around a place; tells the median.
    async fn measure_clicks(&self, (x, y): (f64, f64), count: usize) {
        let (mut times, mut served) = (Vec::new(), Vec::new());
        for at in 0..count {
            self.press(&['\u{e00c}']).await;
            self.script("performance.clearMeasures('click to mask');").await;
            let place = (x + (at % 6) as f64, y + (at / 6) as f64);
            self.mouse(place, place, MOUSE_BUTTON_LEFT).await;
            let measured = "performance.getEntriesByName('click to mask')";
            self.until(&format!("{measured}.length === 1")).await;
            times.push(self.script(&format!("return {measured}[0].duration;")).await.as_f64().unwrap());
            let words = self.text("#status").await;
            served.push(number_in(words.split('(').nth(1).unwrap()));
        }
        times.sort_by(f64::total_cmp);
        served.sort_unstable();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        eprintln!(
            "click to mask in the page: median {median:.1} ms of {count}, worst {worst:.1} ms; median in the service {} ms",
            served[served.len() / 2]
        );
        // What a release on a quiet machine is asked for is a tenth of it.
        assert!(median < 1000.0, "{times:?}");
    }

    async fn objects(&self) -> usize {
        self.script("return document.querySelectorAll('#objects li').length;").await.as_u64().unwrap()
            as usize
    }
}

const DRAFT: &str = "!document.getElementById('draft').hidden && document.getElementById('draft-text').textContent.includes('pixels')";
const ENTER: char = '\u{e007}';
const CONTROL: char = '\u{e009}';

fn number_in(text: &str) -> u64 {
    text.chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_labels_corrects_exports_teaches_and_comes_back() {
    let Some((_driver, client)) = browser().await else { return };
    let page = Page { client, size: SIZE };
    let root = pictures(4);
    // What a file may be called must only ever be text.
    std::fs::rename(
        root.path().join("pictures/3.png"),
        root.path().join("pictures/3<img src=x onerror=document.title='owned'>.png"),
    )
    .unwrap();
    let port = free_port();
    let mut service = Service::start(root.path(), port);
    page.client.goto(&service.url).await.unwrap();
    page.ready().await;
    page.until("document.querySelectorAll('#strip img').length === 4").await;
    page.shot("1-open").await;

    // Click: a mask; a click beside the object changes it.
    let [x, y, radius] = disc(0);
    page.mouse((x, y), (x, y), MOUSE_BUTTON_LEFT).await;
    page.until(DRAFT).await;
    let first = number_in(&page.text("#draft-text").await);
    let area = std::f64::consts::PI * radius * radius;
    assert!((first as f64) > 0.5 * area && (first as f64) < 1.8 * area, "{first} pixels of {area:.0}");
    page.shot("2-click").await;
    page.measure_clicks((x, y), 30).await;
    page.mouse((x - 0.6 * radius, y), (x - 0.6 * radius, y), MOUSE_BUTTON_RIGHT).await;
    page.until(&format!(
        "{DRAFT} && !document.getElementById('draft-text').textContent.startsWith('{first} ')"
    ))
    .await;
    page.press(&['\u{e00c}']).await;

    // Name a class, click again, keep.
    let input = page.client.find(Locator::Css("#class-name")).await.unwrap();
    input.send_keys("disc").await.unwrap();
    page.click("#add-class button").await;
    page.until("document.querySelectorAll('#classes li').length === 1").await;
    page.mouse((x, y), (x, y), MOUSE_BUTTON_LEFT).await;
    page.until(DRAFT).await;
    page.press(&[ENTER]).await;
    page.until("document.querySelectorAll('#objects li').length === 1").await;
    let before = number_in(page.text("#objects .row").await.split('·').nth(1).unwrap());

    // Correct it with the brush; the correction is kept at once.
    page.press(&['b']).await;
    page.mouse((x + radius, y), (x + radius + 30.0, y), MOUSE_BUTTON_LEFT).await;
    page.until(&format!("!document.querySelector('#objects .row').textContent.includes('{before} px')"))
        .await;
    page.shot("3-brush").await;
    let painted = number_in(page.text("#objects .row").await.split('·').nth(1).unwrap());
    assert!(painted > before, "{painted} after {before}");

    // A box is a second object; undo and redo.
    page.press(&['x']).await;
    page.mouse((x - radius, y - radius), (x + radius, y + radius), MOUSE_BUTTON_LEFT).await;
    page.until(DRAFT).await;
    page.press(&[ENTER]).await;
    page.until("document.querySelectorAll('#objects li').length === 2").await;
    let undo = KeyActions::new("keys".to_owned())
        .then(KeyAction::Down { value: CONTROL })
        .then(KeyAction::Down { value: 'z' })
        .then(KeyAction::Up { value: 'z' })
        .then(KeyAction::Up { value: CONTROL });
    page.client.perform_actions(undo).await.unwrap();
    page.until("document.querySelectorAll('#objects li').length === 1").await;
    page.click("#redo").await;
    page.until("document.querySelectorAll('#objects li').length === 2").await;
    page.click("#undo").await;
    page.until("document.querySelectorAll('#objects li').length === 1").await;

    // Everything, one of it kept, then done.
    page.click("#everything").await;
    page.until("!document.getElementById('found').hidden || document.querySelector('.toast')").await;
    page.shot("4-everything").await;
    if page.script("return !document.getElementById('found').hidden;").await == true {
        page.click("#leave").await;
    }
    page.click("#done").await;
    page.until("document.querySelector('#strip [aria-selected=true] .done')").await;

    // The keyboard alone: next picture, cross to the object, point, keep.
    page.press(&['n']).await;
    page.ready().await;
    page.script("document.getElementById('canvas').focus();").await;
    page.press(&['c']).await;
    let [x1, y1, _] = disc(1);
    let steps = |from: f64, to: f64, scale: f64| (((to - from) * scale / 4.0).round()) as i32;
    let (near, far) = (page.place(0.0, 0.0).await, page.place(100.0, 0.0).await);
    let scale = (far.0 - near.0) / 100.0;
    let across = steps(f64::from(SIZE[0]) / 2.0, x1, scale);
    let down = steps(f64::from(SIZE[1]) / 2.0, y1, scale);
    let mut keys = vec![if across < 0 { '\u{e012}' } else { '\u{e014}' }; across.unsigned_abs() as usize];
    keys.extend(vec![if down < 0 { '\u{e013}' } else { '\u{e015}' }; down.unsigned_abs() as usize]);
    keys.push('.');
    page.press(&keys).await;
    page.until(DRAFT).await;
    page.shot("5-keyboard").await;
    page.press(&[ENTER]).await;
    page.until("document.querySelectorAll('#objects li').length === 1").await;

    // All is there after a reload, and after the service was away.
    page.client.refresh().await.unwrap();
    page.ready().await;
    assert_eq!(page.objects().await, 1);
    drop(service);
    page.press(&['n']).await;
    page.until("!document.getElementById('offline').hidden").await;
    page.shot("6-offline").await;
    service = Service::start(root.path(), port);
    page.until("document.getElementById('offline').hidden").await;
    page.client.refresh().await.unwrap();
    page.ready().await;

    // Export: the link leads to a file with both objects.
    page.click("#open-export").await;
    page.shot("7-export").await;
    let link = page
        .client
        .find(Locator::Css("#export a[data-form=coco]"))
        .await
        .unwrap()
        .attr("href")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(service.get(&link)["annotations"].as_array().unwrap().len(), 2);
    page.click("#export .close").await;

    // A tiny fine-tuning, watched, adopted, compared on a picture with labels.
    page.script("document.querySelectorAll('#strip button')[1].click();").await;
    page.ready().await;
    page.click("#open-train").await;
    // The dialog opens when the list of runs has come.
    page.until("document.querySelector('#train form')").await;
    for (name, value) in [("steps", "6"), ("crop", "64"), ("batch", "1")] {
        page.script(&format!("document.querySelector('#train [name={name}]').value = '{value}';")).await;
    }
    page.click("#train form button").await;
    page.until("['done', 'failed'].includes(document.querySelector('#train .job .state')?.textContent)")
        .await;
    page.shot("8-trained").await;
    assert_eq!(page.text("#train .job .state").await, "done", "{}", page.text("#train .job").await);
    page.click("#train .job .primary").await;
    page.until("document.querySelector('#train .job h3').textContent.includes('suggests')").await;
    page.script("[...document.querySelectorAll('#train button')].find((b) => b.textContent.startsWith('Compare')).click();").await;
    page.until("document.querySelector('#train [role=status]')?.textContent.includes('regions found')").await;
    page.shot("9-compare").await;
    // A kind of pictures, taught in the same panel; adopted, it answers clicks on them.
    page.script(
        "[...document.querySelectorAll('#train button')].find((b) => b.textContent === 'Back').click();",
    )
    .await;
    page.until("document.querySelector('#train form')").await;
    page.script("const kind = document.querySelector('#train [name=kind]'); kind.value = 'continual'; kind.dispatchEvent(new Event('change'));").await;
    for (name, value) in [("name", "discs"), ("steps", "4"), ("batch", "1")] {
        page.script(&format!("document.querySelector('#train [name={name}]').value = '{value}';")).await;
    }
    page.click("#train form button").await;
    page.until("document.querySelectorAll('#train .job').length === 2 && ['done', 'failed'].includes(document.querySelector('#train .job .state').textContent)")
        .await;
    page.shot("10-taught").await;
    assert_eq!(page.text("#train .job .state").await, "done", "{}", page.text("#train .job").await);
    page.script("[...document.querySelectorAll('#train .job')[0].querySelectorAll('button')].find((b) => b.textContent.startsWith('Compare')).click();").await;
    page.until("document.querySelector('#train [role=status]')?.textContent.includes('IoU with the labels')")
        .await;
    page.shot("11-compare-clicks").await;
    page.script(
        "[...document.querySelectorAll('#train button')].find((b) => b.textContent === 'Back').click();",
    )
    .await;
    page.until("document.querySelector('#train .job .primary')").await;
    page.script("document.querySelector('#train .job .primary').click();").await;
    page.until("document.querySelector('#train .job h3')?.textContent.includes('answers clicks')").await;
    assert!(page.text("#model").await.contains("discs"));
    page.click("#train .close").await;
    page.ready().await;
    page.until("!document.getElementById('suggest').hidden").await;

    // The picture with the odd name is shown, its name is text, and dark is dark.
    page.click("#theme").await;
    page.script("document.querySelectorAll('#strip button')[3].click();").await;
    page.ready().await;
    page.shot("12-dark-and-odd-name").await;
    assert!(page.text("#name").await.contains("<img src=x"));
    assert_ne!(page.client.title().await.unwrap(), "owned");
    // What to label next is numbered.
    page.script("const which = document.getElementById('which'); which.value = 'next'; which.dispatchEvent(new Event('change'));").await;
    page.until("document.querySelectorAll('#strip .rank').length === 2").await;
    page.shot("13-next").await;
    page.client.close().await.unwrap();
    drop(service);
}

/// Boxes around coins of `examples/coins.png`, pixels: left, top, right, bottom.
const COINS: [(&str, [[f64; 4]; 4]); 3] = [
    (
        "large",
        [[304., 15., 365., 72.], [315., 155., 381., 219.], [18., 232., 75., 289.], [143., 234., 202., 289.]],
    ),
    (
        "medium",
        [[22., 33., 68., 75.], [132., 26., 180., 75.], [188., 168., 238., 219.], [245., 94., 298., 146.]],
    ),
    (
        "small",
        [[79., 36., 121., 75.], [83., 105., 124., 146.], [134., 179., 175., 218.], [317., 104., 357., 146.]],
    ),
];

/// The page as it looks at work; `docs/images/page.png` is this picture, made by a release.
#[tokio::test(flavor = "multi_thread")]
async fn a_picture_of_the_page() {
    let Some((_driver, client)) = browser().await else { return };
    let page = Page { client, size: [384, 303] };
    let root = pictures(0);
    for name in ["coins.png", "coffee.png"] {
        let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
        std::fs::copy(example, root.path().join("pictures").join(name)).unwrap();
    }
    let service = Service::start(root.path(), 0);
    let coins = service.picture("coins.png");
    page.client.goto(&format!("{}/#{coins}", service.url)).await.unwrap();
    page.ready().await;
    let mut kept = 0;
    for (class, boxes) in COINS {
        let input = page.client.find(Locator::Css("#class-name")).await.unwrap();
        input.send_keys(class).await.unwrap();
        page.click("#add-class button").await;
        page.until(&format!(
            "document.querySelector('#classes [aria-current=true] .row')?.textContent === '{class}'"
        ))
        .await;
        page.script("document.getElementById('canvas').focus();").await;
        page.press(&['x']).await;
        for [x0, y0, x1, y1] in boxes {
            page.mouse((x0, y0), (x1, y1), MOUSE_BUTTON_LEFT).await;
            page.until(DRAFT).await;
            page.press(&[ENTER]).await;
            kept += 1;
            page.until(&format!("document.querySelectorAll('#objects li').length === {kept}")).await;
        }
    }
    // What was kept last is of its class, though another class was chosen for the next.
    let classes = page
        .script("return [...document.querySelectorAll('#classes .count')].map((c) => c.textContent);")
        .await;
    assert_eq!(classes, json!(["4", "4", "4"]));
    // One more is on its way.
    page.mouse((250., 171.), (297., 218.), MOUSE_BUTTON_LEFT).await;
    page.until(&format!("{DRAFT} && document.getElementById('status').textContent.includes('answered')"))
        .await;
    page.shot("page").await;
    page.press(&['c']).await;
    page.measure_clicks((274., 196.), 30).await;
    page.client.close().await.unwrap();
    drop(service);
}
