//! X.509 certificates as strangers make them: what is one ends where it says, and has a validity before it has names.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_http::tls::{subject_alt_names, validity};

fuzz_target!(|data: &[u8]| {
    let (found, names) = (validity(data), subject_alt_names(data));
    if let Some(names) = &names {
        let n_bytes: usize = names.iter().map(String::len).sum();
        // The text of an IPv6 address is longer than its bytes.
        assert!(n_bytes <= 3 * data.len(), "{names:?}");
    }
    if found.is_some() || names.is_some() {
        let longer = [data, &[0]].concat();
        assert_eq!((validity(&longer), subject_alt_names(&longer)), (None, None));
        let shorter = data.split_last().map_or(data, |(_, rest)| rest);
        assert_eq!((validity(shorter), subject_alt_names(shorter)), (None, None));
    }
});
