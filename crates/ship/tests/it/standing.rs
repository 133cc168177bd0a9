//! What the shipper says of itself while it works.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::rig::{Rig, state_with};
use pillion_base::error::Kind;
use pillion_ship::{Stand, Standing};
use pillion_testing::tsdb::{Block, age, ulid};

fn waiting(stand: &Stand) -> Vec<(String, Option<String>)> {
    stand.pending.iter().map(|one| (one.block.ulid.to_string(), one.waits_for.clone())).collect()
}

#[test]
fn what_waits_what_is_set_aside_and_why() {
    let mut rig = Rig::with(|config| config.settle_time = Duration::from_secs(3600));
    for n in [1, 2, 3, 4] {
        rig.tsdb.add(&Block::new(n));
    }
    std::fs::write(rig.tsdb.block_dir(1).join("meta.json"), "{").unwrap();
    age(&rig.tsdb.block_dir(1));
    // As if it was just being copied in.
    let index = std::fs::File::open(rig.tsdb.block_dir(4).join("index")).unwrap();
    index.set_modified(SystemTime::now()).unwrap();
    rig.bucket.fail(&format!("upload {}/index", ulid(3)), Kind::Retry);
    rig.state.publish(state_with(&[]));
    let _ = rig.tick();
    let stand = rig.config.standing.read();
    let labels = Some("the external labels of Prometheus".to_owned());
    let [two, three, four] = [2, 3, 4].map(|n| ulid(n).to_string());
    let settling = Some("its files may still be written".to_owned());
    assert_eq!(waiting(&stand), [(two, labels.clone()), (three.clone(), labels), (four.clone(), settling.clone())]);
    assert_eq!((stand.n_pending, stand.n_quarantined, stand.last_upload), (3, 1, None));
    assert!(stand.pending_bytes > 3 * 3500, "{stand:?}");
    assert_eq!(stand.oldest_end_ms, Some(Block::new(2).max_time_ms));
    assert_eq!(stand.quarantined[0].0, ulid(1).to_string());
    assert!(!stand.quarantined[0].1.is_empty());
    assert_eq!(stand.last_look.unwrap().1, None);

    rig.state.publish(state_with(&[("region", "eu")]));
    let _ = rig.tick();
    let stand = rig.config.standing.read();
    assert_eq!(waiting(&stand), [(three, None), (four, settling)]);
    assert!(stand.last_upload.is_some() && stand.uploading.is_none());
    let why = stand.last_look.unwrap().1.unwrap();
    assert!(why.starts_with(&format!("upload {}: upload index: ", ulid(3))), "{why}");
}

#[test]
fn an_upload_is_seen_to_go_on_and_its_end_too() {
    let seen: Arc<Mutex<Vec<(String, u64, u64)>>> = Arc::default();
    let standing = Standing::default();
    let (told, asked) = (Arc::clone(&seen), standing.clone());
    let mut rig = Rig::with(|config| {
        config.standing = standing.clone();
        // Before each object.
        config.upload_gate = Some(Arc::new(move |_| {
            if let Some(now) = asked.read().uploading {
                told.lock().unwrap().push((now.ulid.to_string(), now.stored_bytes, now.bytes));
            }
            Ok(())
        }));
    });
    rig.tsdb.add(&Block::new(1));
    assert_eq!(rig.clean_tick(), 1);
    let index = std::fs::metadata(rig.object(1, "index")).unwrap().len();
    let (name, all) = (ulid(1).to_string(), 3500 + index);
    let at = |stored: u64| (name.clone(), stored, all);
    assert_eq!(*seen.lock().unwrap(), [at(0), at(3000), at(3500), at(all)]);
    let after = standing.read();
    assert_eq!((after.uploading, after.n_pending), (None, 0));
}
