//! Heads of HTTP requests: any bytes are a head, an incomplete one or refused, and a head ends where it says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_http::REQUEST_HEAD_BYTES_MAX;
use pillion_http::server::request::{Parsed, parse};

fuzz_target!(|data: &[u8]| {
    match parse(data) {
        Parsed::Complete(head) => {
            assert!(head.head_bytes <= data.len() && head.head_bytes <= REQUEST_HEAD_BYTES_MAX);
            // What follows belongs to the body or to the next request.
            assert_eq!(parse(&data[..head.head_bytes]), Parsed::Complete(head.clone()));
            assert_eq!(parse(&data[..head.head_bytes - 1]), Parsed::Partial);
        }
        Parsed::Partial => assert!(data.len() < REQUEST_HEAD_BYTES_MAX),
        Parsed::Refused(status, text) => {
            assert!(text.starts_with(&status.to_string()) && (400..600).contains(&status));
        }
    }
});
