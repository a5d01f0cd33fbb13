use std::fs;

use super::*;
use crate::drawn::draw_set;

fn error(data: &DataConfig) -> String {
    Tagged::open(data).unwrap_err().to_string()
}

#[test]
fn of_boxes_only_the_classes_are_left() {
    let folder = tempfile::tempdir().unwrap();
    draw_set(folder.path(), 6);
    let set = Tagged::open(&DataConfig::new(folder.path())).unwrap();
    assert_eq!(set.classes, ["disc", "bar"]);
    assert_eq!(set.pictures.len(), 4);
    assert_eq!(set.pictures[0], Picture { file: "images/p0.png".to_owned(), tags: vec![0] });
    assert_eq!(set.pictures[2].tags, [0, 1]);
    let others = Untagged::open(&DataConfig::new(folder.path()), "test").unwrap();
    assert_eq!(others.files, ["images/p4.png", "images/p5.png"]);

    // Boxes may lie anywhere; all that a run knows of a set stays the same.
    let before = (set.fingerprint().unwrap(), set.clone());
    for entry in fs::read_dir(folder.path().join("annotations")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let moved = text.replace("<xmin>", "<xmin>1").replace("<xmax>", "<xmax>1");
        assert_ne!(moved, text);
        fs::write(path, moved).unwrap();
    }
    let after = Tagged::open(&DataConfig::new(folder.path())).unwrap();
    assert_eq!((after.fingerprint().unwrap(), after), before);
}

#[test]
fn classes_can_be_chosen_and_ordered() {
    let folder = tempfile::tempdir().unwrap();
    draw_set(folder.path(), 6);
    let mut data = DataConfig::new(folder.path());
    data.classes = vec!["bar".to_owned()];
    let set = Tagged::open(&data).unwrap();
    assert_eq!(set.pictures.iter().map(|p| p.tags.len()).collect::<Vec<_>>(), [0, 1, 1, 0]);
    assert!(set.notes.iter().any(|note| note.contains("disc")), "{:?}", set.notes);

    data.classes = vec!["bar".to_owned(), "cow".to_owned()];
    assert!(error(&data).contains("shows \"cow\""), "{}", error(&data));
    // A class of the set that no picture shows is no output of the network.
    fs::write(folder.path().join("classes.txt"), "0\tdisc\n1\tbar\n2\tcow\n").unwrap();
    let set = Tagged::open(&DataConfig::new(folder.path())).unwrap();
    assert_eq!(set.classes, ["disc", "bar"]);
    assert!(set.notes.iter().any(|note| note.contains("cow")), "{:?}", set.notes);
}

#[test]
fn tables_and_folders_do_as_well() {
    let folder = tempfile::tempdir().unwrap();
    draw_set(folder.path(), 4);
    let table = folder.path().join("labels.csv");
    fs::write(&table, "file,labels\nimages/p1.png,bar\nimages/p0.png,disc;bar\n").unwrap();
    let mut data = DataConfig::new(folder.path());
    data.labels = LabelSource::Csv { path: table.clone() };
    let set = Tagged::open(&data).unwrap();
    assert_eq!(set.classes, ["bar", "disc"]);
    assert_eq!(set.pictures[1], Picture { file: "images/p0.png".to_owned(), tags: vec![0, 1] });

    fs::write(&table, "file,labels\nimages/p1.png,bar\nimages/gone.png,bar\n").unwrap();
    assert!(error(&data).contains("images/gone.png"), "{}", error(&data));
    fs::write(&table, "file,labels\nimages/p1.png,\n").unwrap();
    assert!(error(&data).contains("no picture has a label"), "{}", error(&data));

    let folders = tempfile::tempdir().unwrap();
    for (class, n) in [("disc", 0), ("bar", 1)] {
        fs::create_dir_all(folders.path().join(class)).unwrap();
        let to = folders.path().join(class).join("a.png");
        fs::copy(folder.path().join(format!("images/p{n}.png")), to).unwrap();
    }
    let set = Tagged::open(&DataConfig::new(folders.path())).unwrap();
    assert_eq!(set.classes, ["bar", "disc"]);
    assert_eq!(set.pictures.len(), 2);
}

#[test]
fn pictures_alone_are_no_labels() {
    let folder = tempfile::tempdir().unwrap();
    draw_set(folder.path(), 2);
    fs::remove_dir_all(folder.path().join("annotations")).unwrap();
    fs::remove_file(folder.path().join("classes.txt")).unwrap();
    let said = error(&DataConfig::new(folder.path().join("images")));
    assert!(said.contains("has labels"), "{said}");
}
