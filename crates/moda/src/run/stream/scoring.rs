//! Who answers which picture after a step, and how well.

use std::collections::HashMap;

use kirie_run::Progress;

use super::{Memory, Stream};
use crate::adapter::Adapter;
use crate::error::ContinualError;
use crate::evaluate::{ByPrompt, Case, Scores, score_kinds};
use crate::prompts::Pick;
use crate::router::{Route, Router, RouterFeatures};
use crate::run::SetRow;
use crate::strategy::Strategy;

impl Stream<'_, '_> {
    /// The places of the sets in the order that the domains come, then the natural ones.
    fn places(&self) -> Vec<usize> {
        self.order.iter().copied().chain(self.order.len()..self.study.sets.len()).collect()
    }

    /// Rows of all sets; `of` gives for a set, by its place in the study, scores, who answered, and the oracle's scores.
    pub(super) fn sets_in_order(
        &self,
        of: impl Fn(usize) -> (Vec<ByPrompt>, Vec<Option<usize>>, Option<Vec<ByPrompt>>),
    ) -> Vec<SetRow> {
        let row = |place: usize| {
            let set = &self.study.sets[place];
            let (scores, answered, oracle) = of(place);
            let mut routed = Vec::new();
            if self.strategy.is_routed() {
                routed = vec![0; self.order.len() + 1];
                for by in &answered {
                    routed[by.unwrap_or(self.order.len())] += 1;
                }
            }
            SetRow {
                name: set.name.clone(),
                natural: set.natural,
                pictures: set.cases.len(),
                empty: set.empty,
                scores: means(&scores),
                routed,
                oracle: oracle.map(|oracle| means(&oracle)),
            }
        };
        self.places().into_iter().map(row).collect()
    }

    /// Where a case goes after step t: the domain's place in the order.
    fn route(&self, features: &RouterFeatures, router: Option<&Router>) -> Option<usize> {
        match (router, &self.memory) {
            (Some(router), _) => {
                let Route { domain, .. } = router.route(features, self.study.base);
                domain
            }
            (None, Memory::Centroids(centroids)) => {
                let distances = centroids.iter().map(|centroids| centroids.distance(features));
                distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
            }
            (None, _) => None,
        }
    }

    /// Scores of every set after step t.
    pub(super) fn scores(&mut self, t: usize) -> Result<Vec<SetRow>, ContinualError> {
        let study = self.study;
        let total: usize = study.sets.iter().map(|set| set.cases.len()).sum();
        let title = format!("{} {}/{}: picture measured", self.strategy.name(), t + 1, self.order.len());
        let mut progress = Progress::new(&title, total as u64, 0, study.mode);
        let states = self.memory.states();
        let router = states.last().map(|state| Router {
            reader: state.snapshot.reader.clone(),
            portraits: states.iter().map(|state| state.portrait.clone()).collect(),
            has_reference: state.snapshot.has_reference,
            abstain: self.telling.router.abstain,
        });
        let mut answers = HashMap::new();
        let mut done = 0;
        for (at, place) in self.places().into_iter().enumerate() {
            let set = &study.sets[place];
            let cases: Vec<&Case> = set.cases.iter().collect();
            let answer = if self.strategy == Strategy::ZeroShot {
                (study.zero_shot[place].clone(), Vec::new(), None)
            } else if self.strategy.is_routed() {
                let routes: Vec<Option<usize>> =
                    cases.iter().map(|case| self.route(&case.item.router, router.as_ref())).collect();
                let own = (!set.natural && at <= t).then_some(at);
                for by in 0..=t {
                    let chosen = |n: &usize| routes[*n] == Some(by) || own == Some(by);
                    let wanted: Vec<usize> = (0..cases.len()).filter(chosen).collect();
                    self.score_by(place, &cases, by, &wanted)?;
                }
                let of = |n: usize, by: Option<usize>| match by {
                    Some(by) => self.scored[&(place, n, by)].clone(),
                    None => study.zero_shot[place][n].clone(),
                };
                let scores = routes.iter().enumerate().map(|(n, by)| of(n, *by)).collect();
                let oracle = own.map(|own| (0..cases.len()).map(|n| of(n, Some(own))).collect());
                (scores, routes, oracle)
            } else {
                let pick = Pick { seen: t + 1, training: false };
                (self.by_prompt(self.adapters.last(), &cases, pick)?, Vec::new(), None)
            };
            answers.insert(place, answer);
            done += cases.len() as u64;
            progress.set(done, &set.name);
        }
        progress.finish();
        let empty = || (Vec::new(), Vec::new(), None);
        Ok(self.sets_in_order(|place| answers.get(&place).cloned().unwrap_or_else(empty)))
    }

    /// Scores the cases `wanted` of a set by the adapter of step `by`, those that are not scored yet.
    fn score_by(
        &mut self,
        place: usize,
        cases: &[&Case],
        by: usize,
        wanted: &[usize],
    ) -> Result<(), ContinualError> {
        let missing: Vec<usize> =
            wanted.iter().copied().filter(|n| !self.scored.contains_key(&(place, *n, by))).collect();
        let chosen: Vec<&Case> = missing.iter().map(|n| cases[*n]).collect();
        let scores = self.by_prompt(self.adapters.get(by), &chosen, Pick::default())?;
        for (n, scores) in missing.into_iter().zip(scores) {
            self.scored.insert((place, n, by), scores);
        }
        Ok(())
    }

    fn by_prompt(
        &self,
        adapter: Option<&Adapter>,
        cases: &[&Case],
        pick: Pick,
    ) -> Result<Vec<ByPrompt>, ContinualError> {
        score_kinds(self.study.items.maker(), adapter, cases, &self.study.config.data.prompts, pick)
    }
}

/// Means over pictures.
fn means(all: &[ByPrompt]) -> ByPrompt {
    let kinds = all.first().map_or_else(Vec::new, |first| first.keys().copied().collect());
    let mean = |kind| {
        let scores: Vec<Scores> = all.iter().filter_map(|by_prompt| by_prompt.get(&kind)).copied().collect();
        (kind, Scores::mean(&scores))
    };
    kinds.into_iter().map(mean).collect()
}
