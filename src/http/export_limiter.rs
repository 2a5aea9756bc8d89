//! The limit on simultaneous exports of lists.

use super::Problem;
use crate::application::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Limits and counts the exports of the process.
#[derive(Debug)]
pub struct ExportLimiter {
    max: usize,
    running: AtomicUsize,
    refused: AtomicU64,
    aborted: AtomicU64,
}

impl ExportLimiter {
    /// Creates a limit on simultaneous exports.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            running: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
        })
    }

    /// Returns the number of exports that are being sent.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Returns the number of exports that were refused because of the limit.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns the number of exports that ended early: by an error, or because the client disconnected.
    pub fn aborted(&self) -> u64 {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Begins an export.
    ///
    /// # Errors
    /// 503 `busy` if there are as many exports as permitted.
    pub fn begin(self: &Arc<Self>) -> Result<ExportSlot, Problem> {
        let add = |running: usize| (running < self.max).then_some(running + 1);
        if self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::unavailable("busy", "Too many exports at once. Try again later.").into());
        }
        Ok(ExportSlot { limiter: Arc::clone(self), is_complete: false })
    }
}

/// A running export.
#[derive(Debug)]
pub struct ExportSlot {
    limiter: Arc<ExportLimiter>,
    is_complete: bool,
}

impl ExportSlot {
    /// Notes that everything was sent.
    pub fn complete(&mut self) {
        self.is_complete = true;
    }
}

impl Drop for ExportSlot {
    fn drop(&mut self) {
        self.limiter.running.fetch_sub(1, Ordering::Relaxed);
        if !self.is_complete {
            self.limiter.aborted.fetch_add(1, Ordering::Relaxed);
        }
    }
}
