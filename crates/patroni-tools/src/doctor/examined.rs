//! What a check of one cluster has found, as the formats show it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::doctor::check_name::CheckName;
use crate::doctor::cluster::Depth;
use crate::doctor::finding::{Finding, Level};
use crate::doctor::looked::Looked;

/// The result of all checks of a cluster.
pub(crate) struct Outcome {
    pub(crate) findings: Vec<Finding>,
    pub(crate) looked: Looked,
}

/// What a check has found so far, for a caller that does not wait for its end.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<Vec<Finding>>>);

impl Progress {
    pub(crate) fn add(&self, findings: &[Finding]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(findings);
    }

    fn so_far(&self) -> Vec<Finding> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A cluster that was checked.
pub(crate) struct Examined {
    /// As in `16/main`, or the name of another instance.
    pub(crate) cluster: String,
    /// The command that shows it to a person.
    pub(crate) command: String,
    /// The Patroni file.
    pub(crate) path: PathBuf,
    /// Each one once, the worst one last.
    pub(crate) findings: Vec<Finding>,
    pub(crate) looked: Looked,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Examined {
    pub(crate) fn new(cluster: String, path: &Path, depth: Depth, outcome: Outcome, took: Duration) -> Self {
        let Outcome { mut findings, looked } = outcome;
        if depth == Depth::Offline {
            for finding in &mut findings {
                finding.level = finding.level.offline();
            }
        }
        findings.sort_by_key(|finding| finding.level);
        // Two checks that need the same file find the same fault in it.
        let mut distinct: Vec<Finding> = Vec::new();
        for finding in findings {
            if !distinct.contains(&finding) {
                distinct.push(finding);
            }
        }
        let command = format!("patroni-gen-config check {cluster}");
        Self { cluster, command, path: path.to_owned(), findings: distinct, looked, took }
    }

    /// A check that has not ended: what it has found so far, and that.
    pub(crate) fn late(cluster: String, path: &Path, what: &str, progress: &Progress, took: Duration) -> Self {
        let hint = format!("See what hangs with: patroni-gen-config check {cluster}");
        let finding = Finding { check: Some(CheckName::Deadline), ..Finding::error(what, hint).at("") };
        let findings = progress.so_far().into_iter().chain([finding]).collect();
        Self::new(cluster, path, Depth::Full, Outcome { findings, looked: Looked::blind() }, took)
    }

    /// The number of findings that are errors.
    pub(crate) fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.level > Level::Warning).count()
    }

    /// The number of findings that are warnings.
    pub(crate) fn warnings(&self) -> usize {
        self.findings.len() - self.errors()
    }
}
