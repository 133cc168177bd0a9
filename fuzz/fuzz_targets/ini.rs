//! AWS's shared files: any text has sections, and these are the same when they are written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_bucket::s3::ini::{Sections, parse};

fn written(sections: &Sections) -> String {
    let mut text = String::new();
    for (name, values) in sections {
        text.push_str(&format!("[\"{name}\"] ; a comment\n"));
        for (key, value) in values {
            text.push_str(&format!("{key} = {value} # another\n"));
        }
    }
    text
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let sections = parse(&text);
    let mut n_bytes = 0;
    for (name, values) in &sections {
        assert!(!name.contains([']', '\n']), "{name:?}");
        n_bytes += name.len();
        for (key, value) in values {
            assert!(!key.contains(['=', '\n']) && key.trim() == key && key.to_ascii_lowercase() == *key, "{key:?}");
            assert!(!value.contains('\n') && value.trim() == value && !value.starts_with(['#', ';']), "{value:?}");
            n_bytes += key.len() + value.len();
        }
    }
    assert!(n_bytes <= text.len());
    let again = written(&sections);
    assert_eq!(parse(&again), sections, "{again}");
    // With the other ends of lines, and whatever came before the last section.
    assert_eq!(parse(&again.replace('\n', "\r\n")), sections, "{again}");
});
