//! The state of an upload: any bytes are one or none, and what is written of one is read back as it was, for its bucket only.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_fuzz::Dice;
use pillion_ship::Progress;
use serde_json::{Map, Value, json};

/// Gives what is written.
fn check(progress: &Progress, bucket: &str) -> Vec<u8> {
    let written = progress.write(bucket);
    assert_eq!(Progress::parse(&written, bucket).as_ref(), Some(progress));
    assert_eq!(Progress::parse(&written, &format!("{bucket}x")), None);
    // A write that broke off is no state: all but the line's end is needed.
    assert_eq!(Progress::parse(&written[..written.len() - 2], bucket), None);
    written
}

fn number(dice: &mut Dice<'_>) -> u64 {
    dice.bytes(8).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn text(dice: &mut Dice<'_>) -> String {
    let len = usize::from(dice.byte() & 31);
    dice.text(len)
}

/// A state that the input chooses.
fn chosen(dice: &mut Dice<'_>, bucket: &str) -> Value {
    let (mut objects, mut hashes) = (Map::new(), Map::new());
    while !dice.0.is_empty() {
        let step = dice.byte();
        let name = text(dice);
        match step & 3 {
            0 => {
                hashes.insert(name, text(dice).into());
            }
            1 => {
                objects.insert(name, json!({ "size_bytes": number(dice), "tag": text(dice) }));
            }
            _ => {
                let parts = (0..step >> 5).map(|_| json!({ "tag": text(dice), "md5": text(dice) })).collect::<Vec<_>>();
                let (upload_id, part_bytes, size_bytes) = (text(dice), number(dice), number(dice));
                objects.insert(
                    name,
                    json!({
                        "upload_id": upload_id, "part_bytes": part_bytes, "size_bytes": size_bytes, "parts": parts,
                    }),
                );
            }
        }
    }
    json!({ "version": 1, "bucket": bucket, "objects": objects, "sha256": hashes })
}

fuzz_target!(|data: &[u8]| {
    if let Some(progress) = Progress::parse(data, "blocks") {
        check(&progress, "blocks");
    }
    let mut dice = Dice(data);
    let bucket = text(&mut dice);
    let state = chosen(&mut dice, &bucket);
    let progress = Progress::parse(state.to_string().as_bytes(), &bucket).expect("it is a state");
    let written: Value = serde_json::from_slice(&check(&progress, &bucket)).expect("what is written is JSON");
    assert_eq!(written, state);
});
