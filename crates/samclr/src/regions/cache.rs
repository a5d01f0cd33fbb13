//! Masks of pictures, kept as run lengths in files, so that the model looks at every picture once.
//!
//! ```text
//! CACHE/kirie-small-1a2b3c4d5e6f/           model, and a hash of everything its masks depend on
//!       settings.json                       what that is
//!       ab/ab34...ef.json                   SHA-256 of the picture: masks in the form of SAM's mask generator (pycocotools reads it)
//! ```
//!
//! A file is written whole or not at all, so a run may be killed at any moment. A damaged file counts as missing.

use std::fs;
use std::path::{Path, PathBuf};

use kirie_data::{ImageMasks, create_parent, write_atomic};
use sha2::{Digest, Sha256};

use crate::error::ContrastiveError;

/// The masks that one model cuts, by picture.
#[derive(Clone, Debug)]
pub struct RegionCache {
    folder: PathBuf,
    model: String,
}

/// What a cache knows of a picture.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// Its masks.
    Masks(ImageMasks),
    /// Nothing.
    Missing,
    /// A file that cannot be what was written; the reason is for people.
    Damaged(String),
}

impl RegionCache {
    /// The cache in `root` of a model with its `settings`: weights, points, thresholds, whatever its masks depend on, as text.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn open(root: &Path, model: &str, settings: &str) -> Result<Self, ContrastiveError> {
        let name: String =
            model.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        let hash = hex(&Sha256::digest(format!("{model}\n{settings}")));
        let folder = root.join(format!("{name}-{}", hash.get(..12).unwrap_or(&hash)));
        let cache = Self { folder, model: model.to_owned() };
        let path = cache.folder.join("settings.json");
        if !path.exists() {
            create_parent(&path)?;
            let text = serde_json::json!({ "model": model, "settings": settings, "hash": hash });
            write_atomic(&path, |file| writeln!(file, "{text:#}"))?;
        }
        Ok(cache)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of a picture, known by [`picture_key`].
    pub fn path(&self, key: &str) -> PathBuf {
        self.folder.join(key.get(..2).unwrap_or("_")).join(format!("{key}.json"))
    }

    /// Looks a picture of `size` = width and height up.
    pub fn read(&self, key: &str, size: [u32; 2]) -> Entry {
        let text = match fs::read(self.path(key)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Entry::Missing,
            Err(error) => return Entry::Damaged(error.to_string()),
        };
        let masks: ImageMasks = match serde_json::from_slice(&text) {
            Ok(masks) => masks,
            Err(error) => return Entry::Damaged(error.to_string()),
        };
        match self.check(&masks, size) {
            Ok(()) => Entry::Masks(masks),
            Err(reason) => Entry::Damaged(reason),
        }
    }

    /// What bits that fell over in a file would change.
    fn check(&self, masks: &ImageMasks, [width, height]: [u32; 2]) -> Result<(), String> {
        if masks.model != self.model {
            return Err(format!("masks of {}, expected those of {}", masks.model, self.model));
        }
        if [masks.image.width, masks.image.height] != [width, height] {
            return Err(format!(
                "a picture of {}x{} pixels, expected {width}x{height}",
                masks.image.width, masks.image.height
            ));
        }
        for (n, mask) in masks.masks.iter().enumerate() {
            let rle = &mask.segmentation;
            if [rle.width(), rle.height()] != [width as usize, height as usize] {
                return Err(format!("mask {n} is {}x{} pixels", rle.width(), rle.height()));
            }
            if rle.area() != mask.area {
                return Err(format!("mask {n} has {} pixels, not {}", rle.area(), mask.area));
            }
        }
        Ok(())
    }

    /// Keeps the masks of a picture.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, key: &str, masks: &ImageMasks) -> Result<(), ContrastiveError> {
        let path = self.path(key);
        create_parent(&path)?;
        let text = serde_json::to_vec(masks).map_err(|e| ContrastiveError::Cache {
            path: path.display().to_string(),
            reason: e.to_string(),
        })?;
        Ok(write_atomic(&path, |file| file.write_all(&text))?)
    }
}

/// The name a picture goes by: the SHA-256 of what `bytes` hold, in hexadecimal.
pub fn picture_key(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kirie_data::{ImageRecord, MaskRecord};
    use kirie_mask::{Mask, Rle};

    fn masks() -> ImageMasks {
        let rle = Rle::from_mask(&Mask::from_fn(12, 9, |x, y| x > 3 && y < 5));
        let mask = MaskRecord {
            bbox: rle.inclusive_box().to_xywh(),
            area: rle.area(),
            segmentation: rle,
            predicted_iou: 0.8,
            stability_score: 0.9,
            point_coords: vec![[4.5, 2.5]],
            crop_box: [0.0, 0.0, 12.0, 9.0],
        };
        ImageMasks {
            image: ImageRecord { path: "a.jpg".to_owned(), width: 12, height: 9 },
            model: "m".to_owned(),
            masks: vec![mask],
        }
    }

    #[test]
    fn what_is_kept_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RegionCache::open(folder.path(), "m", "points 16").unwrap();
        let key = picture_key(b"a picture");
        assert_eq!(cache.read(&key, [12, 9]), Entry::Missing);
        cache.write(&key, &masks()).unwrap();
        assert_eq!(cache.read(&key, [12, 9]), Entry::Masks(masks()));
        // Other settings, another folder.
        let other = RegionCache::open(folder.path(), "m", "points 32").unwrap();
        assert_eq!(other.read(&key, [12, 9]), Entry::Missing);
        assert_ne!(other.folder(), cache.folder());
    }

    /// However much of a file is there, it is either the whole or damaged, and never panics.
    #[test]
    fn a_file_cut_anywhere_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RegionCache::open(folder.path(), "m", "").unwrap();
        cache.write("abcd", &masks()).unwrap();
        let whole = fs::read(cache.path("abcd")).unwrap();
        for length in 0..whole.len() {
            fs::write(cache.path("abcd"), &whole[..length]).unwrap();
            assert!(matches!(cache.read("abcd", [12, 9]), Entry::Damaged(_)), "{length}");
        }
        fs::write(cache.path("abcd"), &whole).unwrap();
        assert!(matches!(cache.read("abcd", [9, 12]), Entry::Damaged(_)), "another picture's size");
        let text = String::from_utf8(whole).unwrap().replace("\"area\":40", "\"area\":41");
        fs::write(cache.path("abcd"), text).unwrap();
        assert!(matches!(cache.read("abcd", [12, 9]), Entry::Damaged(_)), "another area");
    }
}
