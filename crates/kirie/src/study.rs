//! What `kirie train continual` and `kirie evaluate continual` share: the base of a study, and how it is told.

use kirie_moda::config::StudyConfig;
use kirie_moda::report::{Report, Sheet};
use kirie_sam::checkpoint::StateDict;

use crate::{report, weights};

/// The weights that a study's configuration names, or those of its model at hand.
pub(crate) fn base_weights(config: &StudyConfig) -> anyhow::Result<StateDict> {
    match &config.model.weights {
        Some(path) => Ok(StateDict::open(path)?),
        None => weights::at_hand(weights::variant(&config.model.name)?),
    }
}

/// Prints the tables of a study and what MoDA is held to.
pub(crate) fn tell(told: &Report) -> anyhow::Result<()> {
    told.sheets().iter().try_for_each(tell_sheet)?;
    for verdict in &told.verdicts {
        report::print(&verdict.to_string())?;
    }
    Ok(())
}

/// Prints a table below its title, and an empty line.
pub(crate) fn tell_sheet(sheet: &Sheet) -> anyhow::Result<()> {
    let headers: Vec<&str> = sheet.headers.iter().map(String::as_str).collect();
    report::print(&format!("{}\n{}\n", sheet.title, report::columns(&headers, &sheet.rows).trim_end()))?;
    report::print("\n")
}
