//! What happens to the machine, between two ticks or before an operation within one.

use pillion_base::labels::Labels;
use pillion_base::state::PromState;
use pillion_ship::Ulid;

use super::history::Event;
use super::machine::Machine;
use super::random::Random;
use crate::unsynced::Unsynced;

impl Machine {
    /// Lets happen within a tick what is due.
    pub(super) fn happen(&mut self) {
        self.n_operations += 1;
        while !self.is_dead
            && let Some((at, event)) = self.pending.front().copied()
            && at <= self.n_operations
        {
            self.pending.pop_front();
            let mut random = Random::new(self.random.next());
            self.play(event, &mut random);
        }
    }

    pub(crate) fn play(&mut self, event: Event, random: &mut Random) {
        match event {
            Event::Minutes(minutes) => self.prometheus.advance(i64::from(minutes) * 60_000, random),
            Event::Late => self.prometheus.take_late(random),
            Event::Stale => self.prometheus.cut_stale(random),
            Event::Backfill { is_slow } => self.prometheus.backfill(is_slow, random),
            Event::CleanTombstones => self.prometheus.clean_tombstones(random),
            Event::PrometheusDies => self.prometheus.dies_next = true,
            Event::Relabel => {
                self.prometheus.n_labels += 1;
                self.publish(true);
            }
            Event::ClockJump { minutes } => self.prometheus.now_ms += i64::from(minutes) * 60_000,
            Event::DiskFull(is_full) => self.prometheus.is_full = is_full,
            Event::DiskFault(kind) => self.break_disk(kind, random),
            Event::DiskHeals => self.heal_disk(),
            Event::Bucket(weather) => self.weather = weather,
            Event::BucketCompacts => self.compact_bucket(random),
            Event::BucketCleans => self.clean_bucket(),
            Event::LedgerRemoved => {
                let _ = std::fs::remove_file(self.prometheus.ledger_path());
                self.forget_pins();
            }
            Event::LedgerGarbage => {
                self.forget_pins();
                std::fs::write(self.prometheus.ledger_path(), b"{\"version\": 1,").unwrap();
                self.ledger_is_garbled = true;
            }
            Event::ClaimGarbage => self.garble_claim(random),
            Event::Damage => self.prometheus.damage(random),
            Event::Repair => self.prometheus.repair(true, random),
            Event::Die => self.die(),
            Event::Stop => {
                if let Some(stopper) = &self.stopper {
                    stopper.stop();
                }
            }
            Event::PowerCut { names_too } => {
                self.die();
                self.unsynced.cut_power(names_too);
                self.unsynced = Unsynced::default();
            }
            Event::LabelsUnknown => self.labels_known = false,
        }
    }

    /// What was shipped may be claimed anew, with the labels of that moment.
    fn forget_pins(&mut self) {
        self.unpinned.extend(self.prometheus.live.iter().copied());
    }

    /// The process is dead. What it says from now on, nobody hears.
    fn die(&mut self) {
        self.is_dead = true;
        self.hear();
        self.metrics_are_over();
    }

    pub(crate) fn heal_disk(&mut self) {
        self.prometheus.is_full = false;
        self.faults.clear();
    }

    /// Publishes the external labels, or that they are not known.
    pub(crate) fn publish(&mut self, is_known: bool) {
        self.labels_known = is_known;
        let labels = Labels::new([("region".to_owned(), format!("r{}", self.prometheus.n_labels))]);
        let external_labels = if is_known { labels } else { Labels::default() };
        self.state.publish(PromState { external_labels, ..PromState::unknown(0) });
    }

    fn garble_claim(&mut self, random: &mut Random) {
        let finished: Vec<Ulid> = self.claims().into_iter().filter(|ulid| self.claim_meta(*ulid).exists()).collect();
        if let Some(ulid) = random.pick(&finished) {
            let text = random.pick(&["", "{", "\0\0\0\0", "[]", "{\"version\": 9}"]).unwrap_or("");
            std::fs::write(self.claim_meta(ulid), text).unwrap();
            self.garbled.insert(ulid);
        }
    }
}
