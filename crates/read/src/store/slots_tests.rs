//! Slots of remote reads, with clients that are as stalled as a test says.

use super::*;
use std::sync::atomic::AtomicBool;

/// A client that is as stalled as a test says.
#[derive(Default)]
struct Fake {
    holder: Holder,
    stalled: AtomicBool,
    gone: AtomicBool,
    said: Mutex<Option<String>>,
}

impl Client for Fake {
    fn holder(&self) -> Holder {
        self.holder
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    fn stalled_for(&self) -> Option<Duration> {
        self.stalled.load(Ordering::SeqCst).then_some(limits::STALLED_AFTER)
    }

    fn give_way(&self, text: &str) {
        *self.said.lock().unwrap() = Some(text.to_owned());
    }
}

fn slots(n_max: usize) -> Slots {
    Slots::new(n_max, &StoreMetrics::default())
}

/// An answer that breaks at its end, if it is to.
struct Answer {
    bytes: io::Cursor<Vec<u8>>,
    breaks: bool,
}

impl Read for Answer {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.bytes.read(out)?;
        if n == 0 && self.breaks { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(n) }
    }
}

fn answer(n: usize, breaks: bool) -> (Vec<u8>, Box<dyn Read + Send>) {
    let bytes: Vec<u8> = (0..n).map(|idx| u8::try_from(idx % 251).unwrap()).collect();
    (bytes.clone(), Box::new(Answer { bytes: io::Cursor::new(bytes), breaks }))
}

#[test]
fn a_stalled_answer_is_put_aside_and_arrives_whole() {
    for breaks in [false, true] {
        let slots = slots(1);
        let (stalled, other) = (Arc::new(Fake::default()), Fake::default());
        let (bytes, live) = answer(300_000, breaks);
        let mut body = slots.wait(&*stalled).unwrap().hold(live, stalled.clone());
        let mut got = vec![0; 1000];
        body.read_exact(&mut got).unwrap();
        stalled.stalled.store(true, Ordering::SeqCst);
        let slot = slots.wait(&other).unwrap();
        let rest = body.read_to_end(&mut got);
        assert_eq!(rest.is_err(), breaks, "{rest:?}");
        assert!(got == bytes);
        assert_eq!(slots.0.lock().open.len(), 1);
        drop((slot, body));
        assert_eq!(slots.0.lock().open.len(), 0);
    }
}

#[test]
fn who_reads_keeps_his_slot_until_the_end() {
    let slots = slots(1);
    let (reading, gone) = (Arc::new(Fake::default()), Fake::default());
    let (bytes, live) = answer(100, false);
    let mut body = slots.wait(&*reading).unwrap().hold(live, reading.clone());
    // Nobody is stalled, so there is no slot; and who waits may go away.
    gone.gone.store(true, Ordering::SeqCst);
    assert_eq!(slots.wait(&gone).err().unwrap().kind(), Kind::Stopped);
    let mut got = Vec::new();
    body.read_to_end(&mut got).unwrap();
    assert_eq!(got, bytes);
    drop(slots.wait(&Fake::default()).unwrap());
    assert_eq!(slots.0.lock().readers.len(), 1);
    drop(body);
    assert_eq!(slots.0.lock().readers.len(), 0);
}

#[test]
fn the_number_of_slots_follows_prometheus() {
    let slots = slots(1);
    let client = Fake::default();
    let enter = |n_max| {
        slots.set_max(n_max);
        slots.wait(&client).unwrap()
    };
    let held = [1, 2, 0, 0].map(enter);
    assert_eq!(slots.0.lock().open.len(), 4);
    drop(held);
    assert_eq!(slots.0.lock().open.len(), 0);
}

#[test]
fn who_holds_fewest_slots_is_next_and_who_holds_most_gives_one_up() {
    let slots = slots(3);
    let of = |address, connection| Holder { address, connection };
    let client = |holder| Arc::new(Fake { holder, stalled: AtomicBool::new(true), ..Fake::default() });
    let (many, few) = (client(of(1, 1)), client(of(2, 1)));
    let bodies = [&many, &many, &few].map(|client| {
        let slot = slots.wait(&**client).unwrap();
        slot.hold(answer(100, false).1, client.clone())
    });
    let mut state = slots.0.lock();
    state.queue.extend([(10, of(1, 1)), (11, of(2, 1)), (12, of(3, 1)), (13, of(3, 1))]);
    assert_eq!(state.first(), Some(12));
    // At one address another connection goes before the one that has slots.
    state.queue = vec![(10, of(1, 1)), (11, of(1, 2))];
    assert_eq!(state.first(), Some(11));
    assert_eq!(state.take_stalled().unwrap().client.holder(), of(1, 1));
    drop(state);
    drop(bodies);
}

#[test]
fn an_answer_without_end_is_not_put_aside_but_ended() {
    let slots = slots(1);
    let stalled = Arc::new(Fake { stalled: AtomicBool::new(true), ..Fake::default() });
    let mut body = slots.wait(&*stalled).unwrap().hold(Box::new(io::repeat(7)), stalled.clone());
    body.read_exact(&mut [0; 10]).unwrap();
    let reader = slots.0.lock().take_stalled().unwrap();
    reader.put_aside();
    let said = stalled.said.lock().unwrap().clone().unwrap();
    assert!(said.contains("too large"), "{said}");
    drop(body);
    assert!(slots.0.lock().open.is_empty());
}
