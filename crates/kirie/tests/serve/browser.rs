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
        let (w, h) = (f64::from(SIZE[0]), f64::from(SIZE[1]));
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
    let page = Page { client };
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
    let mut times = Vec::new();
    for at in 0..9 {
        page.press(&['\u{e00c}']).await;
        page.mouse((x + f64::from(at), y), (x + f64::from(at), y), MOUSE_BUTTON_LEFT).await;
        page.until(&format!("{DRAFT} && document.getElementById('status').textContent.includes('answered')"))
            .await;
        times.push(number_in(&page.text("#status").await));
    }
    times.sort_unstable();
    eprintln!("click to mask in the page: median {} ms of {times:?}", times[4]);
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

    // A tiny fine-tuning, watched, adopted, compared.
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
    page.click("#train .close").await;
    page.until("!document.getElementById('suggest').hidden").await;

    // The picture with the odd name is shown, its name is text, and dark is dark.
    page.click("#theme").await;
    page.script("document.querySelectorAll('#strip button')[3].click();").await;
    page.ready().await;
    page.shot("10-dark-and-odd-name").await;
    assert!(page.text("#name").await.contains("<img src=x"));
    assert_ne!(page.client.title().await.unwrap(), "owned");
    page.client.close().await.unwrap();
    drop(service);
}
