//! The memory budget for bodies: one limit for the bodies of all requests and responses of the process.

use super::Problem;
use crate::application::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The size up to which the body of a request or a response is exempt from the budget, in bytes. The limit on connections bounds the sum of these bodies, and
/// small requests, the majority, need no shared counter.
pub const BUDGET_EXEMPT_BYTES: usize = 8 * 1024;

/// The memory that all large bodies together may use.
#[derive(Debug)]
pub struct BodyBudget {
    limit: usize,
    used: AtomicUsize,
    refused: AtomicU64,
}

impl BodyBudget {
    /// Creates a budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), refused: AtomicU64::new(0) })
    }

    /// Returns an empty reservation, which can grow.
    pub fn empty_reservation(self: &Arc<Self>) -> Reservation {
        Reservation { budget: Arc::clone(self), bytes: 0 }
    }

    /// Reserves memory until the reservation is dropped.
    ///
    /// # Errors
    /// 503 `busy` if the budget does not have that much left.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, Problem> {
        let mut reservation = self.empty_reservation();
        reservation.grow_to(bytes)?;
        Ok(reservation)
    }

    /// Returns the reserved memory, in bytes.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the number of rejected bodies.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// A part of the budget, returned when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<BodyBudget>,
    bytes: usize,
}

impl Reservation {
    /// Extends the reservation to this size, if it is smaller.
    ///
    /// # Errors
    /// 503 `busy` if the budget does not have that much left. The reservation does not change.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        let additional = bytes.saturating_sub(self.bytes);
        if additional == 0 {
            return Ok(());
        }
        let BodyBudget { limit, used, refused } = &*self.budget;
        let add = |used: usize| used.checked_add(additional).filter(|sum| sum <= limit);
        if used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            refused.fetch_add(1, Ordering::Relaxed);
            let error = Error::unavailable(
                "busy",
                "The service is processing too many large requests. Try again later.",
            );
            return Err(error.into());
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Shrinks the reservation to this size.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.budget.used.fetch_sub(less, Ordering::Relaxed);
        self.bytes -= less;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_reservation_returns_what_it_took() {
        let budget = BodyBudget::new(100);
        let mut first = budget.reserve(60).unwrap();
        assert_eq!(budget.reserve(41).unwrap_err().status.as_u16(), 503);
        let second = budget.reserve(40).unwrap();
        assert!(first.grow_to(61).is_err());
        assert!(first.grow_to(10).is_ok());
        assert_eq!((budget.used(), budget.refused()), (100, 2));
        first.shrink_to(70);
        assert_eq!(budget.used(), 100);
        first.shrink_to(20);
        assert_eq!(budget.used(), 60);
        drop((first, second));
        assert_eq!(budget.used(), 0);
    }
}
