//! The router of several domains that were learned apart, or of some of those that were learned together.
//!
//! A domain's folder holds the tokens as they were when it came, which know the domains before it and no other. Where these are just the
//! domains at hand, its tokens are taken as they are. Otherwise (a domain was left out, or brought from another run) tokens are trained
//! again from the exemplars. That takes a while and always gives the same, so it is kept: a file for each set of domains, named by a hash
//! of all that it follows from, in a folder that may be emptied at any time.

use std::fmt::Write as _;
use std::path::Path;

use kirie_data::create_parent;
use sha2::{Digest, Sha256};

use crate::base::Base;
use crate::error::ContinualError;
use crate::router::{Lessons, Router, TokenReader};
use crate::store::{
    DomainState, Known, Snapshot, about, fingerprint, json, open, reader_from, reader_tensors, write,
};

const FORMAT: &str = "kirie-moda-together-1";

/// The router of several domains, and the order its domains are in. `kept` is the folder of tokens that were trained before.
///
/// # Errors
/// No domain; two of a name; exemplars of another shape.
pub fn assemble(
    mut domains: Vec<DomainState>,
    base: &Base,
    kept: Option<&Path>,
) -> Result<(Vec<DomainState>, Router), ContinualError> {
    for (at, domain) in domains.iter().enumerate() {
        if domains[..at].iter().any(|other| other.name == domain.name) {
            return Err(ContinualError::domain(&domain.name, "is there twice, expected once"));
        }
        if domain.router.grid != domains[0].router.grid {
            let reason = "its exemplars have another router.grid than those before";
            return Err(ContinualError::domain(&domain.name, reason));
        }
    }
    let here: Vec<Known> = domains.iter().map(DomainState::known).collect();
    let knows_all = |snapshot: &Snapshot| {
        snapshot.known.len() == here.len() && snapshot.known.iter().all(|known| here.contains(known))
    };
    if let Some(newest) = domains.iter().find(|domain| knows_all(&domain.snapshot)) {
        let (snapshot, abstain) = (newest.snapshot.clone(), newest.router.abstain);
        let place = |name: &str| snapshot.known.iter().position(|known| known.name == name);
        domains.sort_by_key(|domain| place(&domain.name));
        let portraits = domains.iter().map(|domain| domain.portrait.clone()).collect();
        let has_reference = snapshot.has_reference;
        return Ok((domains, Router { reader: snapshot.reader, portraits, has_reference, abstain }));
    }
    // In whatever order they are named, the same comes of it.
    domains.sort_by(|a, b| a.name.cmp(&b.name));
    let newest = domains.iter().max_by_key(|domain| domain.snapshot.known.len());
    let Some(newest) = newest else {
        return Err(ContinualError::setting("domains", "none", "1 or more"));
    };
    let path = kept.map(|folder| folder.join(format!("{}.safetensors", key(&domains, newest, base))));
    let has_reference = !newest.reference.is_empty();
    let classes = domains.len() + usize::from(has_reference);
    let portraits = domains.iter().map(|domain| domain.portrait.clone()).collect();
    if let Some(reader) = path.as_deref().and_then(|path| read(path, classes, base)) {
        let abstain = newest.router.abstain;
        return Ok((domains, Router { reader, portraits, has_reference, abstain }));
    }
    let lessons = Lessons {
        domains: domains.iter().map(|domain| domain.exemplars.clone()).collect(),
        reference: newest.reference.clone(),
    };
    let router = Router::fit(&newest.router, &lessons, portraits, base, newest.seed)?;
    if let Some(path) = path {
        // Where it cannot be kept, it is trained again next time.
        let _ = keep(&path, &router.reader, base);
    }
    Ok((domains, router))
}

/// Hash of everything that the tokens follow from.
fn key(domains: &[DomainState], newest: &DomainState, base: &Base) -> String {
    let known: Vec<Known> = domains.iter().map(DomainState::known).collect();
    let mut hash = Sha256::new();
    for part in [
        FORMAT.to_owned(),
        base.hash().to_owned(),
        base.preprocess().size.to_string(),
        json(&known),
        json(&newest.router),
        newest.seed.to_string(),
        fingerprint(&newest.reference),
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let mut text = String::new();
    for byte in hash.finalize().iter().take(16) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Tokens that were kept; nothing where there are none, or the file is not what it should be.
fn read(path: &Path, classes: usize, base: &Base) -> Option<TokenReader> {
    open(path, FORMAT, base).ok()?;
    let reader = reader_from(path, base).ok()?;
    let [_, found] = reader.head.weight.val().dims();
    (found == classes).then_some(reader)
}

fn keep(path: &Path, reader: &TokenReader, base: &Base) -> Result<(), ContinualError> {
    create_parent(path)?;
    write(path, &reader_tensors(reader), &about(FORMAT, base))
}

#[cfg(test)]
mod tests;
