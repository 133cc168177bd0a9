//! Answers of S3 servers and of Azure: any bytes are an answer or an error that is worth another attempt, texts are no longer than what
//! they were read from, and what is escaped as servers do it is read back as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_base::error::{Kind, Result};
use pillion_bucket::azure::xml as azure;
use pillion_bucket::s3::xml;
use pillion_fuzz::Dice;

fn checked<T>(answer: Result<T>) -> Option<T> {
    answer.inspect_err(|err| assert_eq!(err.kind(), Kind::Retry, "{err}")).ok()
}

fn check_any(body: &[u8]) {
    if let Some(page) = checked(xml::listing(body)) {
        let n_bytes: usize = page.keys.iter().chain(&page.prefixes).map(String::len).sum();
        assert!(n_bytes <= body.len(), "{n_bytes} bytes of names in {}", body.len());
        assert!(page.next.is_none_or(|next| next.len() <= body.len()));
    }
    if let Some(page) = checked(xml::parts(body)) {
        assert!(page.parts.len() <= body.len());
        assert!(page.parts.iter().all(|part| !part.tag.starts_with('"') && !part.tag.ends_with('"')));
    }
    if let Some(page) = checked(xml::uploads(body)) {
        assert!(page.uploads.iter().map(|(key, id)| key.len() + id.len()).sum::<usize>() <= body.len());
    }
    if let Some(id) = checked(xml::upload_id(body)) {
        assert!(!id.is_empty() && id.trim() == id);
    }
    assert_ne!(checked(xml::location(body)), Some(String::new()));
    if let Some(page) = checked(azure::listing(body)) {
        assert!(page.names.iter().map(String::len).sum::<usize>() <= body.len());
        assert!(page.next.is_none_or(|next| !next.is_empty() && next.len() <= body.len()));
    }
    if let Some(blocks) = checked(azure::uncommitted(body)) {
        assert!(blocks.iter().map(|(id, _)| id.len()).sum::<usize>() <= body.len());
    }
    if let Some(error) = azure::error(body) {
        assert!(error.code.len() + error.message.len() + error.detail.len() <= body.len());
    }
    if let Some(error) = xml::error(body) {
        // What the reader of the listing refuses as XML holds no error either.
        assert!(xml::first(body, "Nothing").is_none_or(|text| text.len() <= body.len()));
        assert!(error.code.len() + error.message.len() <= body.len());
    }
}

/// As servers escape names with `encoding-type=url`.
fn percent_encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b' ' => "+".to_owned(),
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'.' | b'/' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

fn check_round_trip(mut dice: Dice<'_>) {
    let mode = dice.byte();
    let is_encoded = mode & 1 == 0;
    let escaped = |text: &str| xml::escaped(&if is_encoded { percent_encoded(text) } else { text.to_owned() });
    let (mut keys, mut prefixes) = (Vec::new(), Vec::new());
    let mut body = String::from("<?xml version=\"1.0\"?><p:ListBucketResult xmlns:p='a>b'>\n");
    if is_encoded {
        body.push_str("<EncodingType>url</EncodingType>");
    }
    while !dice.0.is_empty() {
        let step = dice.byte();
        let text = dice.text(usize::from(step >> 2));
        match step & 3 {
            0 => {
                body.push_str(&format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escaped(&text)));
                prefixes.push(text);
            }
            1 if !is_encoded && !text.contains("]]>") => {
                body.push_str(&format!("<p:Contents><Key><![CDATA[{text}]]></Key></p:Contents>"));
                keys.push(text);
            }
            _ => {
                body.push_str(&format!("<Contents><Size>1</Size><Key >{}</Key></Contents>", escaped(&text)));
                keys.push(text);
            }
        }
    }
    let token = dice_token(mode);
    body.push_str(&format!(
        "<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken></p:ListBucketResult>\n",
        xml::escaped(token)
    ));
    let page = xml::listing(body.as_bytes()).unwrap_or_else(|err| panic!("{body}: {err}"));
    assert_eq!((page.keys, page.prefixes), (keys, prefixes));
    assert_eq!(page.next.as_deref(), Some(token));
}

/// Tokens are never encoded, only escaped.
fn dice_token(mode: u8) -> &'static str {
    ["a", "a+b%2F==", "<&>\"", "%"][usize::from(mode >> 1 & 3)]
}

fn check_error(mut dice: Dice<'_>) {
    let len = usize::from(dice.byte());
    let (code, message) = (dice.text(len), dice.text(usize::MAX));
    let body = format!(
        "<Error><Code>{}</Code><Message>{}</Message><RequestId>r</RequestId></Error>",
        xml::escaped(&code),
        xml::escaped(&message)
    );
    let error = xml::error(body.as_bytes()).expect("it is an error");
    assert_eq!((error.code.as_str(), error.message.as_str()), (code.trim(), message.trim()));
    assert_eq!(xml::first(body.as_bytes(), "Message").as_deref(), Some(message.trim()));
}

fuzz_target!(|data: &[u8]| {
    check_any(data);
    check_round_trip(Dice(data));
    check_error(Dice(data));
});
