//! Write errors: a full disk and a failing device.

use super::*;

/// A writer with space for `room` bytes, which then fails `failures` times and afterwards accepts everything.
struct Disk {
    content: Arc<Mutex<Vec<u8>>>,
    room: usize,
    failures: usize,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.room == 0 {
            if self.failures > 0 {
                self.failures -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room = usize::MAX;
        }
        let taken = bytes.len().min(self.room);
        self.room -= taken;
        self.content.lock().unwrap().extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_drops_and_counts_lines_then_recovers() {
    let counts = Arc::<LogCounters>::default();
    let content = Arc::<Mutex<Vec<u8>>>::default();
    let one = record("1").caller.get().len();
    let disk = Disk { content: Arc::clone(&content), room: one, failures: 3 };
    let mut lines = LineWriter::to_writer(Box::new(disk), Arc::clone(&counts));
    for number in 1..=10 {
        let mut batch = Batch::default();
        batch.push(&line(number), record("").time);
        lines.write(&batch);
    }
    lines.finish();
    let text = String::from_utf8(content.lock().unwrap().clone()).unwrap();
    let (partial, rest) = text.split_once('\n').unwrap();
    assert_eq!(partial.len(), one);
    let lines = parsed(rest);
    let dropped = counts.dropped.load(Ordering::Relaxed);
    assert_eq!(dropped, 3);
    assert_eq!(lines[0]["dropped"], dropped);
    assert_eq!(numbers(&lines[1..]), [4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(counts.written.load(Ordering::Relaxed), 7);
}

#[test]
fn a_partially_written_batch_counts_complete_lines() {
    let counts = Arc::<LogCounters>::default();
    let content = Arc::<Mutex<Vec<u8>>>::default();
    let one = line(1).len();
    // Three and a half lines are written, then one write fails.
    let disk = Disk { content: Arc::clone(&content), room: 3 * one + one / 2, failures: 1 };
    let mut lines = LineWriter::to_writer(Box::new(disk), Arc::clone(&counts));
    let mut batch = Batch::default();
    (1..=9).for_each(|number| batch.push(&line(number), record("").time));
    lines.write(&batch);
    assert_eq!((counts.written.load(Ordering::Relaxed), counts.dropped.load(Ordering::Relaxed)), (3, 6));
    lines.write(&batch);
    lines.finish();
    assert_eq!((counts.written.load(Ordering::Relaxed), counts.dropped.load(Ordering::Relaxed)), (12, 6));
    let text = String::from_utf8(content.lock().unwrap().clone()).unwrap();
    let (first, rest) = text.split_at(3 * one);
    let (partial, rest) = rest.split_once('\n').unwrap();
    assert_eq!((numbers(&parsed(first)), partial.len()), (vec![1, 2, 3], one / 2));
    let rest = parsed(rest);
    assert_eq!(rest[0], json!({"dropped": 6, "time": "2026-01-01T00:00:00.000Z"}));
    assert!(numbers(&rest[1..]).into_iter().eq(1..=9));
}

#[test]
#[cfg(target_os = "linux")]
fn a_failing_device_blocks_no_caller() {
    let log = DecisionLog::open(&Settings { queue_length: 2, ..settings(Path::new("/dev/full")) }).unwrap();
    (1..=1_000).for_each(|number| record_number(&log, number));
    log.close();
    assert_eq!((log.written(), log.dropped()), (0, 1_000));
}
