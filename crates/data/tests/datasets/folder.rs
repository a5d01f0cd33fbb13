//! A temporary folder to make a dataset in.

use std::fs;
use std::path::{Path, PathBuf};

use image::{GrayImage, ImageBuffer, Luma};
use kirie_data::datasets::{Dataset, Instance, Labels, open};
use kirie_data::write::write_picture;
use kirie_data::{DataError, Image};
use tempfile::TempDir;

pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    fn make(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub(crate) fn text(&self, name: &str, text: &str) -> &Self {
        fs::write(self.make(name), text).unwrap();
        self
    }

    /// A picture that differs from those of other names.
    pub(crate) fn picture(&self, name: &str, width: u32, height: u32) -> &Self {
        let seed: u32 = name.bytes().fold(7, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
        let pixels = (0..width * height * 3).map(|i| (i.wrapping_mul(seed) >> 7) as u8).collect();
        write_picture(self.make(name), &Image::from_raw(width, height, pixels).unwrap()).unwrap();
        self
    }

    pub(crate) fn mask(&self, name: &str, width: u32, height: u32, f: impl Fn(u32, u32) -> u8) -> &Self {
        GrayImage::from_fn(width, height, |x, y| Luma([f(x, y)])).save(self.make(name)).unwrap();
        self
    }

    pub(crate) fn mask16(&self, name: &str, width: u32, height: u32, f: impl Fn(u32, u32) -> u16) -> &Self {
        ImageBuffer::from_fn(width, height, |x, y| Luma([f(x, y)])).save(self.make(name)).unwrap();
        self
    }

    pub(crate) fn open(&self) -> Dataset {
        open(self.path(), None).unwrap()
    }

    /// The message of what opening, or reading all labels, fails with.
    pub(crate) fn fails(&self) -> String {
        match open(self.path(), None) {
            Err(error) => error.to_string(),
            Ok(dataset) => read_all(&dataset).unwrap_err().to_string(),
        }
    }
}

pub(crate) fn read_all(dataset: &Dataset) -> Result<Vec<Labels>, DataError> {
    dataset.samples.iter().map(|sample| dataset.labels(sample)).collect()
}

pub(crate) fn instances(dataset: &Dataset, id: &str) -> Vec<Instance> {
    let sample = dataset.samples.iter().find(|sample| sample.id == id).unwrap();
    match dataset.load(sample).unwrap().1 {
        Labels::Instances { instances, .. } => instances,
        other => panic!("expected instances, found {other:?}"),
    }
}

pub(crate) fn ids(dataset: &Dataset) -> Vec<&str> {
    dataset.samples.iter().map(|sample| sample.id.as_str()).collect()
}

pub(crate) fn class_names(dataset: &Dataset) -> Vec<(u32, &str)> {
    dataset.classes.iter().map(|class| (class.id, class.name.as_str())).collect()
}

/// A VOC file with one object.
pub(crate) fn voc_xml(name: &str, [xmin, ymin, xmax, ymax]: [&str; 4]) -> String {
    format!(
        "<annotation>\n<size><width>20</width><height>10</height></size>\n<object>\n<name>{name}</name>\n\
         <difficult>1</difficult>\n<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax>\
         <ymax>{ymax}</ymax></bndbox>\n</object>\n</annotation>\n"
    )
}
